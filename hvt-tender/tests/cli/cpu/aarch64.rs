//! aarch64.

/// Number of registers at the start of a `g` packet, in the order of the target description: X0 to
/// X30, SP and PC.
pub(crate) const REGISTERS: usize = 33;
/// Index of the program counter.
pub(crate) const PC: usize = 32;
/// Index of the register with a function's first argument: X0.
pub(crate) const ARGUMENT: usize = 0;

/// Length of the breakpoint instruction in bytes.
pub(crate) const BREAKPOINT: usize = 4;

/// gdb commands for registers specific to this architecture, and their expected output.
pub(crate) const LOOKS: &[&str] = &[
    "info registers cpsr tpidr",
    "print $v0.d.u",
    "set var $v3.d.u[1] = 77",
    "print $v3.d.u[1]",
    "set var $fpsr = 16",
    "info registers fpcr fpsr",
];
pub(crate) const SEES: &[&str] = &["EL=1", "tpidr          0x1", "= 77", "fpcr           0x0", "fpsr           0x10"];

/// gdb commands for the registers in which the guest `debuggee fault` leaves numbers, in the
/// language C, and their expected output.
pub(crate) const LOOKS_AT_FAULT: &[&str] =
    &["print $x1", "print $v7.d.f", "printf \"x0=%#lx fpcr=%#x\\n\", $x0, $fpcr", "info registers cpsr"];
pub(crate) const SEES_AT_FAULT: &[&str] = &["$1 = 65261", "{0.5, -2.25}", "x0=0x100001000 fpcr=0", "EL=1"];

/// Report of the tender on the fault.
pub(crate) const FAULT: &str = "wrote 4 bytes to device memory at 0x100001000";

/// Output of a guest on its own breakpoint instruction.
pub(crate) const OWN_BREAKPOINT: [&str; 2] = ["ESR    : 0x00000000f2000000", "EL1 Synchronous Abort"];

/// Undefined instruction as gdb disassembles it.
pub(crate) const UNDEFINED: &str = "udf";

/// Variable of the bindings that is 0 in the file and not 0 after a guest has reported a trap:
/// name, and type in C.
pub(crate) const VARIABLE: (&str, &str) = ("FATAL_STACK_TOP", "unsigned long");

/// Guest that is stopped for a forbidden access, and its arguments.
pub(crate) const STOPPED: &[&str] = &["port", "store32", "0x1000"];

/// Guest that executes an undefined instruction without a handler, and its arguments.
pub(crate) const WITHOUT_HANDLER: &[&str] = &["cpu", "vectors-of-the-tender"];

/// Line of `monitor memory` for boot information, manifest and command line.
pub(crate) const BOOT_INFO: &str = "0x00010000-0x000ff000 r--";

/// Returns the address of a trap from the guest's report.
pub(crate) fn trap(report: &str) -> Option<u64> {
    let address = report.split("PC     : 0x").nth(1)?.lines().next()?;
    u64::from_str_radix(address, 16).ok()
}
