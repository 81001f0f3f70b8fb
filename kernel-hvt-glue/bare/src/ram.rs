//! Guest memory as the tender's rooms see it: the frames of a virtual machine.

use core::ptr::NonNull;

use hvt_abi::GuestRange;
use hvt_tender::memory::{Chunk, GuestMemory};
use kernel_hvt_glue::{Host, Vm};

use crate::host::Kernel;

/// The memory of a virtual machine from guest address 0 up to `size`, all of it mapped.
pub(crate) struct GuestRam<'a> {
    vm: &'a Vm<Kernel>,
    size: u64,
}

impl<'a> GuestRam<'a> {
    /// The first `size` bytes of `vm`'s memory, which it owns.
    pub(crate) fn new(vm: &'a Vm<Kernel>, size: u64) -> Self {
        Self { vm, size }
    }
}

impl GuestMemory for GuestRam<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        if range.is_empty() || range.start().0 >= self.size {
            return None;
        }
        let translation = self.vm.translate(range.start())?;
        let len = range.len().min(translation.remaining).min(self.size - range.start().0);
        let start = NonNull::new(Kernel.phys_to_virt(translation.hpa))?;
        // SAFETY: the frames belong to the machine, which is borrowed, and are mapped in the host; no reference to guest memory is
        // ever made.
        Some(unsafe { Chunk::new(start, len as usize) })
    }
}
