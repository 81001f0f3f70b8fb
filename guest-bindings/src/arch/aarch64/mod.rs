//! aarch64.
//!
//! Sections are those of the *Arm Architecture Reference Manual for A-profile architecture* (Arm ARM, DDI 0487J.a).

pub(super) mod memory;
mod report;
#[cfg(not(test))]
mod trap;
#[cfg(not(test))]
mod vectors;

use core::arch::asm;

use hvt_abi::aarch64::{HYPERCALL_STRIDE, MMIO_BASE, RING_KICK};

use crate::tls::Variant;

#[cfg(not(test))]
pub(crate) use vectors::install as install_exception_handlers;

/// How a thread's variables lie.
pub(crate) const TLS_VARIANT: Variant = Variant::One;

/// First address that the guest's translation tables cannot map: TPIDR_EL0 takes it, but no variable can be there.
pub(crate) const ADDRESS_END: usize = 1 << 40;

/// Makes hypercall `number` with the argument at the guest address `argument`.
///
/// # Safety
///
/// The argument is what the hypercall expects, and what the tender writes, there and where it points to, may be
/// written.
pub(crate) unsafe fn hypercall(number: u32, argument: u32) {
    let address = MMIO_BASE.0 + u64::from(number) * HYPERCALL_STRIDE;
    // SAFETY: The tender takes the store, changes no register, and memory only as the caller promised.
    unsafe { store(address, argument) }
}

/// Wakes the tender's end of a ring.
pub(crate) fn kick_ring(ring: u32) {
    // SAFETY: The tender takes the store, and changes no register. What it does with memory then is up to what was
    // submitted.
    unsafe { store(RING_KICK.0, ring) }
}

/// A store to device memory. In assembly, for it must be one whose exit tells the tender address, size and value: one
/// register, no write-back (Arm ARM, D17.2.37, ISV).
///
/// # Safety
///
/// The caller knows what the tender does then.
unsafe fn store(address: u64, value: u32) {
    // SAFETY: The caller's promise.
    unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) address, options(nostack, preserves_flags)) }
}

/// The cycle counter.
pub(crate) fn cycles() -> u64 {
    let count;
    // SAFETY: Every CPU has it. Without a barrier the CPU may read it early, and twice in the wrong order (Arm ARM,
    // D11.2.2).
    unsafe { asm!("isb", "mrs {}, CNTVCT_EL0", out(reg) count, options(nostack, preserves_flags)) }
    count
}

/// Sets TPIDR_EL0.
///
/// # Safety
///
/// `address` is a thread pointer in the sense of the ELF TLS ABI.
pub(crate) unsafe fn set_thread_pointer(address: usize) {
    // SAFETY: It changes where thread-local variables are, which is the caller's promise.
    unsafe { asm!("msr TPIDR_EL0, {}", in(reg) address, options(nostack, preserves_flags)) }
}

/// TPIDR_EL0.
pub(crate) fn thread_pointer() -> usize {
    let pointer;
    // SAFETY: Reading has no effect.
    unsafe { asm!("mrs {}, TPIDR_EL0", out(reg) pointer, options(nomem, nostack, preserves_flags)) }
    pointer
}

/// Does nothing for good.
pub(crate) fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
