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
use std::sync::atomic::{AtomicU32, AtomicU64};

use hvt_abi::{Gpa, PAGE_SIZE};

use super::stub;
use crate::memory::{GuestMemory, MappedMemory};

/// Where the child maps the stub page: above all guest memory, below where Linux puts anything of its own.
pub(super) const STUB_ADDRESS: u64 = 0x2000_0000_0000;
/// Where the child maps the exchange pages.
pub(super) const EXCHANGE_ADDRESS: u64 = STUB_ADDRESS + PAGE_SIZE;

/// First of the exchange pages. The stub knows the offsets of the fields.
#[repr(C)]
pub(super) struct Header {
    /// Whose turn it is: see [`handover`](super::handover).
    pub(super) turn: AtomicU32,
    /// How often the child looks at `turn` before it sleeps.
    pub(super) spin: AtomicU32,
    /// The signal that made the child hand over.
    pub(super) signal: AtomicU32,
    /// What the stub must do before the guest goes on: bits of `command`.
    pub(super) command: AtomicU32,
    /// Address in the child of the `siginfo_t`.
    pub(super) siginfo: AtomicU64,
    /// Address in the child of the `ucontext_t`.
    pub(super) ucontext: AtomicU64,
    /// New FS base, for [`command::SET_FS_BASE`].
    pub(super) fs_base: AtomicU64,
    /// New GS base, for [`command::SET_GS_BASE`].
    pub(super) gs_base: AtomicU64,
    /// Address in the child of the [`Step`] that failed during set-up, 0 when none did.
    pub(super) failed_step: AtomicU64,
    /// Result of that step: a negated errno.
    pub(super) failed_result: AtomicU64,
    /// The child's robust futex list: when it dies, the kernel marks `turn` and wakes the tender.
    pub(super) robust_list: RobustList,
    /// The script of the child's set-up, then the data that its steps point to.
    pub(super) setup: [AtomicU64; SETUP_WORDS],
}

/// Bits of [`Header::command`].
pub(super) mod command {
    /// Load FS base from [`Header::fs_base`](super::Header::fs_base).
    pub(crate) const SET_FS_BASE: u32 = 1 << 0;
    /// Load GS base from [`Header::gs_base`](super::Header::gs_base).
    pub(crate) const SET_GS_BASE: u32 = 1 << 1;
    /// Use `arch_prctl`, because the kernel does not let user mode run WRFSBASE.
    pub(crate) const BY_SYSTEM_CALL: u32 = 1 << 2;
}

/// `struct robust_list_head` and its only member (`include/uapi/linux/futex.h`).
#[repr(C)]
pub(super) struct RobustList {
    pub(super) first: AtomicU64,
    pub(super) futex_offset: AtomicU64,
    pub(super) pending: AtomicU64,
    pub(super) node: AtomicU64,
}

/// A system call of the set-up script.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Step {
    /// Number, or [`Step::END`].
    pub(super) number: u64,
    /// Arguments.
    pub(super) arguments: [u64; 6],
    /// The result it must have; 0: any but an error.
    pub(super) expect: u64,
}

impl Step {
    /// Number that ends a script.
    pub(super) const END: u64 = u64::MAX;
    /// Words of a step.
    pub(super) const WORDS: usize = size_of::<Self>() / 8;
}

/// Words for the set-up in the header page.
pub(super) const SETUP_WORDS: usize = 480;
const _: () = assert!(size_of::<Header>() <= PAGE_SIZE as usize);

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
