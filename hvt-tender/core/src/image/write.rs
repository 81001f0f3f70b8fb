//! Writes the files of unikernels.

use alloc::vec::Vec;

use goblin::elf::header::{EM_AARCH64, EM_X86_64, ET_EXEC};
use goblin::elf::program_header::{PF_R, PT_LOAD, PT_NOTE};
use hvt_abi::manifest::{Entry, Header, Kind, NAME_SIZE, VERSION};
use hvt_abi::note::{Abi1, NoteHeader, OWNER, OWNER_PADDED, TYPE_ABI1, TYPE_MFT1, Target};
use zerocopy::IntoBytes;

/// A program header and the bytes it describes.
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
    /// A segment to load; `bytes` are the first of its `memory` bytes.
    pub fn load(flags: u32, address: u64, memory: u64, bytes: impl Into<Vec<u8>>) -> Self {
        Self { kind: PT_LOAD, flags, address, memory, alignment: 0x1000, bytes: bytes.into() }
    }

    /// A program header that is not loaded.
    pub fn other(kind: u32, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { kind, flags: PF_R, address: 0, memory: bytes.len() as u64, alignment: 4, bytes }
    }

    /// A note of Solo5's with this type and descriptor.
    pub fn note(kind: u32, descriptor: &[u8]) -> Self {
        let header =
            NoteHeader { namesz: OWNER.len() as u32, descsz: descriptor.len() as u32, kind, owner: OWNER_PADDED };
        Self::other(PT_NOTE, [header.as_bytes(), descriptor].concat())
    }

    /// The ABI note for this target and version.
    pub fn abi(target: u32, version: u32) -> Self {
        Self::note(TYPE_ABI1, Abi1 { target, version, reserved: [0; 2] }.as_bytes())
    }

    /// The manifest's note around `manifest`.
    pub fn manifest(manifest: &[u8]) -> Self {
        Self::note(TYPE_MFT1, &[&[0; 4], manifest].concat())
    }
}

/// A manifest with these devices.
pub fn manifest(devices: &[(&str, Kind)]) -> Vec<u8> {
    let header = Header { version: VERSION, entries: devices.len() as u32 + 1 };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(Entry::RESERVED_FIRST.as_bytes());
    for (name, kind) in devices {
        let mut padded = [0; NAME_SIZE];
        // One that is too long loses its end, and its NUL, and is refused.
        padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        bytes.extend(Entry::new(padded, *kind).as_bytes());
    }
    bytes
}

/// An ELF file in the making.
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

/// The ELF machine of the CPU this runs on.
pub const MACHINE: u16 = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };
/// Where a good unikernel has its text.
pub const TEXT: u64 = 0x10_0000;

impl Elf {
    /// A unikernel that asks for these devices, has these segments, and starts where the first one does.
    pub fn with_devices(segments: impl IntoIterator<Item = Part>, devices: &[(&str, Kind)]) -> Self {
        let notes = [Part::abi(Target::Hvt as u32, hvt_abi::ABI_VERSION), Part::manifest(&manifest(devices))];
        let mut elf = Self::of(segments.into_iter().chain(notes));
        elf.entry = elf.parts[0].address;
        elf
    }

    /// A file of these parts.
    pub fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        Self { kind: ET_EXEC, machine: MACHINE, entry: TEXT, parts: parts.into_iter().collect() }
    }

    /// The file's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        file.extend([self.entry, 64, 0].iter().flat_map(|field| field.to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        let count = self.parts.len() as u16;
        file.extend([64, 56, count, 64, 0, 0].iter().flat_map(|field: &u16| field.to_le_bytes()));
        let mut offset = 64 + 56 * u64::from(count);
        for part in &self.parts {
            file.extend([part.kind, part.flags].iter().flat_map(|field| field.to_le_bytes()));
            let len = part.bytes.len() as u64;
            let fields = [offset, part.address, part.address, len, part.memory, part.alignment];
            file.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
            offset += len;
        }
        file.extend(self.parts.iter().flat_map(|part| part.bytes.iter().copied()));
        file
    }
}
