//! The ELF header and the program headers.

use alloc::vec::Vec;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{
    EI_CLASS, EI_DATA, EI_VERSION, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, ELFMAG, ET_CORE, ET_DYN, ET_EXEC,
    ET_REL, EV_CURRENT, header64,
};
use goblin::elf::program_header::{PT_INTERP, program_header64};
use goblin::elf::{Elf, ProgramHeader};
use hvt_abi::note::INTERPRETER;

use super::error::{Foreign, ImageError, NATIVE_MACHINE};

/// Headers of a 64-bit ELF program.
pub(super) struct Headers {
    /// `e_type`: `ET_EXEC` or `ET_DYN`.
    kind: u16,
    /// `e_machine`.
    machine: u16,
    /// `e_entry`.
    pub(super) entry: u64,
    /// The program headers, at least one.
    pub(super) program: Vec<ProgramHeader>,
}

impl Headers {
    pub(super) fn parse(file: &[u8]) -> Result<Self, ImageError> {
        if !file.starts_with(ELFMAG) {
            return Err(ImageError::NotElf);
        }
        let truncated = |what, end| ImageError::Truncated { what, end, len: file.len() as u64 };
        let no_header = truncated("the ELF header", header64::SIZEOF_EHDR as u64);
        let identification = |index| file.get(index).copied().ok_or(no_header.clone());
        match identification(EI_CLASS)? {
            ELFCLASS64 => {}
            ELFCLASS32 => return Err(ImageError::Bits32),
            other => return Err(damaged("EI_CLASS", other, ELFCLASS64)),
        }
        match identification(EI_DATA)? {
            ELFDATA2LSB => {}
            ELFDATA2MSB => return Err(ImageError::BigEndian),
            other => return Err(damaged("EI_DATA", other, ELFDATA2LSB)),
        }
        expect("EI_VERSION", identification(EI_VERSION)?, EV_CURRENT)?;
        let header = Elf::parse_header(file).map_err(|_| no_header)?;
        match header.e_type {
            ET_EXEC | ET_DYN => {}
            ET_REL => return Err(ImageError::NotUnikernel(Foreign::Object)),
            ET_CORE => return Err(ImageError::NotUnikernel(Foreign::Core)),
            other => return Err(ImageError::NotUnikernel(Foreign::Other(other))),
        }
        expect("e_version", header.e_version, u32::from(EV_CURRENT))?;
        expect("e_ehsize", header.e_ehsize, header64::SIZEOF_EHDR as u16)?;
        expect("e_phentsize", header.e_phentsize, program_header64::SIZEOF_PHDR as u16)?;
        if header.e_phnum == 0 {
            return Err(damaged("e_phnum", 0_u16, 1_u16));
        }
        let count = usize::from(header.e_phnum);
        let end = header.e_phoff.saturating_add((count * program_header64::SIZEOF_PHDR) as u64);
        let no_headers = truncated("the program headers", end);
        let offset = usize::try_from(header.e_phoff).map_err(|_| no_headers.clone())?;
        let context = Ctx::new(Container::Big, Endian::Little);
        let program = ProgramHeader::parse(file, offset, count, context).map_err(|_| no_headers)?;
        Ok(Self { kind: header.e_type, machine: header.e_machine, entry: header.e_entry, program })
    }

    /// Returns the error that names the kind of this program, given that it has no Solo5 ABI note.
    pub(super) fn foreign(&self, file: &[u8]) -> ImageError {
        let interpreter = self.program.iter().find(|header| header.p_type == PT_INTERP);
        ImageError::NotUnikernel(match interpreter.map(|header| contents(file, header)) {
            Some(name) if name.is_none_or(|name| !name.starts_with(INTERPRETER)) => Foreign::Dynamic,
            _ if self.kind == ET_DYN => Foreign::Relocatable,
            _ => Foreign::Static,
        })
    }

    pub(super) fn check_machine(&self) -> Result<(), ImageError> {
        if self.machine == NATIVE_MACHINE { Ok(()) } else { Err(ImageError::Machine(self.machine)) }
    }

    pub(super) fn check_static_executable(&self) -> Result<(), ImageError> {
        if self.kind == ET_EXEC { Ok(()) } else { Err(ImageError::NotExecutable(self.kind)) }
    }
}

/// Returns the bytes of the file that `header` describes, if the file is long enough.
pub(super) fn contents<'a>(file: &'a [u8], header: &ProgramHeader) -> Option<&'a [u8]> {
    let start = usize::try_from(header.p_offset).ok()?;
    let end = usize::try_from(header.p_offset.checked_add(header.p_filesz)?).ok()?;
    file.get(start..end)
}

/// Error for a file that lacks bytes which `header` describes as `what`.
pub(super) fn truncated(file: &[u8], header: &ProgramHeader, what: &'static str) -> ImageError {
    let end = header.p_offset.saturating_add(header.p_filesz);
    ImageError::Truncated { what, end, len: file.len() as u64 }
}

fn expect<T: Into<u64> + PartialEq>(field: &'static str, found: T, expected: T) -> Result<(), ImageError> {
    if found == expected { Ok(()) } else { Err(damaged(field, found, expected)) }
}

fn damaged(field: &'static str, found: impl Into<u64>, expected: impl Into<u64>) -> ImageError {
    ImageError::Header { field, found: found.into(), expected: expected.into() }
}
