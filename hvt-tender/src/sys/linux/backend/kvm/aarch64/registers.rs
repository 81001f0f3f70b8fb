//! Access to single registers of a vCPU: `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG`.

use std::mem::offset_of;

use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_ARM64_SYSREG_CRM_SHIFT,
    KVM_REG_ARM64_SYSREG_CRN_SHIFT, KVM_REG_ARM64_SYSREG_OP0_SHIFT, KVM_REG_ARM64_SYSREG_OP1_SHIFT,
    KVM_REG_ARM64_SYSREG_OP2_SHIFT, KVM_REG_SIZE_U32, KVM_REG_SIZE_U64, KVM_REG_SIZE_U128, kvm_regs, user_fpsimd_state,
    user_pt_regs,
};
use kvm_ioctls::VcpuFd;

use crate::backend::BackendError;
use crate::backend::kvm::kvm_error;

/// Id of the core register at `offset` in `struct kvm_regs` (Linux, Documentation/virt/kvm/api.rst, 4.68).
const fn core(offset: usize) -> u64 {
    core_of_size(KVM_REG_SIZE_U64, offset)
}

/// Id of the core register at `offset` whose size is not 64 bits.
const fn core_of_size(size: u64, offset: usize) -> u64 {
    KVM_REG_ARM64 | size | KVM_REG_ARM_CORE as u64 | (offset / size_of::<u32>()) as u64
}

/// Id of general register `number`.
pub(super) const fn general(number: usize) -> u64 {
    core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, regs) + number * size_of::<u64>())
}

pub(super) const PC: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pc));
pub(super) const PSTATE: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pstate));
pub(super) const SP_EL1: u64 = core(offset_of!(kvm_regs, sp_el1));
/// SP_EL0, under the name that Linux uses for its own processes.
pub(super) const SP_EL0: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, sp));
pub(super) const ELR_EL1: u64 = core(offset_of!(kvm_regs, elr_el1));
/// SPSR_EL1, the first element of `spsr`.
pub(super) const SPSR_EL1: u64 = core(offset_of!(kvm_regs, spsr));

/// Id of SIMD register `number`.
pub(super) const fn vector(number: usize) -> u64 {
    let offset = offset_of!(user_fpsimd_state, vregs) + number * size_of::<u128>();
    core_of_size(KVM_REG_SIZE_U128, offset_of!(kvm_regs, fp_regs) + offset)
}

pub(super) const FPSR: u64 =
    core_of_size(KVM_REG_SIZE_U32, offset_of!(kvm_regs, fp_regs) + offset_of!(user_fpsimd_state, fpsr));
pub(super) const FPCR: u64 =
    core_of_size(KVM_REG_SIZE_U32, offset_of!(kvm_regs, fp_regs) + offset_of!(user_fpsimd_state, fpcr));

/// Id of the system register with this encoding in MSR and MRS: op0, op1, CRn, CRm, op2.
const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    KVM_REG_ARM64
        | KVM_REG_SIZE_U64
        | KVM_REG_ARM64_SYSREG as u64
        | op0 << KVM_REG_ARM64_SYSREG_OP0_SHIFT
        | op1 << KVM_REG_ARM64_SYSREG_OP1_SHIFT
        | crn << KVM_REG_ARM64_SYSREG_CRN_SHIFT
        | crm << KVM_REG_ARM64_SYSREG_CRM_SHIFT
        | op2 << KVM_REG_ARM64_SYSREG_OP2_SHIFT
}

/// System registers by name, with their encoding in MSR and MRS.
macro_rules! system_registers {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)+) => {
        $(pub(super) const $name: u64 = system($op0, $op1, $crn, $crm, $op2);)+
    };
}

system_registers! {
    SCTLR_EL1 = 3 0 1 0 0;
    CPACR_EL1 = 3 0 1 0 2;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    ESR_EL1 = 3 0 5 2 0;
    FAR_EL1 = 3 0 6 0 0;
    MAIR_EL1 = 3 0 10 2 0;
    VBAR_EL1 = 3 0 12 0 0;
    TPIDR_EL1 = 3 0 13 0 4;
    TPIDR_EL0 = 3 3 13 0 2;
}

/// Reads a register of `SIZE` bytes.
pub(super) fn get<const SIZE: usize>(vcpu: &VcpuFd, id: u64) -> Result<[u8; SIZE], BackendError> {
    let mut value = [0; SIZE];
    vcpu.get_one_reg(id, &mut value).map_err(|error| kvm_error("reading the vCPU's registers", error))?;
    Ok(value)
}

/// Writes a register whose size is the length of `value`.
pub(super) fn set(vcpu: &VcpuFd, id: u64, value: &[u8]) -> Result<(), BackendError> {
    vcpu.set_one_reg(id, value).map(|_| ()).map_err(|error| kvm_error("setting the vCPU's registers", error))
}

/// Reads a 64-bit register.
pub(super) fn read(vcpu: &VcpuFd, id: u64) -> Result<u64, BackendError> {
    get(vcpu, id).map(u64::from_le_bytes)
}

/// Writes a 64-bit register.
pub(super) fn write(vcpu: &VcpuFd, id: u64, value: u64) -> Result<(), BackendError> {
    set(vcpu, id, &value.to_le_bytes())
}
