//! The headers of a core file: those of the ELF gABI, and Linux's notes about registers (`sys/procfs.h`).

use goblin::elf::header::ET_CORE;
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE};
use hvt_abi::PAGE_SIZE;
use zerocopy::{Immutable, IntoBytes};

use super::arch;
use crate::backend::debug::CpuState;
use crate::image::write::{FileHeader, ProgramHeader};

/// Where guest memory begins in the file: on a page of its own, so that its holes are the file's.
pub(super) const MEMORY_OFFSET: u64 = PAGE_SIZE;

/// How a guest crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It gave up.
    Abort,
    /// It did something after which it cannot go on.
    Fault,
}

/// `Elf64_Nhdr`, and the owner "CORE", padded.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Note {
    owner_size: u32,
    descriptor_size: u32,
    kind: u32,
    owner: [u8; 8],
}

impl Note {
    fn new(kind: u32, descriptor_size: usize) -> Self {
        Self { owner_size: 5, descriptor_size: descriptor_size as u32, kind, owner: *b"CORE\0\0\0\0" }
    }
}

/// `NT_PRSTATUS`: the descriptor is a [`ProcessStatus`].
const NT_PRSTATUS: u32 = 1;

/// `NT_FPREGSET`, which Linux calls `NT_PRFPREG`: the descriptor is what the architecture has of floating-point registers.
pub(super) const NT_FPREGSET: u32 = 2;

/// `struct elf_prstatus` of Linux up to the registers, which are the architecture's.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProcessStatus {
    /// Number of the signal, its code, its errno.
    signal_info: [i32; 3],
    signal: i16,
    padding: [u8; 2],
    signals_pending_and_held: [u64; 2],
    process: i32,
    parent_group_session: [i32; 3],
    /// Four times, of seconds and microseconds.
    times: [u64; 8],
}

/// The rest of it, behind the registers.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProcessStatusEnd {
    /// Whether a note about floating-point registers follows.
    floating_point: i32,
    padding: [u8; 4],
}

const _: () = {
    assert!(size_of::<Note>() == 20);
    assert!(size_of::<ProcessStatus>() == 112 && size_of::<ProcessStatusEnd>() == 8);
    assert!(NOTES_OFFSET + arch::NOTES_SIZE as u64 <= MEMORY_OFFSET);
};

const NOTES_OFFSET: u64 = (size_of::<FileHeader>() + 2 * size_of::<ProgramHeader>()) as u64;

/// Bytes of the note about a process that has so many bytes of general registers.
pub(super) const fn status_note_size(registers: usize) -> usize {
    note_size(size_of::<ProcessStatus>() + registers + size_of::<ProcessStatusEnd>())
}

/// Bytes of a note with such a descriptor.
pub(super) const fn note_size(descriptor: usize) -> usize {
    size_of::<Note>() + descriptor
}

/// A note, whose descriptor must be made of whole words.
pub(super) fn note(kind: u32, descriptor: &[u8]) -> Vec<u8> {
    [Note::new(kind, descriptor.len()).as_bytes(), descriptor].concat()
}

/// The note about how the guest crashed and with which general `registers`, laid out as Linux's `elf_gregset_t`. One about
/// floating-point registers follows.
pub(super) fn status_note(cause: Cause, registers: &[u8]) -> Vec<u8> {
    let signal = match cause {
        Cause::Abort => libc::SIGABRT,
        Cause::Fault => libc::SIGSEGV,
    };
    let status = ProcessStatus {
        signal_info: [signal, 0, 0],
        signal: signal as i16,
        padding: [0; 2],
        signals_pending_and_held: [0; 2],
        // To debuggers a thread has a number that is not 0.
        process: 1,
        parent_group_session: [0; 3],
        times: [0; 8],
    };
    let end = ProcessStatusEnd { floating_point: 1, padding: [0; 4] };
    note(NT_PRSTATUS, &[status.as_bytes(), registers, end.as_bytes()].concat())
}

/// All of the file that lies before the `memory` bytes of guest memory.
pub(super) fn headers(state: &CpuState, cause: Cause, memory: u64) -> Vec<u8> {
    let notes = arch::notes(state, cause);
    let note = ProgramHeader {
        p_type: PT_NOTE,
        p_offset: NOTES_OFFSET,
        p_filesz: notes.len() as u64,
        p_align: 4,
        ..ProgramHeader::default()
    };
    let load = ProgramHeader {
        p_type: PT_LOAD,
        p_flags: PF_R | PF_W | PF_X,
        p_offset: MEMORY_OFFSET,
        p_filesz: memory,
        p_memsz: memory,
        p_align: PAGE_SIZE,
        ..ProgramHeader::default()
    };
    let header = FileHeader::new(ET_CORE, arch::MACHINE, 0, 2);
    [header.as_bytes(), note.as_bytes(), load.as_bytes(), &notes].concat()
}
