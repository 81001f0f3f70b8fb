//! Guest memory for the tender's `GuestMemory` trait: the frames of a virtual machine.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::vec::Vec;
use core::ptr::NonNull;

use hvt_abi::{Gpa, GuestRange, MEM_GRANULE};
use hvt_core::memory::{Chunk, GuestMemory};
use kernel_hvt_glue::{Host, Vm};

use crate::host::Kernel;

/// Kernel addresses of guest memory, by guest address in steps of [`MEM_GRANULE`]. An entry is
/// `None` if the block is not physically contiguous; each access then translates its page.
///
/// The address of memory that a VM owns does not change while the memory is mapped.
pub(crate) struct Blocks(Vec<Option<NonNull<u8>>>);

impl Blocks {
    /// Translates the first `size` bytes of `vm`. The VM must own all of them.
    pub(crate) fn of(vm: &Vm<Kernel>, size: u64) -> Self {
        let block = |at| {
            let translation = vm.translate(Gpa(at)).filter(|translation| translation.remaining >= MEM_GRANULE)?;
            NonNull::new(Kernel.phys_to_virt(translation.hpa))
        };
        Self((0..size).step_by(MEM_GRANULE as usize).map(block).collect())
    }
}

/// Memory of a virtual machine from guest address 0 up to `size`. The VM has mapped and owns all of
/// it.
pub(crate) struct GuestRam<'a> {
    vm: &'a Vm<Kernel>,
    blocks: &'a Blocks,
}

impl<'a> GuestRam<'a> {
    /// Returns the memory of `vm`. `blocks` must be the blocks of the same VM, with no memory
    /// unmapped since.
    pub(crate) fn new(vm: &'a Vm<Kernel>, blocks: &'a Blocks) -> Self {
        Self { vm, blocks }
    }
}

impl GuestMemory for GuestRam<'_> {
    fn size(&self) -> u64 {
        self.blocks.0.len() as u64 * MEM_GRANULE
    }

    #[inline]
    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        if range.is_empty() {
            return None;
        }
        let at = range.start();
        let (start, remaining) = match *self.blocks.0.get((at.0 / MEM_GRANULE) as usize)? {
            Some(block) => {
                let offset = at.0 % MEM_GRANULE;
                // SAFETY: the block is `MEM_GRANULE` bytes long.
                (unsafe { block.add(offset as usize) }, MEM_GRANULE - offset)
            }
            None => {
                let translation = self.vm.translate(at)?;
                (NonNull::new(Kernel.phys_to_virt(translation.hpa))?, translation.remaining)
            }
        };
        // SAFETY: the frames belong to the VM, which is borrowed, and are mapped in the kernel; no
        // reference to guest memory is ever made.
        Some(unsafe { Chunk::new(start, range.len().min(remaining) as usize) })
    }
}
