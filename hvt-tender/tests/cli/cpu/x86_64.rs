//! x86_64.

/// Number of registers at the start of a `g` packet, in the order of the target description: the
/// general-purpose registers and RIP.
pub(crate) const REGISTERS: usize = 17;
/// Index of the program counter.
pub(crate) const PC: usize = 16;
/// Index of the register with a function's first argument: RDI.
pub(crate) const ARGUMENT: usize = 5;

/// Length of the breakpoint instruction in bytes.
pub(crate) const BREAKPOINT: usize = 1;

/// gdb commands for registers specific to this architecture, and their expected output.
pub(crate) const LOOKS: &[&str] =
    &["info registers cs fs_base", "print $xmm0.uint128", "set var $xmm3.uint128 = 77", "print $xmm3.uint128"];
pub(crate) const SEES: &[&str] = &["cs             0x8", "fs_base        0x1", "= 77"];

/// gdb commands for the registers in which the guest `debuggee fault` leaves numbers, in the
/// language C, and their expected output.
pub(crate) const LOOKS_AT_FAULT: &[&str] = &[
    "print $rax",
    "print $xmm7.v2_double",
    "print $st0",
    "printf \"cs=%#x ss=%#x fctrl=%#x mxcsr=%#x\\n\", $cs, $ss, $fctrl, $mxcsr",
];
pub(crate) const SEES_AT_FAULT: &[&str] =
    &["$1 = 65261", "{0.5, -2.25}", "= 1", "cs=0x8 ss=0x10 fctrl=0x37f mxcsr=0x1f80"];

/// Report of the tender on the fault.
pub(crate) const FAULT: &str = "wrote 4 bytes to I/O port 0x4ff";

/// Output of a guest on its own breakpoint instruction.
pub(crate) const OWN_BREAKPOINT: [&str; 2] = ["#BP", "reakpoint"];

/// Undefined instruction as gdb disassembles it.
pub(crate) const UNDEFINED: &str = "ud2";

/// Variable of the bindings that is 0 in the file and not 0 after a guest has reported a trap:
/// name, and type in C.
pub(crate) const VARIABLE: (&str, &str) = ("REPORTING", "unsigned char");

/// Guest that is stopped for a forbidden access, and its arguments.
pub(crate) const STOPPED: &[&str] = &["port", "out32", "0x4ff"];

/// Guest that executes an undefined instruction without a handler, and its arguments.
pub(crate) const WITHOUT_HANDLER: &[&str] = &["cpu", "triple-fault"];

/// Line of `monitor memory` for boot information, manifest and command line.
pub(crate) const BOOT_INFO: &str = "0x00010000-0x00100000 r--";

/// Returns the address of a trap from the guest's report.
pub(crate) fn trap(report: &str) -> Option<u64> {
    let address = report.split("rip=0x").nth(1)?.split(' ').next()?;
    u64::from_str_radix(address, 16).ok()
}
