//! Guest memory: pages of the monitor, which are pinned, mapped, and released.
//!
//! The second-level page tables are the only list of pinned pages: each page that they map is one
//! reference.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use alloc::sync::Arc;

use hvt_abi::{
    Gpa, GuestRange, Permissions,
    kernel::{KernelError, MemoryMapping, MemoryRange},
};

use super::{
    account::{Account, Charge},
    kernel::{Caller, Kernel, MAP_STEP, refusal},
};
use crate::{
    host::{FRAME_SIZE, Hpa},
    hypervisor::Hypervisor,
    vm::Vm,
};

/// Memory of one guest.
pub(super) struct Space<K: Kernel> {
    kernel: K,
    vm: Vm<K>,
    pinned: Charge,
}

impl<K: Kernel> Space<K> {
    pub(super) fn new(
        kernel: &K,
        hypervisor: &Hypervisor<K>,
        account: &Arc<Account>,
        limit: u64,
    ) -> Result<Self, KernelError> {
        let vm = Vm::new(hypervisor).map_err(refusal)?;
        Ok(Self { kernel: kernel.clone(), vm, pinned: Charge::pinned(account, limit) })
    }

    #[inline]
    pub(super) fn vm(&self) -> &Vm<K> {
        &self.vm
    }

    /// Maps the caller's memory in the guest, up to the limit of one step and up to the first page
    /// that cannot be mapped. Returns the number of bytes mapped.
    pub(super) fn map(&mut self, map: &MemoryMapping, caller: &mut impl Caller<K>) -> Result<u64, KernelError> {
        let MemoryMapping { gpa, address, len, permissions, reserved } = *map;
        let permissions = allowed(permissions)?;
        let range = step(gpa, len, reserved)?;
        if !address.is_multiple_of(FRAME_SIZE) || address.checked_add(len).is_none() {
            return Err(KernelError::BadArgument);
        }
        let mut done = 0;
        while done < range.len() {
            match self.map_run(range, address, done, permissions, caller) {
                Ok(mapped) => done += mapped,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Maps the physically contiguous run that starts `done` bytes into `range`, and returns its
    /// length.
    fn map_run(
        &mut self,
        range: GuestRange,
        address: u64,
        done: u64,
        permissions: Permissions,
        caller: &mut impl Caller<K>,
    ) -> Result<u64, KernelError> {
        let first = Gpa(range.start().0 + done);
        let mut next = address + done;
        let base = self.pin(first, next, caller)?;
        let mut run = Run { base, len: FRAME_SIZE };
        // A page that does not continue the run starts the next run.
        let mut odd = None;
        while done + run.len < range.len() {
            next += FRAME_SIZE;
            match self.pin(Gpa(first.0 + run.len), next, caller) {
                Ok(frame) if frame == run.end() => run.len += FRAME_SIZE,
                Ok(frame) => {
                    odd = Some(frame);
                    break;
                }
                // The next call reports the error, at the start of its range.
                Err(_) => break,
            }
        }
        if let Some(frame) = odd {
            self.unpin(Run { base: frame, len: FRAME_SIZE });
        }
        let mapped = GuestRange::new(first, run.len).ok_or(KernelError::BadArgument).and_then(|range| {
            // SAFETY: the frames are pinned, and are therefore ordinary memory that the monitor may
            // share, until `unpin`.
            unsafe { self.vm.map(range, run.base, permissions) }.map_err(refusal)
        });
        if mapped.is_err() {
            self.unpin(run);
        }
        mapped.map(|()| run.len)
    }

    /// Pins one page, unless its guest address is mapped already.
    fn pin(&mut self, gpa: Gpa, address: u64, caller: &mut impl Caller<K>) -> Result<Hpa, KernelError> {
        if self.vm.translate(gpa).is_some() {
            return Err(KernelError::AlreadyMapped);
        }
        self.pinned.grow(FRAME_SIZE)?;
        caller.pin(address).inspect_err(|_| self.pinned.shrink(FRAME_SIZE))
    }

    /// Releases pages that are no longer mapped.
    fn unpin(&mut self, run: Run) {
        for at in (0..run.len).step_by(FRAME_SIZE as usize) {
            // SAFETY: one reference for each page that `pin` returned. The page tables do not map
            // the page any more, or are about to be dropped, and no virtual CPU with a cached
            // translation runs.
            unsafe { self.kernel.release(run.base.add(at)) };
        }
        self.pinned.shrink(run.len);
    }

    /// Unmaps memory of the guest, up to the limit of one step. Returns the number of bytes
    /// completed.
    pub(super) fn unmap(&mut self, range: &MemoryRange) -> Result<u64, KernelError> {
        if range.permissions != 0 {
            return Err(KernelError::BadArgument);
        }
        let range = step(range.gpa, range.len, range.reserved)?;
        let mut from = range.start();
        while let Some((gpa, run)) = self.next_mapped(from, range.end()) {
            let unmapped = GuestRange::new(gpa, run.len)
                .ok_or(KernelError::BadArgument)
                .and_then(|range| self.vm.unmap(range).map_err(refusal));
            match unmapped {
                Ok(()) => self.unpin(run),
                Err(error) if gpa == range.start() => return Err(error),
                Err(_) => return Ok(gpa.0 - range.start().0),
            }
            from = Gpa(gpa.0 + run.len);
        }
        Ok(range.len())
    }

    /// Returns the first mapped page in `from..end`, with the pages that follow it in the same
    /// leaf.
    fn next_mapped(&self, from: Gpa, end: Gpa) -> Option<(Gpa, Run)> {
        let gpa = self.vm.first_mapped(GuestRange::between(from, end)?)?;
        let translation = self.vm.translate(gpa)?;
        Some((gpa, Run { base: translation.hpa, len: translation.remaining.min(end.0 - gpa.0) }))
    }

    /// Changes the guest's permissions, up to the limit of one step. Returns the number of bytes
    /// completed.
    pub(super) fn protect(&mut self, range: &MemoryRange) -> Result<u64, KernelError> {
        let permissions = allowed(range.permissions)?;
        let range = step(range.gpa, range.len, range.reserved)?;
        self.vm.protect(range, permissions).map_err(refusal)?;
        Ok(range.len())
    }
}

impl<K: Kernel> Drop for Space<K> {
    fn drop(&mut self) {
        let mut from = Gpa(0);
        while let Some((gpa, run)) = self.next_mapped(from, Gpa(u64::MAX)) {
            self.unpin(run);
            from = Gpa(gpa.0 + run.len);
        }
    }
}

/// Consecutive frames.
#[derive(Clone, Copy)]
struct Run {
    base: Hpa,
    /// Length in bytes.
    len: u64,
}

impl Run {
    fn end(self) -> Hpa {
        self.base.add(self.len)
    }
}

/// Returns the part of a range of guest memory that one call handles.
fn step(gpa: Gpa, len: u64, reserved: u32) -> Result<GuestRange, KernelError> {
    let is_whole = gpa.is_aligned(FRAME_SIZE) && len.is_multiple_of(FRAME_SIZE);
    if !is_whole || len == 0 || reserved != 0 || gpa.checked_add(len).is_none() {
        return Err(KernelError::BadArgument);
    }
    GuestRange::new(gpa, len.min(MAP_STEP)).ok_or(KernelError::BadArgument)
}

/// Checks the requested permissions of a page.
fn allowed(bits: u32) -> Result<Permissions, KernelError> {
    let permissions = Permissions::from_bits(bits).filter(|asked| !asked.is_empty()).ok_or(KernelError::BadArgument)?;
    if permissions.contains(Permissions::WRITE | Permissions::EXECUTE) {
        return Err(KernelError::WriteAndExecute);
    }
    Ok(permissions)
}
