//! aarch64.

/// Registers at the start of a `g` packet, in the order of the target description: X0 to X30, SP and PC.
pub(crate) const REGISTERS: usize = 33;
/// Which of them is the program counter.
pub(crate) const PC: usize = 32;
/// Which of them is a function's first argument: X0.
pub(crate) const ARGUMENT: usize = 0;

/// Bytes of a breakpoint's instruction.
pub(crate) const BREAKPOINT: usize = 4;

/// What gdb is asked of registers that no other architecture has, and what it says.
pub(crate) const LOOKS: &[&str] = &[
    "info registers cpsr tpidr",
    "print $v0.d.u",
    "set var $v3.d.u[1] = 77",
    "print $v3.d.u[1]",
    "set var $fpsr = 16",
    "info registers fpcr fpsr",
];
pub(crate) const SEES: &[&str] = &["EL=1", "tpidr          0x1", "= 77", "fpcr           0x0", "fpsr           0x10"];

/// Likewise of the registers in which the guest `debuggee fault` leaves numbers, in the language C.
pub(crate) const LOOKS_AT_FAULT: &[&str] =
    &["print $x1", "print $v7.d.f", "printf \"x0=%#lx fpcr=%#x\\n\", $x0, $fpcr", "info registers cpsr"];
pub(crate) const SEES_AT_FAULT: &[&str] = &["$1 = 65261", "{0.5, -2.25}", "x0=0x100001000 fpcr=0", "EL=1"];

/// What the tender says of it.
pub(crate) const FAULT: &str = "wrote 4 bytes to device memory at 0x100001000";

/// What a guest says of a breakpoint of its own.
pub(crate) const OWN_BREAKPOINT: [&str; 2] = ["ESR    : 0x00000000f2000000", "EL1 Synchronous Abort"];

/// An instruction that does not exist, as gdb writes it.
pub(crate) const UNDEFINED: &str = "udf";

/// A variable of the bindings' that is 0 in the file, and not when a guest has reported a trap: its name, and its type in C.
pub(crate) const VARIABLE: (&str, &str) = ("FATAL_STACK_TOP", "unsigned long");

/// A guest that is stopped for what it does, and its arguments.
pub(crate) const STOPPED: &[&str] = &["port", "store32", "0x1000"];

/// One that executes an instruction that does not exist, and has no handler for that.
pub(crate) const WITHOUT_HANDLER: &[&str] = &["cpu", "vectors-of-the-tender"];

/// What `monitor memory` says of boot info, manifest and command line.
pub(crate) const BOOT_INFO: &str = "0x00010000-0x000ff000 r--";

/// Where the guest was that reported a trap.
pub(crate) fn trap(report: &str) -> Option<u64> {
    let address = report.split("PC     : 0x").nth(1)?.lines().next()?;
    u64::from_str_radix(address, 16).ok()
}
