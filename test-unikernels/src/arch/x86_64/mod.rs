//! x86_64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

pub mod access;
pub mod raw;

use core::arch::x86_64::_rdtsc;

use guest_bindings::abi::x86_64::Vector;
use guest_bindings::x86_64::interrupt_table;

/// Reads the cycle counter.
pub fn cycles() -> u64 {
    // SAFETY: Every x86_64 CPU has the counter.
    unsafe { _rdtsc() }
}

/// Adds 3 to `sum`, and branches to label 2 while `additions` remain.
macro_rules! add_three {
    () => {
        "add {sum}, 3\ndec {additions}\njnz 2b"
    };
}

/// Sets `handler` as the handler of `vector` in the interrupt descriptor table. It changes only the
/// address in the gate (Intel SDM volume 3, 6.14.1).
///
/// # Safety
///
/// `handler` must end with `iretq`, and must restore or declare every register that it changes.
pub unsafe fn handle(vector: Vector, handler: unsafe extern "C" fn()) {
    let gate = interrupt_table().base as usize + 16 * vector as usize;
    let gate = core::ptr::with_exposed_provenance_mut::<u16>(gate);
    let address = handler as usize;
    // SAFETY: The table belongs to the bindings, which no longer write to it.
    unsafe {
        gate.write_volatile(address as u16);
        gate.add(3).write_volatile((address >> 16) as u16);
        gate.add(4).cast::<u32>().write_volatile((address >> 32) as u32);
    }
}
