//! A guest's address space and the memory in it.

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

/// The largest block of frames that [`Vm::allocate`] asks the kernel for: 1 GiB.
const LARGEST_ORDER: u32 = 18;

/// Numbers for VMs; 0 is none.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A virtual machine: an address space and the memory in it.
///
/// While one of its virtual CPUs runs, the `Vm` is borrowed; so nothing can be unmapped under a running guest, and what
/// has become stale is flushed when a virtual CPU is next bound.
pub struct Vm<H: Host, A: Arch<H> = native::Machine<H>> {
    pub(crate) shared: Arc<Shared<H, A>>,
    tables: Box<dyn AddressSpace>,
    /// The frames that [`Vm::allocate`] took, by the guest address they are mapped at. After `tables`: dropped later.
    backing: BTreeMap<u64, Frames<H>>,
    id: u64,
    epoch: u64,
}

impl<H: Host, A: Arch<H>> Vm<H, A> {
    /// An empty address space.
    ///
    /// # Errors
    /// No frame for its first table.
    pub fn new(hypervisor: &Hypervisor<H, A>) -> Result<Self, OutOfMemory> {
        let shared = hypervisor.shared.clone();
        let tables = shared.arch.new_address_space(&shared.host)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { shared, tables, backing: BTreeMap::new(), id, epoch: 0 })
    }

    /// Gives the guest zeroed memory of the kernel's at `range`, in blocks as large as alignment and the kernel's supply
    /// allow. The frames return to the kernel when all that a block is mapped at has been unmapped, or with the `Vm`.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed.
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

    /// Undoes the blocks that were allocated from `start` up to `end`.
    fn take_back(&mut self, start: u64, end: u64) {
        let mut undone = self.backing.split_off(&start);
        self.backing.append(&mut undone.split_off(&end));
        // Blocks begin and end where leaves do, so that nothing has to be split.
        if let Some(Ok(stale)) = GuestRange::between(Gpa(start), Gpa(end)).map(|range| self.tables.unmap(range)) {
            note(&mut self.epoch, stale);
        }
    }

    /// Maps one block at `gpa` and returns its size. `largest` is the largest order that may be worth a try.
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

    /// Shows the guest, at `range`, memory that belongs to somebody else, physically contiguous from `hpa` on.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed.
    ///
    /// # Safety
    /// The memory is ordinary write-back memory that [`Host::phys_to_virt`] shows. Until it is unmapped or the `Vm` is
    /// dropped, guest and monitor may read it, and write it if `permissions` ever say so; no Rust reference to it exists
    /// meanwhile.
    pub unsafe fn map(&mut self, range: GuestRange, hpa: Hpa, permissions: Permissions) -> Result<(), MapError> {
        self.tables.map(range, hpa, permissions)
    }

    /// Changes what the guest may do in `range`, all of which must be mapped.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed.
    pub fn protect(&mut self, range: GuestRange, permissions: Permissions) -> Result<(), MapError> {
        let stale = self.tables.protect(range, permissions)?;
        note(&mut self.epoch, stale);
        Ok(())
    }

    /// Takes the memory in `range` away from the guest; what is not mapped stays so.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed.
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

    /// Where `gpa` leads, if it is mapped.
    #[must_use]
    #[inline]
    pub fn translate(&self, gpa: Gpa) -> Option<Translation> {
        self.tables.translate(gpa)
    }

    /// Copies guest memory at `gpa` out, whatever the guest's permissions there.
    ///
    /// # Errors
    /// The first address that is not mapped; the bytes before it have been copied.
    #[inline]
    pub fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), AccessError> {
        self.chunks(gpa, to.len(), |chunk, at| {
            let to = &mut to[at..at + chunk.len];
            // SAFETY: the chunk is mapped memory; nobody but guest and monitor uses it.
            unsafe { memory::copy_out(chunk.start, to) };
        })
    }

    /// Copies `from` into guest memory at `gpa`, whatever the guest's permissions there.
    ///
    /// # Errors
    /// The first address that is not mapped; the bytes before it have been copied.
    #[inline]
    pub fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), AccessError> {
        self.chunks(gpa, from.len(), |chunk, at| {
            // SAFETY: the chunk is mapped memory; nobody but guest and monitor uses it.
            unsafe { memory::copy_in(&from[at..at + chunk.len], chunk.start) };
        })
    }

    /// Zeroes guest memory, whatever the guest's permissions there.
    ///
    /// # Errors
    /// The first address that is not mapped; the bytes before it are zero.
    pub fn zero(&self, range: GuestRange) -> Result<(), AccessError> {
        let len = usize::try_from(range.len()).map_err(|_| AccessError(range.end()))?;
        self.chunks(range.start(), len, |chunk, _| {
            // SAFETY: the chunk is mapped memory; nobody but guest and monitor uses it.
            unsafe { memory::zero(chunk.start, chunk.len) };
        })
    }

    /// The first address in `range` that is mapped.
    #[must_use]
    pub fn first_mapped(&self, range: GuestRange) -> Option<Gpa> {
        self.tables.first_mapped(range)
    }

    /// Calls `visit` for every contiguous piece of `len` bytes at `gpa`, with its distance from `gpa`.
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

    /// The root of the second-level page tables.
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

/// Bytes of guest memory where the kernel sees them.
struct Chunk {
    start: *mut u8,
    len: usize,
}

/// Stale translations are flushed when a virtual CPU is bound and finds another epoch than last time.
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
