//! Numbers of exit reasons and events, and events that must be handled first after an exit (SDM
//! volume 3, 28.2 and appendix C).

use hvt_abi::{
    kernel::{EntryFailure, EntryField, Exit},
    x86_64::Vector,
};

use super::{fields, vmcs::Fields};

/// Exceptions that cause an exit. #AC and #DB may be raised in an endless loop without an
/// instruction in between, which would take no interrupt. #MC belongs to the kernel.
pub(super) const EXCEPTIONS: u32 =
    1 << Vector::AlignmentCheck as u32 | 1 << Vector::Debug as u32 | 1 << Vector::MachineCheck as u32;

/// Basic exit reasons (table C-1).
pub(super) mod basic {
    pub(in crate::x86_64::vmx) const EXCEPTION_OR_NMI: u32 = 0;
    pub(in crate::x86_64::vmx) const EXTERNAL_INTERRUPT: u32 = 1;
    pub(in crate::x86_64::vmx) const TRIPLE_FAULT: u32 = 2;
    pub(in crate::x86_64::vmx) const INIT: u32 = 3;
    pub(in crate::x86_64::vmx) const SIPI: u32 = 4;
    pub(in crate::x86_64::vmx) const CPUID: u32 = 10;
    pub(in crate::x86_64::vmx) const GETSEC: u32 = 11;
    pub(in crate::x86_64::vmx) const HLT: u32 = 12;
    pub(in crate::x86_64::vmx) const INVD: u32 = 13;
    pub(in crate::x86_64::vmx) const RDPMC: u32 = 15;
    pub(in crate::x86_64::vmx) const RSM: u32 = 17;
    pub(in crate::x86_64::vmx) const VMCALL: u32 = 18;
    pub(in crate::x86_64::vmx) const VMXON: u32 = 27;
    pub(in crate::x86_64::vmx) const CR_ACCESS: u32 = 28;
    pub(in crate::x86_64::vmx) const MOV_DR: u32 = 29;
    pub(in crate::x86_64::vmx) const IO: u32 = 30;
    pub(in crate::x86_64::vmx) const RDMSR: u32 = 31;
    pub(in crate::x86_64::vmx) const WRMSR: u32 = 32;
    pub(in crate::x86_64::vmx) const MWAIT: u32 = 36;
    pub(in crate::x86_64::vmx) const MONITOR: u32 = 39;
    pub(in crate::x86_64::vmx) const EPT_VIOLATION: u32 = 48;
    pub(in crate::x86_64::vmx) const EPT_MISCONFIGURATION: u32 = 49;
    pub(in crate::x86_64::vmx) const INVEPT: u32 = 50;
    pub(in crate::x86_64::vmx) const RDTSCP: u32 = 51;
    pub(in crate::x86_64::vmx) const PREEMPTION_TIMER: u32 = 52;
    pub(in crate::x86_64::vmx) const INVVPID: u32 = 53;
    pub(in crate::x86_64::vmx) const WBINVD: u32 = 54;
    pub(in crate::x86_64::vmx) const XSETBV: u32 = 55;
    pub(in crate::x86_64::vmx) const INVPCID: u32 = 58;
    pub(in crate::x86_64::vmx) const VMFUNC: u32 = 59;
    pub(in crate::x86_64::vmx) const ENCLS: u32 = 60;
    /// Bit 31: the entry failed, so there was no exit.
    pub(in crate::x86_64::vmx) const ENTRY_FAILURE: u32 = 1 << 31;
}

/// Fields of events (25.8.3, 25.9.2, 25.9.3).
pub(super) mod event {
    pub(in crate::x86_64::vmx) const VALID: u32 = 1 << 31;
    pub(in crate::x86_64::vmx) const ERROR_CODE_VALID: u32 = 1 << 11;
    pub(in crate::x86_64::vmx) const TYPE: u32 = 7 << 8;
    pub(in crate::x86_64::vmx) const NMI: u32 = 2 << 8;
    pub(in crate::x86_64::vmx) const HARDWARE_EXCEPTION: u32 = 3 << 8;
    pub(in crate::x86_64::vmx) const VECTOR: u32 = 0xff;
}

/// Event that came with an exit, and that the kernel must handle before it enables interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Nmi,
    MachineCheck,
    Other,
}

impl Arrival {
    #[inline]
    pub(super) fn of(vmcs: &impl Fields) -> Self {
        const MACHINE_CHECK: u32 = event::HARDWARE_EXCEPTION | Vector::MachineCheck as u32;
        if vmcs.read(fields::EXIT_REASON) != basic::EXCEPTION_OR_NMI {
            return Self::Other;
        }
        match vmcs.read(fields::EXIT_INTERRUPTION_INFORMATION) & (event::TYPE | event::VECTOR) {
            MACHINE_CHECK => Self::MachineCheck,
            information if information & event::TYPE == event::NMI => Self::Nmi,
            _ => Self::Other,
        }
    }
}

/// Returns the reason that VMLAUNCH or VMRESUME failed (31.4).
pub(super) fn failed_instruction(vmcs: &impl Fields) -> Exit {
    const INVALID_HOST_STATE: u32 = 8;
    let error = vmcs.read(fields::VM_INSTRUCTION_ERROR);
    let field = if error == INVALID_HOST_STATE { EntryField::Host } else { EntryField::Control };
    Exit::EntryFailure(EntryFailure { field, value: error.into() })
}
