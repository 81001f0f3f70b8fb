//! Measures how much of a guest's memory is in use.

#![expect(unsafe_code, reason = "memory that the guest changes at any time")]

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use crate::descriptor::{Descriptor, Uses};
use crate::sandbox::Calls;

/// Handle that measures how much of a guest's memory has been touched, by the guest or by the
/// loader. It does not keep the memory alive, and may be used by a thread other than the guest's.
#[derive(Debug)]
pub struct Usage(Source);

#[derive(Debug)]
enum Source {
    /// File of the memory.
    File(OwnedFd),
    /// Address and size of the memory in this process.
    Mapping { start: usize, len: usize },
}

impl Usage {
    pub(super) fn of_file(file: OwnedFd) -> Self {
        Self(Source::File(file))
    }

    pub(super) fn of_mapping(start: usize, len: usize) -> Self {
        Self(Source::Mapping { start, len })
    }

    /// Allows the calls that it takes to tell.
    pub(crate) fn system_calls(&self, calls: &mut Calls) {
        match &self.0 {
            Source::File(file) => calls.allow_uses([Descriptor::new(file, Uses::STAT)]),
            Source::Mapping { .. } => calls.allow(libc::SYS_mincore),
        }
    }

    /// Returns the bytes in use, in whole pages. For a file, counts every page that was ever
    /// touched. For a mapping, counts the pages in the host's RAM, which may be huge pages of 2
    /// MiB.
    ///
    /// # Errors
    /// Returns the error of `fstat` or `mincore`.
    pub fn bytes(&self) -> io::Result<u64> {
        /// Unit of `st_blocks` in bytes (stat(2)).
        const BLOCK: u64 = 512;
        match &self.0 {
            Source::File(file) => Ok(fstat(file)?.st_blocks as u64 * BLOCK),
            Source::Mapping { start, len } => resident(*start, *len),
        }
    }
}

/// Returns the size in bytes of this process's pages from `start` on that are in RAM.
fn resident(start: usize, len: usize) -> io::Result<u64> {
    /// Bit 0 of each byte that mincore(2) writes: the page is resident.
    const RESIDENT: u8 = 1;
    const PAGE: usize = hvt_abi::PAGE_SIZE as usize;
    /// Number of pages per call.
    const PIECE: usize = 1 << 14;
    let mut pages = [0; PIECE];
    let mut found = 0;
    for offset in (0..len).step_by(PIECE * PAGE) {
        let piece = (len - offset).min(PIECE * PAGE);
        // SAFETY: the kernel only reads page tables, whatever is mapped at this address. It writes
        // one byte per page, and `pages` has one byte per page of the piece.
        let result = unsafe { libc::mincore((start + offset) as *mut libc::c_void, piece, pages.as_mut_ptr()) };
        Errno::result(result)?;
        found += pages[..piece.div_ceil(PAGE)].iter().filter(|page| **page & RESIDENT != 0).count();
    }
    Ok((found * PAGE) as u64)
}

#[cfg(test)]
mod tests {
    use crate::memory::{GuestMemory, MappedMemory};
    use hvt_abi::Gpa;

    #[test]
    fn counts_the_pages_that_were_touched() {
        // A mapping this small gets no huge pages.
        let memory = MappedMemory::anonymous(1 << 20).unwrap();
        let usage = memory.usage().unwrap();
        assert_eq!(usage.bytes().unwrap(), 0);
        memory.write(Gpa(0x1fff), b"two pages").unwrap();
        memory.write(Gpa(0xf_f000), b"and the last one").unwrap();
        assert_eq!(usage.bytes().unwrap(), 3 * 4096);
        drop(memory);
        assert!(usage.bytes().is_err());
    }
}
