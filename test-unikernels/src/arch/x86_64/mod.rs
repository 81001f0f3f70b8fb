//! x86_64.

pub mod access;
pub mod raw;

use core::arch::x86_64::_rdtsc;

use guest_bindings::abi::x86_64::Vector;
use guest_bindings::x86_64::interrupt_table;

/// The cycle counter.
pub fn cycles() -> u64 {
    // SAFETY: Every x86_64 CPU has it.
    unsafe { _rdtsc() }
}

/// Adds 3 to `sum`, and goes back to label 2 as long as there are `additions`.
macro_rules! add_three {
    () => {
        "add {sum}, 3\ndec {additions}\njnz 2b"
    };
}

/// Has the interrupt table call `handler`: changes the address in the gate and nothing else (Intel SDM volume 3,
/// 6.14.1).
///
/// # Safety
///
/// `handler` ends in `iretq`, and restores or declares every register that it changes.
pub unsafe fn handle(vector: Vector, handler: unsafe extern "C" fn()) {
    let gate = interrupt_table().base as usize + 16 * vector as usize;
    let gate = core::ptr::with_exposed_provenance_mut::<u16>(gate);
    let address = handler as usize;
    // SAFETY: The table is the bindings', which no longer write to it.
    unsafe {
        gate.write_volatile(address as u16);
        gate.add(3).write_volatile((address >> 16) as u16);
        gate.add(4).cast::<u32>().write_volatile((address >> 32) as u32);
    }
}
