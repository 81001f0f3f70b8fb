//! x86_64.

#[cfg(not(test))]
mod descriptors;
pub(super) mod memory;
#[cfg(not(test))]
mod trap;

use core::arch::asm;
use core::arch::x86_64::_rdtsc;

use hvt_abi::x86_64::{HYPERCALL_PORT, RING_KICK_PORT, msr};

use crate::tls::Variant;

#[cfg(not(test))]
pub(crate) use descriptors::{install as install_exception_handlers, interrupt_table};

/// How a thread's variables lie.
pub(crate) const TLS_VARIANT: Variant = Variant::Two;

/// First address that is not canonical: FS.base can be anything below.
pub(crate) const ADDRESS_END: usize = 1 << 47;

/// Makes hypercall `number` with the argument at the guest address `argument`.
///
/// # Safety
///
/// The argument is what the hypercall expects, and what the tender writes, there and where it points to, may be
/// written.
pub(crate) unsafe fn hypercall(number: u32, argument: u32) {
    let port = HYPERCALL_PORT + number as u16;
    // SAFETY: The tender takes the `out`, changes no register, and memory only as the caller promised.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") argument, options(nostack, preserves_flags)) }
}

/// Wakes the tender's end of a ring.
pub(crate) fn kick_ring(ring: u32) {
    // SAFETY: The tender takes the `out`, and changes no register. What it does with memory then is up to what was
    // submitted.
    unsafe { asm!("out dx, eax", in("dx") RING_KICK_PORT, in("eax") ring, options(nostack, preserves_flags)) }
}

/// The cycle counter.
pub(crate) fn cycles() -> u64 {
    // SAFETY: Every x86_64 CPU has it.
    unsafe { _rdtsc() }
}

/// Loads FS.base.
///
/// # Safety
///
/// `address` is a thread pointer in the sense of the ELF TLS ABI.
pub(crate) unsafe fn set_thread_pointer(address: usize) {
    let (low, high) = (address as u32, (address as u64 >> 32) as u32);
    // SAFETY: Writing IA32_FS_BASE changes what FS-relative accesses mean, which is the caller's promise.
    unsafe { asm!("wrmsr", in("ecx") msr::FS_BASE, in("eax") low, in("edx") high, options(nostack, preserves_flags)) }
}

/// FS.base, which the word it points to holds.
pub(crate) fn thread_pointer() -> usize {
    let pointer;
    // SAFETY: From the start on FS.base is a thread pointer.
    unsafe { asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly, pure)) }
    pointer
}

/// Does nothing for good.
pub(crate) fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
