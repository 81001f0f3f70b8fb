//! Exceptions that the tender makes the guest take, and exceptions of a guest without vectors that
//! reach the tender's vectors. The tender emulates the former, because the only synchronous
//! exception that KVM can inject is an external abort.

use hvt_abi::aarch64::{Pstate, Registers, Sctlr, UNHANDLED_STORE, VECTOR_SIZE, VECTORS, VECTORS_BASE};
use kvm_ioctls::VcpuFd;

use super::registers::{ELR_EL1, ESR_EL1, PC, PSTATE, SCTLR_EL1, SP_EL0, SPSR_EL1, TPIDR_EL1, VBAR_EL1, read, write};
use crate::backend::BackendError;

/// Bits of PSTATE kept when an exception is taken: flags, DIT and PAN.
const KEPT: u64 = 0xf << 28 | 1 << 24 | PAN;
/// PSTATE.PAN.
const PAN: u64 = 1 << 22;
/// PSTATE.SSBS, and SCTLR_EL1.DSSBS, which is its value after an exception.
const SSBS: u64 = 1 << 12;
const DSSBS: u64 = 1 << 44;
/// PSTATE.nRW: the CPU is in AArch32 state.
const NRW: u64 = 1 << 4;

/// Makes the vCPU take a synchronous exception to EL1 with this syndrome.
pub(in super::super) fn take(vcpu: &VcpuFd, syndrome: u64) -> Result<(), BackendError> {
    // Hides the debugger's step from the guest.
    let from = read(vcpu, PSTATE)? & !Pstate::SS.bits();
    let control = read(vcpu, SCTLR_EL1)?;
    write(vcpu, ESR_EL1, syndrome)?;
    write(vcpu, ELR_EL1, read(vcpu, PC)?)?;
    write(vcpu, SPSR_EL1, from)?;
    write(vcpu, PC, read(vcpu, VBAR_EL1)?.wrapping_add(vector(from)))?;
    write(vcpu, PSTATE, pstate(from, control))
}

/// Offset from VBAR_EL1 of the vector of a synchronous exception that is taken with this PSTATE
/// (Arm ARM, D1.3.1.5).
fn vector(pstate: u64) -> u64 {
    /// M\[3:2\]: the exception level.
    const LEVEL: u64 = 3 << 2;
    match pstate {
        _ if pstate & NRW != 0 => 0x600,
        _ if pstate & LEVEL == 0 => 0x400,
        // SP_EL0 or SP_EL1.
        _ if pstate & 1 == 0 => 0,
        _ => 0x200,
    }
}

/// PSTATE after the exception is taken with this SCTLR_EL1 (Arm ARM, D1.3.1.4).
fn pstate(from: u64, control: u64) -> u64 {
    let mut pstate = from & KEPT | Pstate::ENTRY.bits();
    if control & Sctlr::SPAN.bits() == 0 {
        pstate |= PAN;
    }
    if control & DSSBS != 0 {
        pstate |= SSBS;
    }
    pstate
}

/// Returns true if PC is at the store that reports an exception to the tender.
pub(super) fn is_unhandled(pc: u64) -> bool {
    let vectors = VECTORS_BASE.0..VECTORS_BASE.0 + size_of_val(&VECTORS) as u64;
    vectors.contains(&pc) && pc % VECTOR_SIZE == UNHANDLED_STORE
}

/// Reconstructs the registers at the exception from the registers of a vCPU at that store.
pub(super) fn before_exception(vcpu: &VcpuFd, now: Registers) -> Result<Registers, BackendError> {
    let pstate = read(vcpu, SPSR_EL1)?;
    // M\[0\]: the exception level used its own stack pointer; otherwise it used SP_EL0.
    let sp = if pstate & 1 == 1 { now.sp } else { read(vcpu, SP_EL0)? };
    let mut registers = Registers { sp, pc: read(vcpu, ELR_EL1)?, pstate, ..now };
    registers.x[0] = read(vcpu, TPIDR_EL1)?;
    Ok(registers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: u64 = Pstate::ENTRY.bits();

    #[test]
    fn the_vector_tells_where_the_exception_came_from() {
        assert_eq!([0b0101, 0b0100, 0b0000, 0b1_0000].map(vector), [0x200, 0, 0x400, 0x600]);
        assert_eq!(vector(ENTRY), 0x200);
    }

    #[test]
    fn only_the_stores_of_the_vectors_tell_of_an_exception() {
        let found = (0xf_0000..0x10_1000).step_by(4).filter(|pc| is_unhandled(*pc));
        assert!(found.eq((0..16).map(|vector| 0xf_f008 + 0x80 * vector)));
    }

    #[test]
    fn an_exception_masks_interrupts_and_keeps_the_flags() {
        let (flags, step, illegal) = (0xa << 28, 1 << 21, 1 << 20);
        let same = Sctlr::ENTRY.bits();
        assert_eq!(pstate(flags | step | illegal | 0b0100, same), flags | ENTRY);
        assert_eq!(pstate(SSBS | PAN, same), PAN | ENTRY);
        assert_eq!(pstate(0, DSSBS), PAN | SSBS | ENTRY);
    }
}
