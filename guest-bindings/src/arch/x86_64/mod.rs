//! x86_64.

#![expect(unsafe_code, reason = "instructions and tables of the CPU")]

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

/// Layout of the thread-local variables.
pub(crate) const TLS_VARIANT: Variant = Variant::Two;

/// First non-canonical address. FS.base accepts any lower address.
pub(crate) const ADDRESS_END: usize = 1 << 47;

/// Writes a value to a constant port.
///
/// The `mov` of five bytes directly precedes the `out`, as the process backend expects of a
/// hypercall: it replaces the `mov` by a jump, and the `out` then costs no signal.
macro_rules! out {
    ($port:expr, $value:expr) => {
        asm!(
            "mov edx, {port}",
            "out dx, eax",
            port = const $port,
            out("edx") _,
            in("eax") $value,
            options(nostack, preserves_flags),
        )
    };
}

/// Makes hypercall `NUMBER` with the argument at the guest address `argument`.
///
/// # Safety
///
/// The argument must have the type that the hypercall requires. The memory that the tender writes,
/// in the argument and in its buffers, must be valid for writes.
pub(crate) unsafe fn hypercall<const NUMBER: u32>(argument: u32) {
    // SAFETY: The `out` causes an exit. The tender changes no register, and changes only the memory
    // that the caller permits.
    unsafe { out!(HYPERCALL_PORT as u32 + NUMBER, argument) }
}

/// Wakes the tender's side of a ring.
pub(crate) fn kick_ring(ring: u32) {
    // SAFETY: The `out` causes an exit, and the tender changes no register. It accesses only the
    // memory named in the submissions.
    unsafe { out!(RING_KICK_PORT as u32, ring) }
}

/// Reads the cycle counter.
pub(crate) fn cycles() -> u64 {
    // SAFETY: Every x86_64 CPU has the counter.
    unsafe { _rdtsc() }
}

/// Sets FS.base.
///
/// # Safety
///
/// `address` must be a thread pointer as defined by the ELF TLS ABI.
pub(crate) unsafe fn set_thread_pointer(address: usize) {
    let (low, high) = (address as u32, (address as u64 >> 32) as u32);
    // SAFETY: Writing IA32_FS_BASE changes the meaning of FS-relative accesses, which the caller
    // guarantees to be valid.
    unsafe { asm!("wrmsr", in("ecx") msr::FS_BASE, in("eax") low, in("edx") high, options(nostack, preserves_flags)) }
}

/// Returns FS.base, read from the word that it points to.
pub(crate) fn thread_pointer() -> usize {
    let pointer;
    // SAFETY: FS.base is a valid thread pointer from the start of the guest.
    unsafe { asm!("mov {}, fs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly, pure)) }
    pointer
}

/// Stops the CPU in an endless loop.
pub(crate) fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
