//! aarch64.

use core::arch::asm;

use guest_bindings::abi::aarch64::MMIO_BASE;

/// A `brk` of its own, which its trap handler reports.
pub(super) fn trap() {
    // SAFETY: The handler ends the guest.
    unsafe { asm!("brk #0", options(nomem, nostack)) };
}

/// Ends with what no tender allows, with numbers in registers by which they are recognised.
pub(super) fn fault() {
    let doubles = [0.5_f64, -2.25];
    // SAFETY: Nothing answers at this address: the guest ends here.
    unsafe {
        asm!(
            "ldr q7, [{doubles}]", "str w1, [x0]",
            doubles = in(reg) &raw const doubles, in("x0") MMIO_BASE.0 + 0x1000, in("x1") 0xfeed_u64, out("v7") _,
            options(readonly, nostack),
        );
    }
}
