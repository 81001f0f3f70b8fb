//! aarch64: register layouts of Linux, and the trap frame of a guest's trap handler.

use goblin::elf::header::EM_AARCH64;
use hvt_abi::aarch64::Registers;
use hvt_abi::hypercall::HALT_COOKIE_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::elf::{Cause, NT_FPREGSET, note, note_size, status_note, status_note_size};
use crate::backend::debug::{CpuState, FpState};

/// `e_machine`.
pub(super) const MACHINE: u16 = EM_AARCH64;

/// Trap frame that a guest's trap handler passes through its halt cookie: the registers at the
/// trap. The fields up to `esr` are `struct regs` of Solo5's `bindings/cpu_aarch64.c`. Guests of
/// Solo5 pass no frame; guests with this project's bindings do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrapFrame {
    /// X0 to X30.
    pub x: [u64; 31],
    /// ELR_EL1: PC.
    pub elr: u64,
    /// SPSR_EL1: PSTATE.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// SP_EL1.
    pub sp: u64,
}

/// Size of a [`TrapFrame`] in bytes.
pub(super) const TRAP_FRAME_SIZE: usize = size_of::<TrapFrame>();

/// Returns `state` at the time of the trap that `frame` describes. The trap handler may have
/// changed SIMD registers.
pub(super) fn at_trap(state: CpuState, frame: &[u8; TRAP_FRAME_SIZE]) -> CpuState {
    let TrapFrame { x, elr, spsr, sp, .. } = zerocopy::transmute!(*frame);
    CpuState { registers: Registers { x, sp, pc: elr, pstate: spsr }, ..state }
}

const _: () = assert!(TRAP_FRAME_SIZE <= HALT_COOKIE_SIZE as usize);

/// Size of the notes in bytes.
pub(super) const NOTES_SIZE: usize = status_note_size(size_of::<Registers>()) + note_size(size_of::<FpState>());

/// Returns the notes with the registers, in the layout of Linux's `struct user_pt_regs` and `struct
/// user_fpsimd_state`.
pub(super) fn notes(state: &CpuState, cause: Cause) -> Vec<u8> {
    [status_note(cause, state.registers.as_bytes()), note(NT_FPREGSET, state.fpu.as_bytes())].concat()
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
        let mut registers = Registers { sp: 0x20_0000, pc: 0x10_1234, pstate: 0x3c5, ..Registers::default() };
        (registers.x[0], registers.x[30]) = (7, 0x10_5678);
        let mut state = CpuState::from(registers);
        (state.fpu.v[0], state.fpu.v[31], state.fpu.fpsr, state.fpu.fpcr) = (0x1122, 0x33 << 120, 0x10, 0x40_0000);
        let bytes = headers(&state, Cause::Abort, 0);
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!((elf.header.e_type, elf.header.e_machine), (ET_CORE, EM_AARCH64));
        let notes: Vec<_> = elf.iter_note_headers(&bytes).unwrap().map(Result::unwrap).collect();
        let kinds: Vec<_> = notes.iter().map(|note| (note.name, note.n_type)).collect();
        assert_eq!(kinds, [("CORE", NT_PRSTATUS), ("CORE", NT_FPREGSET)]);
        // gdb recognizes the note of this architecture by its size.
        assert_eq!(notes[0].desc.len(), 392);
        let register = |index: usize| u64::from_le_bytes(*notes[0].desc[112 + index * 8..].first_chunk().unwrap());
        assert_eq!([0, 30, 31, 32, 33].map(register), [7, 0x10_5678, 0x20_0000, 0x10_1234, 0x3c5]);
        // In the order of `asm/ptrace.h`: V0 to V31, FPSR at 512, FPCR.
        let fpu = notes[1].desc;
        assert_eq!((fpu.len(), &fpu[..2], fpu[511], fpu[512], fpu[518]), (528, &[0x22, 0x11][..], 0x33, 0x10, 0x40));
    }

    #[test]
    fn a_trap_frame_replaces_the_registers() {
        let frame = TrapFrame { x: [9; 31], elr: 1, spsr: 2, esr: 3, far: 4, sp: 5 };
        let bytes: [u8; TRAP_FRAME_SIZE] = zerocopy::transmute!(frame);
        let before = CpuState { tpidr: 7, ..CpuState::default() };
        let registers = Registers { x: [9; 31], sp: 5, pc: 1, pstate: 2 };
        assert_eq!(at_trap(before, &bytes), CpuState { registers, ..before });
    }
}
