//! Implementation of the hypervisor's `Host` trait for this kernel.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::sync::atomic::{AtomicU64, Ordering};

use hvt_bare::frames::FRAME_SIZE;
use kernel_hvt_glue::{Cpu, Host, Hpa, Hypervisor};

use crate::{cpu, interrupts, memory::FRAMES};

/// Timer tick that ends the time slice of the guest on each CPU.
static SLICE_END: [AtomicU64; cpu::MAX] = [const { AtomicU64::new(u64::MAX) }; cpu::MAX];

/// Sets the time slice of guests on this CPU to this many timer ticks from now.
pub(crate) fn set_time_slice(ticks: u64) {
    SLICE_END[cpu::index() as usize].store(interrupts::ticks().saturating_add(ticks), Ordering::Relaxed);
}

/// Handle of this kernel, a singleton.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel;

// SAFETY: the frame allocator hands out every block once, from memory that the boot loader reported
// as ordinary RAM and that is mapped, write-back, at its physical address in the only address
// space; every CPU has its own index.
unsafe impl Host for Kernel {
    fn allocate(&self, order: u32) -> Option<Hpa> {
        let base = FRAMES.lock().as_mut()?.allocate(order)?;
        let memory = self.phys_to_virt(Hpa(base));
        // SAFETY: the block has just been allocated to this caller, and is mapped.
        unsafe { memory.write_bytes(0, (FRAME_SIZE as usize) << order) };
        Some(Hpa(base))
    }

    unsafe fn free(&self, base: Hpa, order: u32) {
        if let Some(frames) = FRAMES.lock().as_mut() {
            frames.free(base.0, order);
        }
    }

    fn phys_to_virt(&self, hpa: Hpa) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(hpa.0 as usize)
    }

    fn cpu_index(&self) -> u32 {
        cpu::index()
    }

    fn wants_cpu(&self) -> bool {
        interrupts::ticks() >= SLICE_END[cpu::index() as usize].load(Ordering::Relaxed)
    }
}

/// The hypervisor, enabled on this CPU: everything that running a guest requires.
pub(crate) struct Context<'a> {
    pub(crate) hypervisor: &'a Hypervisor<Kernel>,
    pub(crate) cpu: &'a mut Cpu<Kernel>,
}
