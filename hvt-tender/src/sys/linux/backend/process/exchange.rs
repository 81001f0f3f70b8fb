//! Pages shared by tender and child.
//!
//! They are one sealed memfd: the [stub] page, then the exchange pages, which are a
//! [`Header`] page, the pages of the set-up script, and the child's signal stack, then the pages of
//! [direct](super::direct) hypercalls. When the kernel delivers a signal, it writes the guest's
//! registers to that stack, and at `rt_sigreturn` it reads them back, so that the tender reads and
//! changes them there without a copy.
//!
//! The guest can write the exchange pages at any time. Every value read from them is an allegation:
//! it is bounds-checked here, and no value can do more harm than the guest could do to itself
//! directly.

#![expect(unsafe_code, reason = "system calls, and memory that the process of the guest writes")]

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

use hvt_abi::{Gpa, PAGE_SIZE};

use super::protocol::{EXCHANGE_ADDRESS, Header, RobustList, SCRIPT_OFFSET, SCRIPT_WORDS_MIN};
use super::{RELAXED, stub};
use crate::memory::{GuestMemory, MappedMemory};

/// Layout of the child's exchange pages, which depends on the length of the set-up script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// Bytes of the script pages.
    script: u64,
    /// Bytes of the signal stack.
    stack: u64,
}

impl Places {
    /// Computes the layout for a script of `script_words` words.
    pub(super) fn around(script_words: usize) -> Self {
        // The signal frame with the CPU's whole extended state, and a page for the kernel's
        // additions.
        let frame = auxv_min_signal_stack().max(libc::MINSIGSTKSZ as u64) + PAGE_SIZE;
        let script = (script_words.max(SCRIPT_WORDS_MIN) * size_of::<u64>()) as u64;
        Self { script: script.next_multiple_of(PAGE_SIZE), stack: frame.next_multiple_of(PAGE_SIZE) }
    }

    /// Address and size of the signal stack in the child.
    pub(super) fn signal_stack(&self) -> (u64, u64) {
        (Exchange::SCRIPT + self.script, self.stack)
    }

    /// End of the exchange pages in the child.
    pub(super) fn end(&self) -> u64 {
        Exchange::SCRIPT + self.script + self.stack
    }

    /// Offset in the file of a page behind the exchange pages. The stub page comes first.
    pub(super) fn file_offset(&self, direct_page: u64) -> u64 {
        PAGE_SIZE + (self.end() - EXCHANGE_ADDRESS) + direct_page * PAGE_SIZE
    }
}

/// Shared pages, mapped in the tender.
#[derive(Debug)]
pub(super) struct Exchange {
    memory: MappedMemory,
    /// End of the exchange pages in the file.
    size: u64,
    places: Places,
}

impl Exchange {
    /// Creates the pages with the stub's code, and `direct_pages` pages of zeros.
    pub(super) fn new(places: Places, direct_pages: u64) -> io::Result<Self> {
        let size = places.file_offset(0);
        let whole = places.file_offset(direct_pages);
        let file = super::memfd(c"hvt-exchange", whole, super::Executed::Yes)?;
        let memory = MappedMemory::shared(whole, file).map_err(io::Error::other)?;
        let page = stub::page(memory.file().map_or(-1, |file| file.as_raw_fd()), size - PAGE_SIZE);
        memory.write(Gpa(0), &page).map_err(io::Error::other)?;
        let exchange = Self { memory, size, places };
        exchange.list_the_turn();
        Ok(exchange)
    }

    /// Builds the child's robust futex list, whose only member is the turn.
    fn list_the_turn(&self) {
        let list = &self.header().robust_list;
        let node = Self::ROBUST_LIST + offset_of!(RobustList, node) as u64;
        list.first.store(node, RELAXED);
        list.node.store(Self::ROBUST_LIST, RELAXED);
        list.futex_offset.store(Self::TURN.wrapping_sub(node), RELAXED);
        list.pending.store(0, RELAXED);
    }

    /// File of the pages.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.memory.file()
    }

    /// Header of the exchange pages.
    pub(super) fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned, longer than a page and a header, and lives as long
        // as `self`. `Header` consists only of atomics, which other agents may write and for which
        // every bit pattern is valid.
        unsafe { self.memory.host_address().add(PAGE_SIZE as usize).cast::<Header>().as_ref() }
    }

    /// Words of the script pages.
    fn script(&self) -> &[AtomicU64] {
        let words = self.places.script as usize / size_of::<u64>();
        // SAFETY: the words are aligned and lie behind the stub and the header page. They lie
        // inside the mapping, because `new` computed its size from the same layout. The mapping
        // lives as long as `self`. Other agents may write atomics.
        unsafe {
            let start = self.memory.host_address().add((PAGE_SIZE + SCRIPT_OFFSET) as usize).cast::<AtomicU64>();
            std::slice::from_raw_parts(start.as_ptr(), words)
        }
    }

    /// Writes a script, up to the size of the script pages.
    pub(super) fn write_script(&self, words: impl IntoIterator<Item = u64>) {
        for (word, value) in self.script().iter().zip(words) {
            word.store(value, RELAXED);
        }
    }

    /// Writes a page behind the exchange pages.
    pub(super) fn write_direct(&self, page: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write(Gpa(self.places.file_offset(page)), bytes).map_err(io::Error::other)
    }

    /// Overwrites the tender's process id and descriptors, which the child's set-up used.
    pub(super) fn forget_the_set_up(&self) -> io::Result<()> {
        self.write_script(std::iter::repeat(0));
        stub::forget_parameters(&self.memory).map_err(io::Error::other)
    }

    /// Returns the word at this address in the child, if it lies in the exchange pages.
    pub(super) fn word(&self, address: u64) -> Option<&AtomicU64> {
        let offset = address.checked_sub(EXCHANGE_ADDRESS)?.checked_add(PAGE_SIZE)?;
        self.word_at(offset).ok()
    }

    fn word_at(&self, offset: u64) -> io::Result<&AtomicU64> {
        let inside = offset.is_multiple_of(8) && offset.checked_add(8).is_some_and(|end| end <= self.size);
        if !inside {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the word is aligned and inside the mapping, as just checked. The mapping lives as
        // long as `self`. Other agents may write atomics.
        Ok(unsafe { self.memory.host_address().add(offset as usize).cast::<AtomicU64>().as_ref() })
    }

    /// Address in the child of a field of the header.
    pub(super) const fn field(offset: usize) -> u64 {
        EXCHANGE_ADDRESS + offset as u64
    }

    /// Address in the child of [`Header::turn`].
    pub(super) const TURN: u64 = Self::field(offset_of!(Header, turn));
    /// Address in the child of [`Header::robust_list`].
    pub(super) const ROBUST_LIST: u64 = Self::field(offset_of!(Header, robust_list));
    /// Address in the child of the script.
    pub(super) const SCRIPT: u64 = EXCHANGE_ADDRESS + SCRIPT_OFFSET;
}

/// AT_MINSIGSTKSZ (Linux 5.14): bytes that the kernel needs for a signal frame on this CPU; 0 if
/// the kernel does not report it.
fn auxv_min_signal_stack() -> u64 {
    // SAFETY: getauxval reads the process's auxiliary vector and has no preconditions.
    unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) }
}
