//! aarch64.
//!
//! Section numbers refer to the *Arm Architecture Reference Manual for A-profile architecture* (Arm
//! ARM, DDI 0487J.a).

#![expect(unsafe_code, reason = "instructions and tables of the CPU")]

pub(super) mod memory;
#[cfg(not(test))]
mod trap;
#[cfg(not(test))]
mod vectors;

use core::arch::asm;

use hvt_abi::aarch64::{HYPERCALL_STRIDE, MMIO_BASE, RING_KICK};

use crate::tls::Variant;

#[cfg(not(test))]
pub(crate) use vectors::install as install_exception_handlers;

/// Layout of the thread-local variables.
pub(crate) const TLS_VARIANT: Variant = Variant::One;

/// First address that the guest's translation tables cannot map. TPIDR_EL0 accepts it, but no
/// variable can lie there.
pub(crate) const ADDRESS_END: usize = 1 << 40;

/// Makes hypercall `NUMBER` with the argument at the guest address `argument`.
///
/// # Safety
///
/// The argument must have the type that the hypercall requires. The memory that the tender writes,
/// in the argument and in its buffers, must be valid for writes.
pub(crate) unsafe fn hypercall<const NUMBER: u32>(argument: u32) {
    let address = MMIO_BASE.0 + u64::from(NUMBER) * HYPERCALL_STRIDE;
    // SAFETY: The store causes an exit. The tender changes no register, and changes only the memory
    // that the caller permits.
    unsafe { store(address, argument) }
}

/// Wakes the tender's side of a ring.
pub(crate) fn kick_ring(ring: u32) {
    // SAFETY: The store causes an exit, and the tender changes no register. It accesses only the
    // memory named in the submissions.
    unsafe { store(RING_KICK.0, ring) }
}

/// Stores to device memory. It is written in assembly because the exit must report address, size
/// and value of the store to the tender. That requires a single register and no write-back (Arm
/// ARM, D17.2.37, ISV).
///
/// # Safety
///
/// The effects of the store in the tender must be valid for the caller.
unsafe fn store(address: u64, value: u32) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) address, options(nostack, preserves_flags)) }
}

/// Reads the cycle counter.
pub(crate) fn cycles() -> u64 {
    let count;
    // SAFETY: Every CPU has the counter. Without a barrier the CPU may read the counter early and
    // may reorder two reads (Arm ARM, D11.2.2).
    unsafe { asm!("isb", "mrs {}, CNTVCT_EL0", out(reg) count, options(nostack, preserves_flags)) }
    count
}

/// Sets TPIDR_EL0.
///
/// # Safety
///
/// `address` must be a thread pointer as defined by the ELF TLS ABI.
pub(crate) unsafe fn set_thread_pointer(address: usize) {
    // SAFETY: The store changes the location of the thread-local variables, which the caller
    // guarantees to be valid.
    unsafe { asm!("msr TPIDR_EL0, {}", in(reg) address, options(nostack, preserves_flags)) }
}

/// Reads TPIDR_EL0.
pub(crate) fn thread_pointer() -> usize {
    let pointer;
    // SAFETY: Reading has no effect.
    unsafe { asm!("mrs {}, TPIDR_EL0", out(reg) pointer, options(nomem, nostack, preserves_flags)) }
    pointer
}

/// Stops the CPU in an endless loop.
pub(crate) fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
