//! x86_64.

use core::arch::asm;

/// An `int3` of its own, which its trap handler reports.
pub(super) fn trap() {
    // SAFETY: The handler ends the guest.
    unsafe { asm!("int3", options(nomem, nostack)) };
}

/// Ends with what no tender allows, with numbers in registers by which they are recognised.
pub(super) fn fault() {
    let doubles = [0.5_f64, -2.25];
    // SAFETY: Nothing answers at this port: the guest ends here.
    unsafe {
        asm!(
            "movupd xmm7, [{doubles}]", "fld1", "out dx, eax",
            doubles = in(reg) &raw const doubles, in("dx") 0x4ff_u16, in("eax") 0xfeed_u32, out("xmm7") _,
            out("st(0)") _, options(readonly, nostack),
        );
    }
}
