//! x86_64: register layouts of Linux, and the trap frame of a guest's trap handler.

use goblin::elf::header::EM_X86_64;
use hvt_abi::hypercall::HALT_COOKIE_SIZE;
use hvt_abi::x86_64::Registers;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::elf::{Cause, NT_FPREGSET, note, note_size, status_note, status_note_size};
use crate::backend::debug::{CpuState, FxState, Segments};

/// `e_machine`.
pub(super) const MACHINE: u16 = EM_X86_64;

/// Trap frame that a guest's trap handler passes through its halt cookie: the registers that the
/// trap changed (`struct x86_trap_regs` of Solo5's `hvt_cpu_x86_64.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct TrapFrame {
    pub cr2: u64,
    /// 0 for exceptions without an error code.
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl TrapFrame {
    /// Returns the frame with these bytes.
    fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        zerocopy::transmute!(*bytes)
    }

    /// Returns `state` at the time of the trap.
    fn apply(&self, state: CpuState) -> CpuState {
        let registers = Registers { rip: self.rip, rflags: self.rflags, rsp: self.rsp, ..state.registers };
        let segments = Segments { cs: self.cs as u16, ss: self.ss as u16, ..state.segments };
        CpuState { registers, segments, ..state }
    }
}

/// Size of a [`TrapFrame`] in bytes.
pub(super) const TRAP_FRAME_SIZE: usize = size_of::<TrapFrame>();

/// Returns `state` at the time of the trap that `frame` describes. The trap handler may have
/// changed registers that are not in the frame.
pub(super) fn at_trap(state: CpuState, frame: &[u8; TRAP_FRAME_SIZE]) -> CpuState {
    TrapFrame::from_bytes(frame).apply(state)
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
    assert!(TRAP_FRAME_SIZE <= HALT_COOKIE_SIZE as usize);
    assert!(size_of::<UserRegisters>() == 27 * 8);
};

/// Size of the notes in bytes.
pub(super) const NOTES_SIZE: usize = status_note_size(size_of::<UserRegisters>()) + note_size(size_of::<FxState>());

/// Returns the notes with the registers.
pub(super) fn notes(state: &CpuState, cause: Cause) -> Vec<u8> {
    [status_note(cause, user_registers(state).as_bytes()), note(NT_FPREGSET, state.fpu.as_bytes())].concat()
}

fn user_registers(state: &CpuState) -> UserRegisters {
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags } =
        state.registers;
    let Segments { cs, ss, ds, es, fs, gs, fs_base, gs_base } = state.segments;
    UserRegisters {
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
        // No system call is in progress.
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core_dump::elf::headers;
    use goblin::elf::Elf;
    use goblin::elf::header::ET_CORE;
    use goblin::elf::note::NT_PRSTATUS;

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
        assert_eq!(kinds, [("CORE", NT_PRSTATUS), ("CORE", NT_FPREGSET)]);
        let register = |index: usize| u64::from_le_bytes(*notes[0].desc[112 + index * 8..].first_chunk().unwrap());
        // In the order of `sys/reg.h`.
        assert_eq!([0, 15, 16, 19].map(register), [0x15, u64::MAX, 0x10_1234, 0x20_0000]);
        assert_eq!([17, 20, 21, 22, 23, 24, 25, 26].map(register), [8, 16, 0x30_0000, 0, 16, 7, 16, 9]);
        // In the order of `sys/user.h`: MXCSR at 24, XMM0 at 160.
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
