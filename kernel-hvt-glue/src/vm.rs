//! Virtual machines: a guest's address space and its memory.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use hvt_abi::{Gpa, GuestRange, Permissions};

use crate::{
    arch::Arch,
    host::{FRAME_SIZE, Frames, Host, Hpa, OutOfMemory},
    hypervisor::{Hypervisor, Shared},
    memory::{self, AccessError, ReadMemory},
    native,
    paging::{AddressSpace, Invalidation, MapError, Translation},
};

/// Largest block of frames that [`Vm::allocate`] requests from the kernel: 1 GiB.
const LARGEST_ORDER: u32 = 18;

/// Next number of a VM. 0 stands for no VM.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Virtual machine: an address space and its memory.
///
/// A `Vm` is borrowed while one of its virtual CPUs is bound. So no memory can be unmapped under a
/// running guest, and stale translations are flushed when a virtual CPU is next bound.
pub struct Vm<H: Host, A: Arch<H> = native::Machine<H>> {
    pub(crate) shared: Arc<Shared<H, A>>,
    tables: Box<dyn AddressSpace>,
    /// Frames from [`Vm::allocate`], by the guest address of their mapping. The field follows
    /// `tables`, so the frames are dropped after the tables.
    backing: BTreeMap<u64, Frames<H>>,
    id: u64,
    epoch: u64,
}

impl<H: Host, A: Arch<H>> Vm<H, A> {
    /// Creates a VM with an empty address space.
    ///
    /// # Errors
    /// Returns [`OutOfMemory`] if the kernel has no frame for the root table.
    pub fn new(hypervisor: &Hypervisor<H, A>) -> Result<Self, OutOfMemory> {
        let shared = hypervisor.shared.clone();
        let tables = shared.arch.new_address_space(&shared.host)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { shared, tables, backing: BTreeMap::new(), id, epoch: 0 })
    }

    /// Allocates zeroed memory of the kernel for the guest and maps it at `range`. The blocks are
    /// as large as their alignment and the kernel's free frames allow. The frames of a block return
    /// to the kernel once the whole block has been unmapped, or when the `Vm` is dropped.
    ///
    /// # Errors
    /// Returns [`MapError::AlreadyMapped`] if part of the range is mapped,
    /// [`MapError::OutOfMemory`] if the kernel has too few frames, or another [`MapError`] if an
    /// address is invalid. Nothing has changed then.
    pub fn allocate(&mut self, range: GuestRange, permissions: Permissions) -> Result<(), MapError> {
        let (start, end) = (range.start().0, range.end().0);
        let mut largest = LARGEST_ORDER;
        let mut gpa = start;
        while gpa < end {
            if let Err(error) = self.allocate_block(gpa, end, &mut largest, permissions).map(|size| gpa += size) {
                self.take_back(start, gpa);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Frees the blocks allocated from `start` up to `end`.
    fn take_back(&mut self, start: u64, end: u64) {
        let mut undone = self.backing.split_off(&start);
        self.backing.append(&mut undone.split_off(&end));
        // Blocks start and end at boundaries of leaves, so no leaf has to be split.
        if let Some(Ok(stale)) = GuestRange::between(Gpa(start), Gpa(end)).map(|range| self.tables.unmap(range)) {
            note(&mut self.epoch, stale);
        }
    }

    /// Maps one block at `gpa` and returns its size. `largest` is the largest order to try.
    fn allocate_block(
        &mut self,
        gpa: u64,
        end: u64,
        largest: &mut u32,
        permissions: Permissions,
    ) -> Result<u64, MapError> {
        let fits = |order: &u32| gpa.is_multiple_of(FRAME_SIZE << order) && FRAME_SIZE << order <= end - gpa;
        let order = (0..=*largest).rev().find(fits).ok_or(MapError::Unaligned(Gpa(gpa)))?;
        let frames = (0..=order)
            .rev()
            .find_map(|order| {
                let frames = Frames::allocate(&self.shared.host, order).ok();
                if frames.is_none() {
                    *largest = order.saturating_sub(1);
                }
                frames
            })
            .ok_or(OutOfMemory)?;
        let size = frames.size();
        let range = GuestRange::new(Gpa(gpa), size).ok_or(MapError::OutOfRange(Gpa(gpa)))?;
        self.tables.map(range, frames.base(), permissions)?;
        self.backing.insert(gpa, frames);
        Ok(size)
    }

    /// Maps memory of another owner, physically contiguous from `hpa` on, at `range`.
    ///
    /// # Errors
    /// Returns [`MapError::AlreadyMapped`] if part of the range is mapped, or another [`MapError`]
    /// if an address is invalid or no frame is free. Nothing has changed then.
    ///
    /// # Safety
    /// - The memory must be ordinary write-back memory to which [`Host::phys_to_virt`] applies.
    /// - Until it is unmapped or the `Vm` is dropped, guest and monitor may read it, and may write
    ///   it if its permissions ever include writing. No Rust reference to it may exist during that
    ///   time.
    pub unsafe fn map(&mut self, range: GuestRange, hpa: Hpa, permissions: Permissions) -> Result<(), MapError> {
        self.tables.map(range, hpa, permissions)
    }

    /// Changes the guest's permissions in `range`. The whole range must be mapped.
    ///
    /// # Errors
    /// Returns [`MapError::NotMapped`] if part of the range is not mapped, or another [`MapError`]
    /// if an address is invalid or no frame is free. Nothing has changed then.
    pub fn protect(&mut self, range: GuestRange, permissions: Permissions) -> Result<(), MapError> {
        let stale = self.tables.protect(range, permissions)?;
        note(&mut self.epoch, stale);
        Ok(())
    }

    /// Unmaps the memory in `range`. Parts of the range may be unmapped already.
    ///
    /// # Errors
    /// Returns [`MapError::OutOfMemory`] if a page must be split and no frame is free, or another
    /// [`MapError`] if an address is invalid. Nothing has changed then.
    pub fn unmap(&mut self, range: GuestRange) -> Result<(), MapError> {
        let stale = self.tables.unmap(range)?;
        note(&mut self.epoch, stale);
        let (start, end) = (range.start().0, range.end().0);
        let first = self.backing.range(..start).next_back().map_or(start, |(&gpa, _)| gpa);
        let gone = |(&gpa, frames): (&u64, &Frames<H>)| {
            GuestRange::new(Gpa(gpa), frames.size())
                .is_some_and(|block| self.tables.first_mapped(block).is_none())
                .then_some(gpa)
        };
        let gone: Vec<u64> = self.backing.range(first..end).filter_map(gone).collect();
        for gpa in gone {
            self.backing.remove(&gpa);
        }
        Ok(())
    }

    /// Returns the translation of `gpa`, or `None` if the address is not mapped.
    #[must_use]
    #[inline]
    pub fn translate(&self, gpa: Gpa) -> Option<Translation> {
        self.tables.translate(gpa)
    }

    /// Copies guest memory at `gpa` to `to`, regardless of the guest's permissions.
    ///
    /// # Errors
    /// Returns [`AccessError`] with the first address that is not mapped. The bytes before it have
    /// been copied.
    #[inline]
    pub fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), AccessError> {
        self.chunks(gpa, to.len(), |chunk, at| {
            let to = &mut to[at..at + chunk.len];
            // SAFETY: the chunk is mapped memory, and only guest and monitor access it.
            unsafe { memory::copy_out(chunk.start, to) };
        })
    }

    /// Copies `from` into guest memory at `gpa`, regardless of the guest's permissions.
    ///
    /// # Errors
    /// Returns [`AccessError`] with the first address that is not mapped. The bytes before it have
    /// been copied.
    #[inline]
    pub fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), AccessError> {
        self.chunks(gpa, from.len(), |chunk, at| {
            // SAFETY: the chunk is mapped memory, and only guest and monitor access it.
            unsafe { memory::copy_in(&from[at..at + chunk.len], chunk.start) };
        })
    }

    /// Zeroes guest memory, regardless of the guest's permissions.
    ///
    /// # Errors
    /// Returns [`AccessError`] with the first address that is not mapped. The bytes before it are
    /// zero.
    pub fn zero(&self, range: GuestRange) -> Result<(), AccessError> {
        let len = usize::try_from(range.len()).map_err(|_| AccessError(range.end()))?;
        self.chunks(range.start(), len, |chunk, _| {
            // SAFETY: the chunk is mapped memory, and only guest and monitor access it.
            unsafe { memory::zero(chunk.start, chunk.len) };
        })
    }

    /// Returns the first mapped address in `range`.
    #[must_use]
    pub fn first_mapped(&self, range: GuestRange) -> Option<Gpa> {
        self.tables.first_mapped(range)
    }

    /// Calls `visit` for every contiguous chunk of the `len` bytes at `gpa`, with its offset from
    /// `gpa`.
    #[inline]
    fn chunks(&self, gpa: Gpa, len: usize, mut visit: impl FnMut(Chunk, usize)) -> Result<(), AccessError> {
        let mut done = 0;
        while done < len {
            let here = Gpa(gpa.0.wrapping_add(done as u64));
            let Translation { hpa, remaining, .. } = self.tables.translate(here).ok_or(AccessError(here))?;
            let offset = (hpa.0 % FRAME_SIZE) as usize;
            let frame = self.shared.host.phys_to_virt(Hpa(hpa.0 - offset as u64));
            let part = (len - done).min(usize::try_from(remaining).unwrap_or(usize::MAX));
            visit(Chunk { start: frame.wrapping_add(offset), len: part }, done);
            done += part;
        }
        Ok(())
    }

    /// Returns the root of the second-level page tables.
    pub(crate) fn root(&self) -> Hpa {
        self.tables.root()
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Contiguous guest memory, at its kernel address.
struct Chunk {
    start: *mut u8,
    len: usize,
}

/// Increments the epoch if translations have become stale. They are flushed when a virtual CPU is
/// bound next and its epoch is an older one.
fn note(epoch: &mut u64, stale: Invalidation) {
    if stale.range().is_some() {
        *epoch += 1;
    }
}

impl<H: Host, A: Arch<H>> ReadMemory for Vm<H, A> {
    fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), AccessError> {
        Self::read(self, gpa, to)
    }
}

impl<H: Host, A: Arch<H>> fmt::Debug for Vm<H, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("id", &self.id).field("blocks", &self.backing.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
