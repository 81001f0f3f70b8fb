//! Structures of 64-bit little-endian ELF files, and a writer of unikernel files.

use alloc::vec::Vec;

use goblin::elf::header::{ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_AARCH64, EM_X86_64, ET_EXEC, EV_CURRENT};
use goblin::elf::program_header::{PF_R, PT_LOAD, PT_NOTE};
use hvt_abi::manifest::{Entry, Header, Kind, NAME_SIZE, VERSION};
use hvt_abi::note::{Abi1, NoteHeader, OWNER, OWNER_PADDED, TYPE_ABI1, TYPE_MFT1, Target};
use zerocopy::{Immutable, IntoBytes};

/// `Elf64_Ehdr` (System V gABI, chapter 4), with the names of its fields. Writing goblin's structure requires
/// `unsafe` code or the crate scroll.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the gABI's names")]
pub struct FileHeader {
    pub e_ident: [u8; 16],
    pub e_type: u16,
    pub e_machine: u16,
    pub e_version: u32,
    pub e_entry: u64,
    pub e_phoff: u64,
    pub e_shoff: u64,
    pub e_flags: u32,
    pub e_ehsize: u16,
    pub e_phentsize: u16,
    pub e_phnum: u16,
    pub e_shentsize: u16,
    pub e_shnum: u16,
    pub e_shstrndx: u16,
}

impl FileHeader {
    /// Header of a file without sections, directly followed by `e_phnum` program headers.
    #[must_use]
    pub fn new(e_type: u16, e_machine: u16, e_entry: u64, e_phnum: u16) -> Self {
        let mut e_ident = [0; 16];
        e_ident[..4].copy_from_slice(ELFMAG);
        e_ident[4..7].copy_from_slice(&[ELFCLASS64, ELFDATA2LSB, EV_CURRENT]);
        Self {
            e_ident,
            e_type,
            e_machine,
            e_version: u32::from(EV_CURRENT),
            e_entry,
            e_phoff: size_of::<Self>() as u64,
            e_shoff: 0,
            e_flags: 0,
            e_ehsize: size_of::<Self>() as u16,
            e_phentsize: size_of::<ProgramHeader>() as u16,
            e_phnum,
            e_shentsize: 0,
            e_shnum: 0,
            e_shstrndx: 0,
        }
    }
}

/// `Elf64_Phdr` (System V gABI, chapter 5), with the names of its fields.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the gABI's names")]
pub struct ProgramHeader {
    pub p_type: u32,
    pub p_flags: u32,
    pub p_offset: u64,
    pub p_vaddr: u64,
    pub p_paddr: u64,
    pub p_filesz: u64,
    pub p_memsz: u64,
    pub p_align: u64,
}

const _: () = assert!(size_of::<FileHeader>() == 64 && size_of::<ProgramHeader>() == 56);

/// Program header and the bytes that it describes.
#[derive(Clone, Debug)]
pub struct Part {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// `p_vaddr` and `p_paddr`.
    pub address: u64,
    /// `p_memsz`.
    pub memory: u64,
    /// `p_align`.
    pub alignment: u64,
    /// Contents in the file.
    pub bytes: Vec<u8>,
}

impl Part {
    /// Creates a segment to load. `bytes` are the first of its `memory` bytes.
    pub fn load(flags: u32, address: u64, memory: u64, bytes: impl Into<Vec<u8>>) -> Self {
        Self { kind: PT_LOAD, flags, address, memory, alignment: 0x1000, bytes: bytes.into() }
    }

    /// Creates a program header that is not loaded.
    pub fn other(kind: u32, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { kind, flags: PF_R, address: 0, memory: bytes.len() as u64, alignment: 4, bytes }
    }

    /// Creates a Solo5 note with this type and descriptor.
    pub fn note(kind: u32, descriptor: &[u8]) -> Self {
        let header =
            NoteHeader { namesz: OWNER.len() as u32, descsz: descriptor.len() as u32, kind, owner: OWNER_PADDED };
        Self::other(PT_NOTE, [header.as_bytes(), descriptor].concat())
    }

    /// Creates the ABI note for this target and version.
    pub fn abi(target: u32, version: u32) -> Self {
        Self::note(TYPE_ABI1, Abi1 { target, version, reserved: [0; 2] }.as_bytes())
    }

    /// Creates the manifest note around `manifest`.
    pub fn manifest(manifest: &[u8]) -> Self {
        Self::note(TYPE_MFT1, &[&[0; 4], manifest].concat())
    }
}

/// Creates a manifest with these devices.
pub fn manifest(devices: &[(&str, Kind)]) -> Vec<u8> {
    let header = Header { version: VERSION, entries: devices.len() as u32 + 1 };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(Entry::RESERVED_FIRST.as_bytes());
    for (name, kind) in devices {
        let mut padded = [0; NAME_SIZE];
        // A name that is too long loses its end and its NUL, so that parsing rejects it.
        padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        bytes.extend(Entry::new(padded, *kind).as_bytes());
    }
    bytes
}

/// ELF file under construction.
#[derive(Clone, Debug)]
pub struct Elf {
    /// `e_type`.
    pub kind: u16,
    /// `e_machine`.
    pub machine: u16,
    /// `e_entry`.
    pub entry: u64,
    /// Program headers with their contents.
    pub parts: Vec<Part>,
}

/// ELF machine number of this CPU.
pub const MACHINE: u16 = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };
/// Guest address of the text of a valid unikernel.
pub const TEXT: u64 = 0x10_0000;

impl Elf {
    /// Creates a unikernel that declares these devices, has these segments, and starts at the first
    /// one.
    pub fn with_devices(segments: impl IntoIterator<Item = Part>, devices: &[(&str, Kind)]) -> Self {
        let notes = [Part::abi(Target::Hvt as u32, hvt_abi::ABI_VERSION), Part::manifest(&manifest(devices))];
        let mut elf = Self::of(segments.into_iter().chain(notes));
        elf.entry = elf.parts[0].address;
        elf
    }

    /// Creates a file of these parts.
    pub fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        Self { kind: ET_EXEC, machine: MACHINE, entry: TEXT, parts: parts.into_iter().collect() }
    }

    /// Returns the bytes of the file.
    pub fn build(&self) -> Vec<u8> {
        let count = self.parts.len() as u16;
        let mut file = FileHeader::new(self.kind, self.machine, self.entry, count).as_bytes().to_vec();
        let mut offset = (size_of::<FileHeader>() + self.parts.len() * size_of::<ProgramHeader>()) as u64;
        for part in &self.parts {
            let header = ProgramHeader {
                p_type: part.kind,
                p_flags: part.flags,
                p_offset: offset,
                p_vaddr: part.address,
                p_paddr: part.address,
                p_filesz: part.bytes.len() as u64,
                p_memsz: part.memory,
                p_align: part.alignment,
            };
            file.extend(header.as_bytes());
            offset += header.p_filesz;
        }
        file.extend(self.parts.iter().flat_map(|part| part.bytes.iter().copied()));
        file
    }
}
