//! How much of a guest's memory is in use.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::fstat;

#[cfg(target_os = "linux")]
use crate::descriptor::{Descriptor, Uses};
#[cfg(target_os = "linux")]
use crate::sandbox::Calls;

/// Tells how much of a guest's memory has been touched, by the guest or by the loader. It does not keep the memory, and
/// may be asked by another thread than the guest's.
#[derive(Debug)]
pub struct Usage(Source);

#[derive(Debug)]
enum Source {
    /// The memory is this file.
    File(OwnedFd),
    /// The memory is so many bytes at this address of this process.
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
    #[cfg(target_os = "linux")]
    pub(crate) fn system_calls(&self, calls: &mut Calls) {
        match &self.0 {
            Source::File(file) => calls.allow_uses([Descriptor::new(file, Uses::STAT)]),
            Source::Mapping { .. } => calls.allow(libc::SYS_mincore),
        }
    }

    /// Bytes in use, in whole pages. Of a file it counts every page that was ever touched; of a mapping those that are in
    /// the host's RAM, which may be huge pages of 2 MiB.
    ///
    /// # Errors
    /// When the host does not tell.
    pub fn bytes(&self) -> io::Result<u64> {
        /// Unit of `st_blocks` in bytes (stat(2)).
        const BLOCK: u64 = 512;
        match &self.0 {
            Source::File(file) => Ok(fstat(file)?.st_blocks as u64 * BLOCK),
            Source::Mapping { start, len } => resident(*start, *len),
        }
    }
}

/// Bytes of this process's pages from `start` on that are in RAM.
fn resident(start: usize, len: usize) -> io::Result<u64> {
    /// Bit 0 of each byte that mincore(2) writes: the page is resident.
    const RESIDENT: u8 = 1;
    const PAGE: usize = hvt_abi::PAGE_SIZE as usize;
    /// Pages asked for at once.
    const PIECE: usize = 1 << 14;
    let mut pages = [0; PIECE];
    let mut found = 0;
    for offset in (0..len).step_by(PIECE * PAGE) {
        let piece = (len - offset).min(PIECE * PAGE);
        // SAFETY: the kernel looks at page tables only, whatever is mapped at this address, and writes a byte for each
        // page, of which there is room for as many.
        let result = unsafe { libc::mincore((start + offset) as *mut libc::c_void, piece, pages.as_mut_ptr()) };
        Errno::result(result)?;
        found += pages[..piece.div_ceil(PAGE)].iter().filter(|page| **page & RESIDENT != 0).count();
    }
    Ok((found * PAGE) as u64)
}

#[cfg(test)]
mod tests {
    use super::super::{GuestMemory, MappedMemory};
    use hvt_abi::Gpa;

    #[test]
    fn counts_the_pages_that_were_touched() {
        // So small a mapping gets no huge pages.
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
