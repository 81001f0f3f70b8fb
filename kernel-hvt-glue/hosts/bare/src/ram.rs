//! Guest memory as the tender's rooms see it: the frames of a virtual machine.

use alloc::vec::Vec;
use core::ptr::NonNull;

use hvt_abi::{Gpa, GuestRange, MEM_GRANULE};
use hvt_core::memory::{Chunk, GuestMemory};
use kernel_hvt_glue::{Host, Vm};

use crate::host::Kernel;

/// Where the kernel sees guest memory, by guest address in steps of [`MEM_GRANULE`]; `None` where that much is not
/// physically contiguous, and every page has to be asked for.
///
/// Memory that a machine owns stays where it is for as long as it is mapped.
pub(crate) struct Blocks(Vec<Option<NonNull<u8>>>);

impl Blocks {
    /// Looks at the first `size` bytes of `vm`, all of which it owns.
    pub(crate) fn of(vm: &Vm<Kernel>, size: u64) -> Self {
        let block = |at| {
            let translation = vm.translate(Gpa(at)).filter(|translation| translation.remaining >= MEM_GRANULE)?;
            NonNull::new(Kernel.phys_to_virt(translation.hpa))
        };
        Self((0..size).step_by(MEM_GRANULE as usize).map(block).collect())
    }
}

/// The memory of a virtual machine from guest address 0 up to `size`, all of it mapped and its own.
pub(crate) struct GuestRam<'a> {
    vm: &'a Vm<Kernel>,
    blocks: &'a Blocks,
}

impl<'a> GuestRam<'a> {
    /// The memory of `vm` that `blocks` was made of; nothing of it has been unmapped since.
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
                // SAFETY: the block is that long.
                (unsafe { block.add(offset as usize) }, MEM_GRANULE - offset)
            }
            None => {
                let translation = self.vm.translate(at)?;
                (NonNull::new(Kernel.phys_to_virt(translation.hpa))?, translation.remaining)
            }
        };
        // SAFETY: the frames belong to the machine, which is borrowed, and are mapped in the kernel; no reference to
        // guest memory is ever made.
        Some(unsafe { Chunk::new(start, range.len().min(remaining) as usize) })
    }
}
