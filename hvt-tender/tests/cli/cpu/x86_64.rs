//! x86_64.

/// Registers at the start of a `g` packet, in the order of the target description: the general ones, and RIP.
pub(crate) const REGISTERS: usize = 17;
/// Which of them is the program counter.
pub(crate) const PC: usize = 16;
/// Which of them is a function's first argument: RDI.
pub(crate) const ARGUMENT: usize = 5;

/// Bytes of a breakpoint's instruction.
pub(crate) const BREAKPOINT: usize = 1;

/// What gdb is asked of registers that no other architecture has, and what it says.
pub(crate) const LOOKS: &[&str] =
    &["info registers cs fs_base", "print $xmm0.uint128", "set var $xmm3.uint128 = 77", "print $xmm3.uint128"];
pub(crate) const SEES: &[&str] = &["cs             0x8", "fs_base        0x1", "= 77"];

/// Likewise of the registers in which the guest `debuggee fault` leaves numbers, in the language C.
pub(crate) const LOOKS_AT_FAULT: &[&str] = &[
    "print $rax",
    "print $xmm7.v2_double",
    "print $st0",
    "printf \"cs=%#x ss=%#x fctrl=%#x mxcsr=%#x\\n\", $cs, $ss, $fctrl, $mxcsr",
];
pub(crate) const SEES_AT_FAULT: &[&str] =
    &["$1 = 65261", "{0.5, -2.25}", "= 1", "cs=0x8 ss=0x10 fctrl=0x37f mxcsr=0x1f80"];

/// What the tender says of it.
pub(crate) const FAULT: &str = "wrote 4 bytes to I/O port 0x4ff";

/// What a guest says of a breakpoint of its own.
pub(crate) const OWN_BREAKPOINT: [&str; 2] = ["#BP", "reakpoint"];

/// An instruction that does not exist, as gdb writes it.
pub(crate) const UNDEFINED: &str = "ud2";

/// A variable of the bindings' that is 0 in the file, and not when a guest has reported a trap: its name, and its type in C.
pub(crate) const VARIABLE: (&str, &str) = ("REPORTING", "unsigned char");

/// A guest that is stopped for what it does, and its arguments.
pub(crate) const STOPPED: &[&str] = &["port", "out32", "0x4ff"];

/// One that executes an instruction that does not exist, and has no handler for that.
pub(crate) const WITHOUT_HANDLER: &[&str] = &["cpu", "triple-fault"];

/// What `monitor memory` says of boot info, manifest and command line.
pub(crate) const BOOT_INFO: &str = "0x00010000-0x00100000 r--";

/// Where the guest was that reported a trap.
pub(crate) fn trap(report: &str) -> Option<u64> {
    let address = report.split("rip=0x").nth(1)?.split(' ').next()?;
    u64::from_str_radix(address, 16).ok()
}
