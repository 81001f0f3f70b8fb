//! Guest registers in the signal frame of the child.

use std::mem::offset_of;

use hvt_abi::x86_64::{EntryState, Registers};
use zerocopy::IntoBytes;

use super::RELAXED;
use super::exchange::Exchange;
use crate::backend::debug::FxState;

/// Signal frame on the signal stack: a `ucontext_t` and the `siginfo_t` next to it.
#[derive(Clone, Copy)]
pub(super) struct Frame<'x> {
    exchange: &'x Exchange,
    context: u64,
    info: u64,
}

/// The child reported a signal frame at an invalid address.
#[derive(Debug)]
pub(super) struct BadFrame;

/// Signal as described by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signal {
    /// Signal number.
    pub(super) number: i32,
    /// `si_code`, positive for a signal raised by the kernel.
    pub(super) code: i32,
    /// Exception vector of the signal; meaningless for SIGSYS.
    pub(super) vector: u64,
    /// Error code of the exception.
    pub(super) error: u64,
    /// Address of a page fault.
    pub(super) cr2: u64,
}

const REGISTERS: u64 = (offset_of!(libc::ucontext_t, uc_mcontext) + offset_of!(libc::mcontext_t, gregs)) as u64;
const FPU: u64 = (offset_of!(libc::ucontext_t, uc_mcontext) + offset_of!(libc::mcontext_t, fpregs)) as u64;
/// Offset of the kernel's mark that an XSAVE header follows the legacy area: `struct _fpx_sw_bytes`
/// (`arch/x86/include/uapi/asm/sigcontext.h`).
const XSAVE_MAGIC_AT: u64 = 464;
/// Value of the mark.
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
/// First word of the XSAVE header (SDM volume 1, 13.4.2).
const XSTATE_BV_AT: u64 = 512;
/// State component of PKRU (SDM volume 1, 13.1). The kernel puts execute-only code behind a
/// protection key, to which PKRU denies access; the initial state of PKRU would allow all keys.
const PKRU: u64 = 1 << 9;
/// End of the part of the frame that this module accesses through fixed offsets.
const CONTEXT_SIZE: u64 = FPU + 8;

impl<'x> Frame<'x> {
    /// Returns the frame that the child reported last.
    pub(super) fn current(exchange: &'x Exchange) -> Result<Self, BadFrame> {
        let header = exchange.header();
        let context = header.ucontext.load(RELAXED);
        let info = header.siginfo.load(RELAXED);
        // Both ends are checked, because a frame is longer than a word. Everything between two
        // words of the exchange pages lies in the exchange pages.
        for (address, last) in [(context, CONTEXT_SIZE - 8), (info, 16)] {
            let end = address.checked_add(last).ok_or(BadFrame)?;
            if exchange.word(address).is_none() || exchange.word(end).is_none() {
                return Err(BadFrame);
            }
        }
        Ok(Self { exchange, context, info })
    }

    fn load(&self, address: u64) -> u64 {
        // `current` has checked both ends of the frame.
        self.exchange.word(address).map_or(0, |word| word.load(RELAXED))
    }

    fn store(&self, address: u64, value: u64) {
        if let Some(word) = self.exchange.word(address) {
            word.store(value, RELAXED);
        }
    }

    fn address_of(&self, register: libc::c_int) -> u64 {
        self.context + REGISTERS + register as u64 * 8
    }

    /// Reads a register, given by `libc::REG_*`.
    pub(super) fn get(&self, register: libc::c_int) -> u64 {
        self.load(self.address_of(register))
    }

    /// Writes a register.
    pub(super) fn set(&self, register: libc::c_int, value: u64) {
        self.store(self.address_of(register), value);
    }

    /// Describes the signal that the kernel delivered.
    pub(super) fn signal(&self) -> Signal {
        Signal {
            number: self.exchange.header().signal.load(RELAXED) as i32,
            // siginfo_t begins with three ints: si_signo, si_errno, si_code.
            code: self.load(self.info + 8) as u32 as i32,
            vector: self.get(libc::REG_TRAPNO),
            error: self.get(libc::REG_ERR),
            cr2: self.get(libc::REG_CR2),
        }
    }

    /// Overwrites the sender's process id and user id, which the guest must not learn.
    pub(super) fn forget_sender(&self) {
        // `si_pid` and `si_uid` follow the three ints and four bytes of padding.
        self.store(self.info + 16, 0);
    }

    /// Reads all general registers.
    pub(super) fn registers(&self) -> Registers {
        let mut registers = Registers::default();
        for (index, register) in by_index(&mut registers) {
            *register = self.get(index);
        }
        registers
    }

    /// Writes all general registers.
    pub(super) fn set_registers(&self, registers: &Registers) {
        let mut registers = *registers;
        for (index, register) in by_index(&mut registers) {
            self.set(index, *register);
        }
    }

    /// Reads the x87 and SSE registers.
    pub(super) fn fpu(&self) -> FxState {
        let area = self.load(self.context + FPU);
        let mut legacy = [0; size_of::<FxState>()];
        for (offset, bytes) in (0..).step_by(8).zip(legacy.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&self.load(area.wrapping_add(offset)).to_le_bytes());
        }
        let has_header = self.load(area.wrapping_add(XSAVE_MAGIC_AT)) as u32 == FP_XSTATE_MAGIC1;
        let in_use = if has_header { self.load(area.wrapping_add(XSTATE_BV_AT)) } else { u64::MAX };
        FxState::from_xsave(&legacy, in_use)
    }

    /// Writes the x87 and SSE registers.
    pub(super) fn set_fpu(&self, state: &FxState) {
        let area = self.load(self.context + FPU);
        let registers = &state.as_bytes()[..FxState::USED];
        for (offset, word) in (0..).step_by(8).zip(registers.as_chunks().0) {
            self.store(area.wrapping_add(offset), u64::from_le_bytes(*word));
        }
        if self.load(area.wrapping_add(XSAVE_MAGIC_AT)) as u32 == FP_XSTATE_MAGIC1 {
            // Marks both components as in use.
            let in_use = area.wrapping_add(XSTATE_BV_AT);
            self.store(in_use, self.load(in_use) | 3);
        }
    }

    /// Sets the frame to the state of a guest that has not run yet: entry state, an FPU as after
    /// FNINIT (SDM 8.1.5) and MXCSR at its reset value (SDM 11.6.4).
    pub(super) fn set_entry_state(&self, entry: &EntryState) {
        self.set_registers(&Registers {
            rip: entry.rip.0,
            rsp: entry.rsp.0,
            rdi: entry.rdi.0,
            rflags: entry.rflags,
            ..Registers::default()
        });
        let fpu = self.load(self.context + FPU);
        // Clears the legacy area up to the kernel's own words at 464, then sets XSTATE_BV at 512:
        // only PKRU is in use, so that each other component is restored to its initial state (SDM
        // 13.4, 13.8). MXCSR is always loaded from the legacy area.
        for offset in (0..XSAVE_MAGIC_AT).step_by(8) {
            self.store(fpu.wrapping_add(offset), 0);
        }
        let in_use = fpu.wrapping_add(XSTATE_BV_AT);
        self.store(in_use, self.load(in_use) & PKRU);
        self.store(fpu, 0x37f);
        self.store(fpu.wrapping_add(24), 0x1f80);
    }
}

/// Registers with their indices in `gregs`.
fn by_index(registers: &mut Registers) -> [(libc::c_int, &mut u64); 18] {
    [
        (libc::REG_RAX, &mut registers.rax),
        (libc::REG_RBX, &mut registers.rbx),
        (libc::REG_RCX, &mut registers.rcx),
        (libc::REG_RDX, &mut registers.rdx),
        (libc::REG_RSI, &mut registers.rsi),
        (libc::REG_RDI, &mut registers.rdi),
        (libc::REG_RBP, &mut registers.rbp),
        (libc::REG_RSP, &mut registers.rsp),
        (libc::REG_R8, &mut registers.r8),
        (libc::REG_R9, &mut registers.r9),
        (libc::REG_R10, &mut registers.r10),
        (libc::REG_R11, &mut registers.r11),
        (libc::REG_R12, &mut registers.r12),
        (libc::REG_R13, &mut registers.r13),
        (libc::REG_R14, &mut registers.r14),
        (libc::REG_R15, &mut registers.r15),
        (libc::REG_RIP, &mut registers.rip),
        (libc::REG_EFL, &mut registers.rflags),
    ]
}
