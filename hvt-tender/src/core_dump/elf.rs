//! Headers of a core file: ELF headers (ELF gABI), and Linux's notes with registers
//! (`sys/procfs.h`).

use goblin::elf::header::ET_CORE;
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE};
use hvt_abi::PAGE_SIZE;
use zerocopy::{Immutable, IntoBytes};

use super::arch;
use crate::backend::debug::CpuState;
use crate::image::write::{FileHeader, ProgramHeader};

/// File offset of guest memory: page-aligned, so that unpopulated guest pages become holes of the
/// file.
pub(super) const MEMORY_OFFSET: u64 = PAGE_SIZE;

/// Cause of a guest's crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The guest aborted (status 255).
    Abort,
    /// The guest caused a fault from which it cannot continue.
    Fault,
}

/// `Elf64_Nhdr`, followed by the padded owner "CORE".
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

/// `NT_FPREGSET`, called `NT_PRFPREG` by Linux: the descriptor contains the floating-point
/// registers of the architecture.
pub(super) const NT_FPREGSET: u32 = 2;

/// `struct elf_prstatus` of Linux up to the registers, which depend on the architecture.
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
    /// Four times, in seconds and microseconds.
    times: [u64; 8],
}

/// End of `struct elf_prstatus`, after the registers.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProcessStatusEnd {
    /// 1 if a note with floating-point registers follows.
    floating_point: i32,
    padding: [u8; 4],
}

const _: () = {
    assert!(size_of::<Note>() == 20);
    assert!(size_of::<ProcessStatus>() == 112 && size_of::<ProcessStatusEnd>() == 8);
    assert!(NOTES_OFFSET + arch::NOTES_SIZE as u64 <= MEMORY_OFFSET);
};

const NOTES_OFFSET: u64 = (size_of::<FileHeader>() + 2 * size_of::<ProgramHeader>()) as u64;

/// Size of the process status note in bytes, with `registers` bytes of general registers.
pub(super) const fn status_note_size(registers: usize) -> usize {
    note_size(size_of::<ProcessStatus>() + registers + size_of::<ProcessStatusEnd>())
}

/// Size of a note in bytes, with `descriptor` bytes of descriptor.
pub(super) const fn note_size(descriptor: usize) -> usize {
    size_of::<Note>() + descriptor
}

/// Returns a note. The size of `descriptor` must be a multiple of 4.
pub(super) fn note(kind: u32, descriptor: &[u8]) -> Vec<u8> {
    [Note::new(kind, descriptor.len()).as_bytes(), descriptor].concat()
}

/// Returns the note with the cause of the crash and the general `registers`, in the layout of
/// Linux's `elf_gregset_t`. A note with floating-point registers follows.
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
        // Debuggers require a thread id other than 0.
        process: 1,
        parent_group_session: [0; 3],
        times: [0; 8],
    };
    let end = ProcessStatusEnd { floating_point: 1, padding: [0; 4] };
    note(NT_PRSTATUS, &[status.as_bytes(), registers, end.as_bytes()].concat())
}

/// Returns all bytes of the file before the `memory` bytes of guest memory.
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
