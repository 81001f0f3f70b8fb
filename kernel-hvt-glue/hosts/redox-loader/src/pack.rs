//! Archive of the boot module: a cpio archive with the kernel and the first process.

use core::fmt;

/// Offset of the entry point (`e_entry`) in an ELF file.
const ELF_ENTRY: usize = 0x18;

/// Files of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pack<'a> {
    /// The kernel's ELF file.
    pub kernel: &'a [u8],
    /// Memory image of the first process.
    pub init: &'a [u8],
}

/// Reason that an archive cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// The archive has no file of this name.
    Missing(&'static str),
    /// The kernel is not a 64-bit ELF file.
    NotElf,
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "the archive (-initrd) has no file '{name}'"),
            Self::NotElf => f.write_str("the kernel is not a 64-bit ELF file"),
        }
    }
}

impl<'a> Pack<'a> {
    /// Finds the files in `archive`.
    ///
    /// # Errors
    /// Returns [`PackError::Missing`] if a file is missing, and [`PackError::NotElf`] if the kernel
    /// is not a 64-bit ELF file.
    pub fn read(archive: &'a [u8]) -> Result<Self, PackError> {
        let file = |name: &'static str| {
            let mut files = cpio_reader::iter_files(archive);
            files.find(|entry| entry.name() == name).map(|entry| entry.file()).ok_or(PackError::Missing(name))
        };
        let pack = Self { kernel: file("kernel")?, init: file("init")? };
        pack.kernel_entry().map(|_| pack)
    }

    /// Returns the kernel's entry point, a virtual address.
    ///
    /// # Errors
    /// Returns [`PackError::NotElf`] if the kernel is not a 64-bit ELF file.
    pub fn kernel_entry(&self) -> Result<u64, PackError> {
        /// ELF magic and `ELFCLASS64`.
        const IDENT: &[u8] = b"\x7fELF\x02";
        let entry = self.kernel.get(ELF_ENTRY..).and_then(|rest| rest.first_chunk()).copied();
        match entry {
            Some(entry) if self.kernel.starts_with(IDENT) => Ok(u64::from_le_bytes(entry)),
            _ => Err(PackError::NotElf),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{format, vec::Vec};

    use super::*;

    /// Creates an archive in the format of `cpio -o -H newc`.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, file) in files.iter().chain(&[("TRAILER!!!", &[][..])]) {
            let fields = [1, 0o100_644, 0, 0, 1, 0, file.len(), 0, 0, 0, 0, name.len() + 1, 0];
            bytes.extend(b"070701");
            fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
            bytes.extend(name.bytes().chain([0]));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(*file);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn elf() -> Vec<u8> {
        let mut elf = std::vec![0; 64];
        elf[..5].copy_from_slice(b"\x7fELF\x02");
        elf[ELF_ENTRY..][..8].copy_from_slice(&0xffff_ffff_8012_3000_u64.to_le_bytes());
        elf
    }

    #[test]
    fn finds_both_files() {
        let archive = archive(&[("kernel", &elf()), ("init", b"RedoxFtw")]);
        let pack = Pack::read(&archive).unwrap();
        assert_eq!((pack.kernel, pack.init), (&elf()[..], &b"RedoxFtw"[..]));
        assert_eq!(pack.kernel_entry(), Ok(0xffff_ffff_8012_3000));
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        assert_eq!(Pack::read(&[]), Err(PackError::Missing("kernel")));
        assert_eq!(Pack::read(&archive(&[("kernel", &elf())])), Err(PackError::Missing("init")));
        for kernel in [&b"MZ"[..], &elf()[..31], b"\x7fELF\x01"] {
            assert_eq!(Pack::read(&archive(&[("kernel", kernel), ("init", b"")])), Err(PackError::NotElf));
        }
    }
}
