//! What KVM wants to know of an aarch64 vCPU.
//!
//! There is no interrupt controller, so nothing but the [stop](super::kick) of a run wakes a guest that waits for an
//! interrupt (`wfi`): KVM waits with it, and does not come back to say so.

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use hvt_abi::Gpa;
use hvt_abi::aarch64::{ADDRESS_BITS, EntryState, MMIO_BASE, MMIO_SIZE, RING_KICK, Registers};
use hvt_abi::ring::NET_RING;
use kvm_bindings::{
    KVM_CAP_ARM_NISV_TO_USER, KVM_EXIT_ARM_NISV, KVM_EXIT_MMIO, KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG,
    KVM_REG_ARM64_SYSREG_CRM_SHIFT, KVM_REG_ARM64_SYSREG_CRN_SHIFT, KVM_REG_ARM64_SYSREG_OP0_SHIFT,
    KVM_REG_ARM64_SYSREG_OP1_SHIFT, KVM_REG_ARM64_SYSREG_OP2_SHIFT, KVM_REG_SIZE_U64, KVMIO, kvm_enable_cap,
    kvm_ioeventfd, kvm_one_reg, kvm_regs, kvm_run, kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use nix::request_code_write;

use super::exit::hex;
use super::{Kvm, kvm_error};
use crate::backend::Error;
use crate::backend::frequency::{self, Frequency};
use crate::exit::{Cause, Exit};
use crate::memory::{Access, MappedMemory};

/// What is needed on this architecture.
pub(super) const CAPABILITIES: &[(Cap, &str)] = &[(Cap::OneReg, "KVM_CAP_ONE_REG")];

/// What helps where there is no `/dev/kvm`.
pub(super) const MISSING: &str =
    "this kernel must have KVM, and must have been started at EL2 by the firmware or the hypervisor below it";

/// What is asked of a vCPU while its guest runs, besides that it runs: its registers.
pub(super) const WHILE_RUNNING: [libc::Ioctl; 1] = [request_code_write!(KVMIO, 0xab, size_of::<kvm_one_reg>())];

/// Why `KVM_RUN` comes back for a hypercall or a kick.
pub(super) const HYPERCALL: u32 = KVM_EXIT_MMIO;

/// Id of the core register at `offset` in `struct kvm_regs` (Linux, Documentation/virt/kvm/api.rst, 4.68).
const fn core(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / size_of::<u32>()) as u64
}

/// Id of general register `number`.
const fn general(number: usize) -> u64 {
    core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, regs) + number * size_of::<u64>())
}

const PC: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pc));
const PSTATE: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pstate));
const SP_EL1: u64 = core(offset_of!(kvm_regs, sp_el1));

/// Id of the system register that MSR and MRS encode like this: op0, op1, CRn, CRm, op2.
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

const SCTLR_EL1: u64 = system(3, 0, 1, 0, 0);
const CPACR_EL1: u64 = system(3, 0, 1, 0, 2);
const TTBR0_EL1: u64 = system(3, 0, 2, 0, 0);
const TCR_EL1: u64 = system(3, 0, 2, 0, 2);
const MAIR_EL1: u64 = system(3, 0, 10, 2, 0);

/// Makes a virtual machine, with physical addresses of as many bits as the ABI has, or as this host can where that is
/// less: 32 at least, and guests have no use for more than 33.
pub(super) fn create_vm(system: &kvm_ioctls::Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    match u32::try_from(system.get_host_ipa_limit()) {
        Ok(limit @ 1..ADDRESS_BITS) => system.create_vm_with_ipa_size(limit),
        // Kernels that know of no limit, before 4.20, have what is the default of all.
        _ => system.create_vm(),
    }
}

/// What kind of vCPU this host's KVM makes.
pub(super) type Model = kvm_vcpu_init;

/// Asks for it.
pub(super) fn model(_system: &kvm_ioctls::Kvm, vm: &VmFd) -> Result<Model, kvm_ioctls::Error> {
    let mut model = Model::default();
    vm.get_preferred_target(&mut model).map(|()| model)
}

/// Whether the CPU itself can run guests: where KVM is on this architecture, it can.
pub(super) fn has_hardware() -> bool {
    true
}

/// A kick of the network ring that signals `event`: a 32-bit store of its number to its address.
pub(super) fn ring_kick(event: BorrowedFd<'_>) -> kvm_ioeventfd {
    // Flag (`include/uapi/linux/kvm.h`): by value.
    const DATAMATCH: u32 = 1 << 0;
    kvm_ioeventfd {
        datamatch: NET_RING.into(),
        addr: RING_KICK.0,
        len: 4,
        fd: event.as_raw_fd(),
        flags: DATAMATCH,
        ..kvm_ioeventfd::default()
    }
}

/// The hypercall or kick that [`HYPERCALL`] reports; `None` where the access is neither.
///
/// # Safety
/// `run` lies at the start of a mapping of a vCPU whose `KVM_RUN` has just returned 0 with this exit reason.
pub(super) unsafe fn hypercall(run: &kvm_run) -> Option<Exit> {
    // SAFETY: every bit pattern is a valid value of this member of the union.
    let mmio = unsafe { run.__bindgen_anon_1.mmio };
    if mmio.is_write == 0 {
        return None;
    }
    let [a, b, c, d, ..] = mmio.data;
    Exit::from_store(Gpa(mmio.phys_addr), mmio.len, u32::from_le_bytes([a, b, c, d]))
}

/// What a guest did that ends it, where that is this architecture's own.
pub(super) fn cause(run: &kvm_run) -> Option<Cause> {
    let what = &run.__bindgen_anon_1;
    // SAFETY: every bit pattern is a valid value of the members of this union that are read here. They mean something
    // only with the exit reason that stands before each.
    unsafe {
        match run.exit_reason {
            KVM_EXIT_MMIO => Some(access(what.mmio.phys_addr, Some(what.mmio.len), what.mmio.is_write != 0)),
            KVM_EXIT_ARM_NISV => {
                // ESR_EL2.ISS of a data abort: bit 6, WnR.
                Some(access(what.arm_nisv.fault_ipa, None, what.arm_nisv.esr_iss & 1 << 6 != 0))
            }
            _ => None,
        }
    }
}

/// An access to where the host has no memory.
fn access(address: u64, size: Option<u32>, write: bool) -> Cause {
    if (MMIO_BASE.0..MMIO_BASE.0 + MMIO_SIZE).contains(&address) {
        return Cause::Device { address: Gpa(address), size, write };
    }
    Cause::Memory { address: Some(Gpa(address)), access: if write { Access::WRITE } else { Access::READ } }
}

/// What KVM could not emulate: it tries to on no CPU of this architecture.
pub(super) fn not_emulated(_vcpu: &VcpuFd, _memory: &MappedMemory, bytes: Vec<u8>) -> Cause {
    Cause::Instruction { what: format!("the instruction {}", hex(&bytes)) }
}

/// Puts the vCPU at the guest's entry point.
pub(super) fn set_up(kvm: &Kvm, entry: &EntryState) -> Result<(), Error> {
    let Kvm { vm, vcpu, model } = kvm;
    // Without it, a load or store of more than one register where there is no memory makes `KVM_RUN` fail, and says
    // nothing.
    vm.enable_cap(&kvm_enable_cap { cap: KVM_CAP_ARM_NISV_TO_USER, ..kvm_enable_cap::default() })
        .map_err(|error| kvm_error("enabling KVM_CAP_ARM_NISV_TO_USER (Linux 5.5)", error))?;
    vcpu.vcpu_init(model).map_err(|error| kvm_error("initialising the vCPU", error))?;
    let registers = [
        (MAIR_EL1, entry.mair),
        (TCR_EL1, entry.tcr.bits()),
        (TTBR0_EL1, entry.ttbr0.0),
        (CPACR_EL1, entry.cpacr.bits()),
        (SCTLR_EL1, entry.sctlr.bits()),
        (PSTATE, entry.pstate.bits()),
        (SP_EL1, entry.sp.0),
        (PC, entry.pc.0),
        (general(0), entry.x0.0),
    ];
    for (id, value) in registers {
        vcpu.set_one_reg(id, &value.to_le_bytes()).map_err(|error| kvm_error("setting the vCPU's registers", error))?;
    }
    Ok(())
}

/// The vCPU's registers.
///
/// While a hypercall is being served, PC still points at its store.
pub(super) fn registers(vcpu: &VcpuFd) -> Result<Registers, Error> {
    let mut registers = Registers::default();
    for (number, register) in registers.x.iter_mut().enumerate() {
        *register = read(vcpu, general(number))?;
    }
    registers.sp = read(vcpu, SP_EL1)?;
    registers.pc = read(vcpu, PC)?;
    registers.pstate = read(vcpu, PSTATE)?;
    Ok(registers)
}

fn read(vcpu: &VcpuFd, id: u64) -> Result<u64, Error> {
    let mut value = [0; 8];
    vcpu.get_one_reg(id, &mut value).map_err(|error| kvm_error("reading the vCPU's registers", error))?;
    Ok(u64::from_le_bytes(value))
}

/// Frequency of the vCPU's counter, which is the host's.
pub(super) fn cycle_frequency(_vcpu: &VcpuFd) -> Result<Frequency, Error> {
    frequency::cycle_frequency()
}
