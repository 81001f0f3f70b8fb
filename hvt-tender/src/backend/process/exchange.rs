//! The pages that tender and child share.
//!
//! One sealed memfd: the [stub](super::stub) page, then the exchange pages: a [`Header`] page and the child's signal
//! stack. The kernel writes the guest's registers onto that stack when it delivers a signal, and reads them
//! back at `rt_sigreturn`, so the tender finds and changes them there without a copy.
//!
//! The guest can write the exchange pages at any time. Everything read from them is an allegation: it is bounds-checked
//! here, and no value found there can do more than the guest could do to itself anyway.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

use hvt_abi::{Gpa, PAGE_SIZE};

use super::protocol::{EXCHANGE_ADDRESS, Header};
use super::stub;
use crate::memory::{GuestMemory, MappedMemory};

/// The shared pages, mapped in the tender.
#[derive(Debug)]
pub(super) struct Exchange {
    memory: MappedMemory,
    size: u64,
}

impl Exchange {
    /// Makes the pages, the stub's code in place.
    pub(super) fn new() -> io::Result<Self> {
        // The signal frame with the CPU's whole extended state, and a page for what the kernel adds.
        let frame = auxv_min_signal_stack().max(libc::MINSIGSTKSZ as u64) + PAGE_SIZE;
        let size = (2 * PAGE_SIZE + frame).next_multiple_of(PAGE_SIZE);
        let file = super::memfd(c"hvt-exchange", size)?;
        let memory = MappedMemory::shared(size, file).map_err(io::Error::other)?;
        let page = stub::page(memory.file().map_or(-1, |file| file.as_raw_fd()), size - PAGE_SIZE);
        memory.write(Gpa(0), &page).map_err(io::Error::other)?;
        Ok(Self { memory, size })
    }

    /// The file behind the pages.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.memory.file()
    }

    /// Bytes of the exchange pages, the stub page not counted.
    pub(super) fn exchange_size(&self) -> u64 {
        self.size - PAGE_SIZE
    }

    /// Where the child's signal stack lies in the child, and its size.
    pub(super) fn signal_stack(&self) -> (u64, u64) {
        (EXCHANGE_ADDRESS + PAGE_SIZE, self.size - 2 * PAGE_SIZE)
    }

    /// The header.
    pub(super) fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned, longer than a page and a header, and lives as long as `self`. `Header`
        // consists of atomics alone, for which every bit pattern is valid and other agents may write.
        unsafe { self.memory.host_address().add(PAGE_SIZE as usize).cast::<Header>().as_ref() }
    }

    /// The word at this address in the child, if it is one of the exchange pages' words.
    pub(super) fn word(&self, address: u64) -> Option<&AtomicU64> {
        let offset = address.checked_sub(EXCHANGE_ADDRESS)?.checked_add(PAGE_SIZE)?;
        self.word_at(offset).ok()
    }

    fn word_at(&self, offset: u64) -> io::Result<&AtomicU64> {
        let inside = offset.is_multiple_of(8) && offset.checked_add(8).is_some_and(|end| end <= self.size);
        if !inside {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: aligned and inside the mapping, as just checked; it lives as long as `self`. Other agents may write
        // an atomic.
        Ok(unsafe { self.memory.host_address().add(offset as usize).cast::<AtomicU64>().as_ref() })
    }

    /// Address in the child of a field of the header.
    pub(super) const fn field(offset: usize) -> u64 {
        EXCHANGE_ADDRESS + offset as u64
    }

    /// Address in the child of [`Header::turn`].
    pub(super) const TURN: u64 = Self::field(offset_of!(Header, turn));
    /// Address in the child of [`Header::setup`].
    pub(super) const SETUP: u64 = Self::field(offset_of!(Header, setup));
}

/// AT_MINSIGSTKSZ (Linux 5.14): bytes that the kernel needs for a signal frame on this CPU; 0 where it does not say.
fn auxv_min_signal_stack() -> u64 {
    // SAFETY: getauxval reads the process's auxiliary vector and has no preconditions.
    unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) }
}
