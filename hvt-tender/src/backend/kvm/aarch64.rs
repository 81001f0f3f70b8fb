//! What KVM wants to know of an aarch64 vCPU.
//!
//! There is no interrupt controller, so nothing but the [stop](super::kick) of a run wakes a guest that waits for an
//! interrupt (`wfi`): KVM waits with it, and does not come back to say so.

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

/// What is needed on this architecture.
pub(super) const CAPABILITIES: &[(Cap, &str)] = &[(Cap::OneReg, "KVM_CAP_ONE_REG")];

/// What helps where there is no `/dev/kvm`.
pub(super) const MISSING: &str =
    "this kernel must have KVM, and must have been started at EL2 by the firmware or the hypervisor below it";

/// What is asked of a vCPU while its guest runs, besides that it runs: its registers.
pub(super) const WHILE_RUNNING: [libc::Ioctl; 1] = [request_code_write!(KVMIO, 0xab, size_of::<kvm_one_reg>())];

/// What is asked of it besides while there is a debugger: other registers, and where to stop.
pub(super) const WHILE_DEBUGGED: [libc::Ioctl; 2] = [
    request_code_write!(KVMIO, 0xac, size_of::<kvm_one_reg>()),
    request_code_write!(KVMIO, 0x9b, size_of::<kvm_guest_debug>()),
];

/// Why `KVM_RUN` comes back for a hypercall or a kick.
pub(super) const HYPERCALL: u32 = KVM_EXIT_MMIO;

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

/// Denies what KVM offers beyond the ID registers: nothing, KVM has no switch for the firmware calls that it answers.
pub(super) fn restrict(_vm: &VmFd, _vcpu: &VcpuFd) -> io::Result<()> {
    Ok(())
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
    Cause::Memory { address: Some(Gpa(address)), access: if write { Permissions::WRITE } else { Permissions::READ } }
}

/// What is behind a cause: where it is the store in the tender's [vectors](hvt_abi::aarch64::VECTORS), the exception that
/// led there.
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

/// Whether these registers are the guest's that ended like this: always.
pub(super) fn are_the_guests(_registers: &Registers, _cause: &Cause) -> bool {
    true
}

/// What KVM could not emulate: it tries to on no CPU of this architecture.
pub(super) fn not_emulated(_vcpu: &VcpuFd, _memory: &MappedMemory, bytes: Vec<u8>) -> Cause {
    Cause::Instruction { what: format!("the instruction {}", hex(&bytes)) }
}

/// Puts the vCPU at the guest's entry point.
pub(super) fn set_up(kvm: &Kvm, entry: &EntryState) -> Result<(), BackendError> {
    let Kvm { vm, vcpu, model, .. } = kvm;
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
        (VBAR_EL1, entry.vbar.0),
        (SCTLR_EL1, entry.sctlr.bits()),
        (PSTATE, entry.pstate.bits()),
        (SP_EL1, entry.sp.0),
        (PC, entry.pc.0),
        (general(0), entry.x0.0),
    ];
    registers.into_iter().try_for_each(|(id, value)| write(vcpu, id, value))
}

/// Where the byte at this guest-virtual address lies: `KVM_TRANSLATE` is not to be had on this architecture.
pub(super) fn translate(vcpu: &VcpuFd, memory: &MappedMemory, address: u64) -> Option<Gpa> {
    let register = |id| read(vcpu, id).ok();
    let regime = walk::Regime {
        sctlr: register(SCTLR_EL1)?,
        tcr: register(TCR_EL1)?,
        ttbr: [register(TTBR0_EL1)?, register(TTBR1_EL1)?],
    };
    regime.translate(memory, address)
}

/// Frequency of the vCPU's counter, which is the host's.
pub(super) fn cycle_frequency(_vcpu: &VcpuFd) -> Result<Frequency, BackendError> {
    frequency::cycle_frequency()
}
