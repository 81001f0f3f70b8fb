//! KVM set-up of an aarch64 vCPU.
//!
//! There is no interrupt controller, so that only the [stop](super::kick) of a run wakes a guest
//! that waits for an interrupt (`wfi`): KVM blocks in `KVM_RUN` and does not return.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

pub(super) mod debug;
mod exception;
mod registers;
mod state;
mod walk;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use hvt_abi::Gpa;
use hvt_abi::aarch64::{ADDRESS_BITS, EntryState, MMIO_BASE, MMIO_SIZE, RING_KICK, Registers, UNHANDLED_EXCEPTION};
use hvt_abi::ring::NET_RING;
use kvm_bindings::{
    KVM_CAP_ARM_NISV_TO_USER, KVM_EXIT_ARM_NISV, KVM_EXIT_MMIO, KVMIO, kvm_enable_cap, kvm_guest_debug, kvm_ioeventfd,
    kvm_one_reg, kvm_run, kvm_vcpu_init,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use nix::request_code_write;

pub(super) use self::exception::take;
use self::registers::{
    CPACR_EL1, ESR_EL1, FAR_EL1, MAIR_EL1, PC, PSTATE, SCTLR_EL1, SP_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1, VBAR_EL1,
    general, read, write,
};
pub(super) use self::state::{describe, registers, set_state, state};
use super::exit::hex;
use super::{Kvm, kvm_error};
use crate::backend::BackendError;
use crate::backend::frequency::{self, Frequency};
use crate::exit::{Cause, Exit};
use crate::memory::{MappedMemory, Permissions};

/// Required capabilities on this architecture.
pub(super) const CAPABILITIES: &[(Cap, &str)] = &[(Cap::OneReg, "KVM_CAP_ONE_REG")];

/// Remedy if there is no `/dev/kvm`.
pub(super) const MISSING: &str =
    "the kernel must support KVM, and the firmware or outer hypervisor must start it at EL2";

/// Requests to a vCPU while its guest runs, besides `KVM_RUN`: reads of its registers.
pub(super) const WHILE_RUNNING: [libc::Ioctl; 1] = [request_code_write!(KVMIO, 0xab, size_of::<kvm_one_reg>())];

/// Further requests to a vCPU under a debugger: writes of its registers, and breakpoints.
pub(super) const WHILE_DEBUGGED: [libc::Ioctl; 2] = [
    request_code_write!(KVMIO, 0xac, size_of::<kvm_one_reg>()),
    request_code_write!(KVMIO, 0x9b, size_of::<kvm_guest_debug>()),
];

/// Exit reason of a hypercall or a kick.
pub(super) const HYPERCALL: u32 = KVM_EXIT_MMIO;

/// Creates a virtual machine with as many physical address bits as the ABI has, or as this host
/// supports, if fewer: at least 32. No guest needs more than 33.
pub(super) fn create_vm(system: &kvm_ioctls::Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    match u32::try_from(system.get_host_ipa_limit()) {
        Ok(limit @ 1..ADDRESS_BITS) => system.create_vm_with_ipa_size(limit),
        // Kernels before 4.20 report no limit and use the default of all kernels.
        _ => system.create_vm(),
    }
}

/// vCPU target of this host's KVM.
pub(super) type Model = kvm_vcpu_init;

/// Queries the target.
pub(super) fn model(_system: &kvm_ioctls::Kvm, vm: &VmFd) -> Result<Model, kvm_ioctls::Error> {
    let mut model = Model::default();
    vm.get_preferred_target(&mut model).map(|()| model)
}

/// Restricts KVM features beyond the ID registers. There are none: KVM has no switch for the
/// firmware calls that it answers.
pub(super) fn restrict(_vm: &VmFd, _vcpu: &VcpuFd) -> io::Result<()> {
    Ok(())
}

/// Returns true if the CPU itself can run guests. On this architecture KVM exists only then.
pub(super) fn has_hardware() -> bool {
    true
}

/// Returns the kick of the network ring that signals `event`: a 32-bit store of the ring number to
/// the kick address.
pub(super) fn ring_kick(event: BorrowedFd<'_>) -> kvm_ioeventfd {
    // Flag (`include/uapi/linux/kvm.h`): compare the value.
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

/// Decodes the hypercall or kick that [`HYPERCALL`] reports. Returns `None` if the access is
/// neither.
///
/// # Safety
/// `run` must be the start of a vCPU's mapping, and its `KVM_RUN` must just have returned 0 with
/// this exit reason.
pub(super) unsafe fn hypercall(run: &kvm_run) -> Option<Exit> {
    // SAFETY: every bit pattern is a valid value of this member of the union.
    let mmio = unsafe { run.__bindgen_anon_1.mmio };
    if mmio.is_write == 0 {
        return None;
    }
    let [a, b, c, d, ..] = mmio.data;
    Exit::from_store(Gpa(mmio.phys_addr), mmio.len, u32::from_le_bytes([a, b, c, d]))
}

/// Returns the cause of an exit that is specific to this architecture and ends the guest.
pub(super) fn cause(run: &kvm_run) -> Option<Cause> {
    let what = &run.__bindgen_anon_1;
    // SAFETY: every bit pattern is a valid value of the union members read here. Each member is
    // meaningful only with the exit reason matched before it.
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

/// Classifies an access to an address without host memory.
fn access(address: u64, size: Option<u32>, write: bool) -> Cause {
    if (MMIO_BASE.0..MMIO_BASE.0 + MMIO_SIZE).contains(&address) {
        return Cause::Device { address: Gpa(address), size, write };
    }
    Cause::Memory { address: Some(Gpa(address)), access: if write { Permissions::WRITE } else { Permissions::READ } }
}

/// Returns the cause behind `cause`: for the store in the tender's
/// [vectors](hvt_abi::aarch64::VECTORS), the exception that led there.
pub(super) fn behind(vcpu: &VcpuFd, cause: Cause) -> Cause {
    const STORE: Cause = Cause::Device { address: UNHANDLED_EXCEPTION, size: Some(4), write: true };
    if cause != STORE || !read(vcpu, PC).is_ok_and(exception::is_unhandled) {
        return cause;
    }
    match (read(vcpu, ESR_EL1), read(vcpu, FAR_EL1)) {
        (Ok(syndrome), Ok(address)) => Cause::Exception { syndrome, address },
        _ => cause,
    }
}

/// Returns true if the registers are valid for a guest that ended for this cause: always here.
pub(super) fn are_the_guests(_registers: &Registers, _cause: &Cause) -> bool {
    true
}

/// Describes an instruction that KVM could not emulate. On this architecture KVM never tries.
pub(super) fn not_emulated(_vcpu: &VcpuFd, _memory: &MappedMemory, bytes: Vec<u8>) -> Cause {
    Cause::Instruction { what: format!("the instruction {}", hex(&bytes)) }
}

/// Sets the vCPU to the guest's entry point.
pub(super) fn set_up(kvm: &Kvm, entry: &EntryState) -> Result<(), BackendError> {
    let Kvm { vm, vcpu, model, .. } = kvm;
    // Without this, a load or store of more than one register at an address without memory makes
    // `KVM_RUN` fail without details.
    vm.enable_cap(&kvm_enable_cap { cap: KVM_CAP_ARM_NISV_TO_USER, ..kvm_enable_cap::default() })
        .map_err(|error| kvm_error("enabling KVM_CAP_ARM_NISV_TO_USER (Linux 5.5)", error))?;
    vcpu.vcpu_init(model).map_err(|error| kvm_error("initialising the vCPU", error))?;
    let registers = [
        (MAIR_EL1, entry.mair),
        (TCR_EL1, entry.tcr.bits()),
        (TTBR0_EL1, entry.ttbr0.0),
        (CPACR_EL1, entry.cpacr.bits()),
        (VBAR_EL1, entry.vbar.0),
        (SCTLR_EL1, entry.sctlr.bits()),
        (PSTATE, entry.pstate.bits()),
        (SP_EL1, entry.sp.0),
        (PC, entry.pc.0),
        (general(0), entry.x0.0),
    ];
    registers.into_iter().try_for_each(|(id, value)| write(vcpu, id, value))
}

/// Translates a guest-virtual address. This architecture has no `KVM_TRANSLATE`.
pub(super) fn translate(vcpu: &VcpuFd, memory: &MappedMemory, address: u64) -> Option<Gpa> {
    let register = |id| read(vcpu, id).ok();
    let regime = walk::Regime {
        sctlr: register(SCTLR_EL1)?,
        tcr: register(TCR_EL1)?,
        ttbr: [register(TTBR0_EL1)?, register(TTBR1_EL1)?],
    };
    regime.translate(memory, address)
}

/// Frequency of the vCPU's counter, the same as the host's.
pub(super) fn cycle_frequency(_vcpu: &VcpuFd) -> Result<Frequency, BackendError> {
    frequency::cycle_frequency()
}
