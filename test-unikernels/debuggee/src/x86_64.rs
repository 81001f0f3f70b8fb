//! x86_64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

/// Executes an `int3` that is not the debugger's. The bindings' trap handler reports it.
pub(super) fn trap() {
    // SAFETY: The handler ends the guest.
    unsafe { asm!("int3", options(nomem, nostack)) };
}

/// Ends with an access that every tender forbids, and with recognizable numbers in registers.
pub(super) fn fault() {
    let doubles = [0.5_f64, -2.25];
    // SAFETY: No device has this port, so the guest ends here.
    unsafe {
        asm!(
            "movupd xmm7, [{doubles}]", "fld1", "out dx, eax",
            doubles = in(reg) &raw const doubles, in("dx") 0x4ff_u16, in("eax") 0xfeed_u32, out("xmm7") _,
            out("st(0)") _, options(readonly, nostack),
        );
    }
}
