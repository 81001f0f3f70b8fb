//! Exceptions: names, entry points, and the report that terminates the guest.

#![expect(unsafe_code, reason = "instructions and tables of the CPU")]

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::Gpa;
use hvt_abi::x86_64::Vector;

use crate::exit::{self, ExitStatus};
use crate::println;

/// Number of vectors reserved for exceptions (SDM 6.3.1).
pub(super) const VECTORS: usize = 32;

/// Names of the exceptions in the vendors' manuals.
const NAMES: [&str; VECTORS] = [
    "#DE", "#DB", "#NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#9", "#TS", "#NP", "#SS", "#GP", "#PF", "#15",
    "#MF", "#AC", "#MC", "#XM", "#VE", "#CP", "#22", "#23", "#24", "#25", "#26", "#27", "#HV", "#VC", "#SX", "#31",
];

/// State on the stack when a handler runs. A tender that dumps core finds this structure through
/// the halt cookie.
#[repr(C)]
struct TrapFrame {
    cr2: u64,
    /// Error code of the exception, or 0 if the CPU pushes none.
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Returns `true` if the exception can occur while another exception is being handled.
pub(super) const fn hits_anywhere(vector: usize) -> bool {
    const NMI: usize = 2;
    vector == NMI || vector == Vector::DoubleFault as usize
}

/// Returns the address of the handler of a vector.
pub(super) fn entry(vector: usize) -> usize {
    ENTRIES[vector] as usize
}

/// Entry of an exception without error code. It pushes a zero in place of the code.
#[unsafe(naked)]
unsafe extern "C" fn without_code<const VECTOR: u32>() {
    naked_asm!("push 0", "mov edi, {vector}", "jmp {common}", vector = const VECTOR, common = sym common)
}

/// Entry of an exception with error code.
#[unsafe(naked)]
unsafe extern "C" fn with_code<const VECTOR: u32>() {
    naked_asm!("mov edi, {vector}", "jmp {common}", vector = const VECTOR, common = sym common)
}

/// Completes the [`TrapFrame`] and calls [`report`] with the calling convention of the System V
/// ABI. No register is restored because the report does not return.
#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        "mov rsi, cr2",
        "push rsi",
        "mov rsi, rsp",
        "cld",
        "and rsp, -16",
        "call {report}",
        "ud2",
        report = sym report,
    )
}

macro_rules! entries {
    ($($handler:ident $vector:literal),* $(,)?) => { [$($handler::<$vector>),*] };
}

/// Handlers of the vectors. Vectors with an error code: SDM 6.15 and AMD APM volume 2, 8.2.
static ENTRIES: [unsafe extern "C" fn(); VECTORS] = entries![
    without_code 0, without_code 1, without_code 2, without_code 3, without_code 4, without_code 5, without_code 6,
    without_code 7, with_code 8, without_code 9, with_code 10, with_code 11, with_code 12, with_code 13, with_code 14,
    without_code 15, without_code 16, with_code 17, without_code 18, without_code 19, without_code 20, with_code 21,
    without_code 22, without_code 23, without_code 24, without_code 25, without_code 26, without_code 27,
    without_code 28, with_code 29, with_code 30, without_code 31,
];

/// Reports the exception and terminates the guest.
extern "C" fn report(vector: u32, frame: &TrapFrame) -> ! {
    static REPORTING: AtomicBool = AtomicBool::new(false);
    if !REPORTING.swap(true, Ordering::Relaxed) {
        let TrapFrame { cr2, error_code, rip, rflags, rsp, .. } = frame;
        let name = NAMES[vector as usize % VECTORS];
        println!("Solo5: trap: type={name} ec={error_code:#x} rip={rip:#x} rsp={rsp:#x} rflags={rflags:#x}");
        if vector == Vector::PageFault as u32 {
            println!("Solo5: trap: cr2={cr2:#x}");
        }
        println!("Solo5: ABORT: fatal trap");
    }
    exit::halt(ExitStatus::ABORT, Gpa((&raw const *frame).expose_provenance() as u64))
}
