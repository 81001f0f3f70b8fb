//! All registers of a vCPU at once, for debuggers and core files.

use hvt_abi::aarch64::Registers;
use kvm_ioctls::VcpuFd;

use super::exception::{before_exception, is_unhandled};
use super::registers::{
    CPACR_EL1, ELR_EL1, ESR_EL1, FAR_EL1, FPCR, FPSR, MAIR_EL1, PC, PSTATE, SCTLR_EL1, SP_EL0, SP_EL1, SPSR_EL1,
    TCR_EL1, TPIDR_EL0, TPIDR_EL1, TTBR0_EL1, TTBR1_EL1, VBAR_EL1, general, get, read, set, vector, write,
};
use crate::backend::BackendError;
use crate::backend::debug::{CpuState, FpState};

/// Registers of the vCPU.
///
/// While a hypercall is being served, PC still points to its store. If the guest took an exception
/// without having vectors, these are the registers at the exception.
pub(in super::super) fn registers(vcpu: &VcpuFd) -> Result<Registers, BackendError> {
    let mut registers = Registers::default();
    for (number, register) in registers.x.iter_mut().enumerate() {
        *register = read(vcpu, general(number))?;
    }
    registers.sp = read(vcpu, SP_EL1)?;
    registers.pc = read(vcpu, PC)?;
    registers.pstate = read(vcpu, PSTATE)?;
    if is_unhandled(registers.pc) {
        registers = before_exception(vcpu, registers)?;
    }
    Ok(registers)
}

/// All registers of the vCPU.
pub(in super::super) fn state(vcpu: &VcpuFd) -> Result<CpuState, BackendError> {
    let mut fpu = FpState::default();
    for (number, register) in fpu.v.iter_mut().enumerate() {
        *register = get(vcpu, vector(number)).map(u128::from_le_bytes)?;
    }
    fpu.fpsr = get(vcpu, FPSR).map(u32::from_le_bytes)?;
    fpu.fpcr = get(vcpu, FPCR).map(u32::from_le_bytes)?;
    Ok(CpuState { registers: registers(vcpu)?, tpidr: read(vcpu, TPIDR_EL0)?, fpu })
}

/// Changes the registers from `before` to `after`.
pub(in super::super) fn set_state(vcpu: &VcpuFd, before: &CpuState, after: &CpuState) -> Result<(), BackendError> {
    let change = |id, before: u64, after: u64| if before == after { Ok(()) } else { write(vcpu, id, after) };
    let (old, new) = (&before.registers, &after.registers);
    for (number, (before, after)) in old.x.into_iter().zip(new.x).enumerate() {
        change(general(number), before, after)?;
    }
    change(SP_EL1, old.sp, new.sp)?;
    change(PC, old.pc, new.pc)?;
    change(PSTATE, old.pstate, new.pstate)?;
    change(TPIDR_EL0, before.tpidr, after.tpidr)?;
    for (number, (before, after)) in before.fpu.v.into_iter().zip(after.fpu.v).enumerate() {
        if before != after {
            set(vcpu, vector(number), &after.to_le_bytes())?;
        }
    }
    for (id, before, after) in [(FPSR, before.fpu.fpsr, after.fpu.fpsr), (FPCR, before.fpu.fpcr, after.fpu.fpcr)] {
        if before != after {
            set(vcpu, id, &after.to_le_bytes())?;
        }
    }
    Ok(())
}

/// Describes the system registers for people.
pub(in super::super) fn describe(vcpu: &VcpuFd) -> Result<String, BackendError> {
    const SHOWN: [(&str, u64); 14] = [
        ("sctlr_el1", SCTLR_EL1),
        ("tcr_el1", TCR_EL1),
        ("mair_el1", MAIR_EL1),
        ("ttbr0_el1", TTBR0_EL1),
        ("ttbr1_el1", TTBR1_EL1),
        ("cpacr_el1", CPACR_EL1),
        ("vbar_el1", VBAR_EL1),
        ("esr_el1", ESR_EL1),
        ("far_el1", FAR_EL1),
        ("elr_el1", ELR_EL1),
        ("spsr_el1", SPSR_EL1),
        ("sp_el0", SP_EL0),
        ("tpidr_el0", TPIDR_EL0),
        ("tpidr_el1", TPIDR_EL1),
    ];
    SHOWN.iter().map(|(name, id)| Ok(format!("{name} {:#x}\n", read(vcpu, *id)?))).collect()
}
