//! The headers of a core file: those of the ELF gABI, and Linux's notes about registers (`sys/procfs.h`).

use goblin::elf::header::{ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_CORE, EV_CURRENT};
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE};
use hvt_abi::PAGE_SIZE;
use hvt_abi::x86_64::Registers;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::backend::debug::{CpuState, FxState, Segments};

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

/// What a guest's trap handler leaves where its halt cookie points: the registers that the trap changed
/// (`struct x86_trap_regs` of Solo5's `hvt_cpu_x86_64.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[expect(missing_docs, reason = "the field names are the registers' names")]
#[repr(C)]
pub struct TrapFrame {
    pub cr2: u64,
    /// 0 where the exception has none.
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl TrapFrame {
    /// The frame that these bytes are.
    pub(super) fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        zerocopy::transmute!(*bytes)
    }

    /// `registers` as they were at the trap.
    pub(super) fn apply(&self, state: CpuState) -> CpuState {
        let registers = Registers { rip: self.rip, rflags: self.rflags, rsp: self.rsp, ..state.registers };
        let segments = Segments { cs: self.cs as u16, ss: self.ss as u16, ..state.segments };
        CpuState { registers, segments, ..state }
    }
}

/// `Elf64_Ehdr`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    identification: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    size: u16,
    program_header_size: u16,
    program_header_count: u16,
    section_header_size: u16,
    section_header_count: u16,
    names: u16,
}

/// `Elf64_Phdr`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
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
/// `NT_FPREGSET`: the descriptor is an [`FxState`].
const NT_FPREGSET: u32 = 2;

/// `struct elf_prstatus` of Linux on x86_64.
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
    registers: UserRegisters,
    /// Whether a note about floating-point registers follows.
    floating_point: i32,
    padding_at_end: [u8; 4],
}

/// `struct user_regs_struct` of Linux on x86_64.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct UserRegisters {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbp: u64,
    rbx: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rax: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    orig_rax: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
    fs_base: u64,
    gs_base: u64,
    ds: u64,
    es: u64,
    fs: u64,
    gs: u64,
}

const _: () = {
    assert!(size_of::<TrapFrame>() <= hvt_abi::hypercall::HALT_COOKIE_SIZE as usize);
    assert!(size_of::<Header>() == 64 && size_of::<ProgramHeader>() == 56 && size_of::<Note>() == 20);
    assert!(size_of::<ProcessStatus>() == 336 && std::mem::offset_of!(ProcessStatus, registers) == 112);
    assert!(NOTES_OFFSET + NOTES_SIZE <= MEMORY_OFFSET);
};

const NOTES_OFFSET: u64 = (size_of::<Header>() + 2 * size_of::<ProgramHeader>()) as u64;
const NOTES_SIZE: u64 = (2 * size_of::<Note>() + size_of::<ProcessStatus>() + size_of::<FxState>()) as u64;

/// All of the file that lies before the `memory` bytes of guest memory.
pub(super) fn headers(state: &CpuState, cause: Cause, memory: u64) -> Vec<u8> {
    let note = ProgramHeader {
        kind: PT_NOTE,
        flags: 0,
        offset: NOTES_OFFSET,
        virtual_address: 0,
        physical_address: 0,
        file_size: NOTES_SIZE,
        memory_size: 0,
        alignment: 4,
    };
    let load = ProgramHeader {
        kind: PT_LOAD,
        flags: PF_R | PF_W | PF_X,
        offset: MEMORY_OFFSET,
        virtual_address: 0,
        physical_address: 0,
        file_size: memory,
        memory_size: memory,
        alignment: PAGE_SIZE,
    };
    let status = Note::new(NT_PRSTATUS, size_of::<ProcessStatus>());
    let fpu = Note::new(NT_FPREGSET, size_of::<FxState>());
    [
        header().as_bytes(),
        note.as_bytes(),
        load.as_bytes(),
        status.as_bytes(),
        process_status(state, cause).as_bytes(),
        fpu.as_bytes(),
        state.fpu.as_bytes(),
    ]
    .concat()
}

fn header() -> Header {
    let mut identification = [0; 16];
    identification[..4].copy_from_slice(ELFMAG);
    identification[4..7].copy_from_slice(&[ELFCLASS64, ELFDATA2LSB, EV_CURRENT]);
    Header {
        identification,
        kind: ET_CORE,
        machine: EM_X86_64,
        version: u32::from(EV_CURRENT),
        entry: 0,
        program_headers: size_of::<Header>() as u64,
        section_headers: 0,
        flags: 0,
        size: size_of::<Header>() as u16,
        program_header_size: size_of::<ProgramHeader>() as u16,
        program_header_count: 2,
        section_header_size: 0,
        section_header_count: 0,
        names: 0,
    }
}

fn process_status(state: &CpuState, cause: Cause) -> ProcessStatus {
    let signal = match cause {
        Cause::Abort => libc::SIGABRT,
        Cause::Fault => libc::SIGSEGV,
    };
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags } =
        state.registers;
    let Segments { cs, ss, ds, es, fs, gs, fs_base, gs_base } = state.segments;
    ProcessStatus {
        signal_info: [signal, 0, 0],
        signal: signal as i16,
        padding: [0; 2],
        signals_pending_and_held: [0; 2],
        // To debuggers a thread has a number that is not 0.
        process: 1,
        parent_group_session: [0; 3],
        times: [0; 8],
        registers: UserRegisters {
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            // No system call is under way.
            orig_rax: u64::MAX,
            rip,
            cs: cs.into(),
            rflags,
            rsp,
            ss: ss.into(),
            fs_base,
            gs_base,
            ds: ds.into(),
            es: es.into(),
            fs: fs.into(),
            gs: gs.into(),
        },
        floating_point: 1,
        padding_at_end: [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use goblin::elf::Elf;
    use goblin::elf::note::NT_PRSTATUS as PRSTATUS;

    #[test]
    fn is_a_core_file_with_the_registers() {
        let mut state = CpuState::from(Registers { r15: 0x15, rip: 0x10_1234, rsp: 0x20_0000, ..Registers::default() });
        state.segments = Segments { fs_base: 0x30_0000, es: 7, gs: 9, ..Segments::default() };
        (state.fpu.mxcsr, state.fpu.xmm[0]) = (0x1f81, 0x1122);
        let bytes = headers(&state, Cause::Abort, 0);
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!((elf.header.e_type, elf.header.e_machine), (ET_CORE, EM_X86_64));
        let notes: Vec<_> = elf.iter_note_headers(&bytes).unwrap().map(Result::unwrap).collect();
        let kinds: Vec<_> = notes.iter().map(|note| (note.name, note.n_type)).collect();
        assert_eq!(kinds, [("CORE", PRSTATUS), ("CORE", NT_FPREGSET)]);
        let register = |index: usize| u64::from_le_bytes(*notes[0].desc[112 + index * 8..].first_chunk().unwrap());
        // As `sys/reg.h` numbers them.
        assert_eq!([0, 15, 16, 19].map(register), [0x15, u64::MAX, 0x10_1234, 0x20_0000]);
        assert_eq!([17, 20, 21, 22, 23, 24, 25, 26].map(register), [8, 16, 0x30_0000, 0, 16, 7, 16, 9]);
        // As `sys/user.h` numbers them: MXCSR at 24, XMM0 at 160.
        let fpu = notes[1].desc;
        assert_eq!((fpu.len(), fpu[0], fpu[24], &fpu[160..162]), (512, 0x7f, 0x81, &[0x22, 0x11][..]));
    }

    #[test]
    fn a_trap_changes_what_the_cpu_pushes() {
        let frame = TrapFrame { rip: 1, rflags: 2, rsp: 3, cr2: 4, cs: 8, ss: 24, ..TrapFrame::default() };
        let bytes: [u8; size_of::<TrapFrame>()] = zerocopy::transmute!(frame);
        let before = Registers { rax: 7, rip: 9, ..Registers::default() };
        let after = TrapFrame::from_bytes(&bytes).apply(CpuState::from(before));
        assert_eq!(after.registers, Registers { rax: 7, rip: 1, rflags: 2, rsp: 3, ..Registers::default() });
        assert_eq!(after.segments, Segments { ss: 24, ..Segments::default() });
    }
}
