//! aarch64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::abi::aarch64::MMIO_BASE;

/// Executes a `brk` that is not the debugger's. The bindings' trap handler reports it.
pub(super) fn trap() {
    // SAFETY: The handler ends the guest.
    unsafe { asm!("brk #0", options(nomem, nostack)) };
}

/// Ends with an access that every tender forbids, and with recognizable numbers in registers.
pub(super) fn fault() {
    let doubles = [0.5_f64, -2.25];
    // SAFETY: No device has this address, so the guest ends here.
    unsafe {
        asm!(
            "ldr q7, [{doubles}]", "str w1, [x0]",
            doubles = in(reg) &raw const doubles, in("x0") MMIO_BASE.0 + 0x1000, in("x1") 0xfeed_u64, out("v7") _,
            options(readonly, nostack),
        );
    }
}
