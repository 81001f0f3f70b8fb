//! Delivery of exceptions through the guest's IDT, like a CPU in 64-bit mode (SDM 6.14).

use hvt_abi::Gpa;
use hvt_abi::x86_64::{Registers, Vector};

use super::cpu::{Cpu, RFLAGS_NT, RFLAGS_RF, RFLAGS_TF};
use crate::memory::{GuestSpace, Violation};

/// Exception or software interrupt to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    /// Index in the IDT.
    vector: u8,
    /// Error code, for the vectors that push one.
    error_code: Option<u64>,
    /// The faulting instruction has not been executed: RF is set in the pushed flags (SDM
    /// 17.3.1.1).
    fault: bool,
}

impl Exception {
    /// Creates an exception of this vector. The error code is dropped if the vector has none.
    pub(super) fn new(vector: Vector, error_code: u64) -> Self {
        Self {
            vector: vector as u8,
            error_code: vector.has_error_code().then_some(error_code),
            fault: !matches!(vector, Vector::Debug | Vector::Breakpoint | Vector::Overflow),
        }
    }

    /// Creates the software interrupt of `int vector`.
    pub(super) fn software(vector: u8) -> Self {
        Self { vector, error_code: None, fault: false }
    }

    /// Returns true for an `int`, which has been executed when its interrupt is delivered.
    pub(super) fn is_software(&self) -> bool {
        !self.fault && self.error_code.is_none()
    }

    /// #GP with this error code.
    pub(super) fn general_protection(error_code: u64) -> Self {
        Self::new(Vector::GeneralProtection, error_code)
    }

    /// #UD.
    pub(super) fn invalid_opcode() -> Self {
        Self::new(Vector::InvalidOpcode, 0)
    }
}

impl From<Violation> for Exception {
    /// #PF for an emulated instruction that accessed memory without permission. The user-mode bit
    /// is clear, because the guest runs at CPL 0. The caller sets CR2.
    fn from(violation: Violation) -> Self {
        let write = violation.access.contains(crate::memory::Permissions::WRITE);
        Self::new(Vector::PageFault, u64::from(write) << 1)
    }
}

/// Neither the exception nor the resulting double fault could be delivered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TripleFault;

/// Pushes the return frame and sets the registers for the guest's handler. If the exception cannot
/// be delivered, delivers a double fault instead.
pub(super) fn deliver(
    exception: Exception,
    cpu: &mut Cpu,
    registers: &mut Registers,
    space: &GuestSpace<'_>,
) -> Result<(), TripleFault> {
    let double_fault = Exception::new(Vector::DoubleFault, 0);
    enter_handler(exception, cpu, registers, space)
        .or_else(|Undeliverable| enter_handler(double_fault, cpu, registers, space))
        .map_err(|Undeliverable| TripleFault)
}

#[derive(Debug)]
struct Undeliverable;

impl From<Violation> for Undeliverable {
    fn from(_: Violation) -> Self {
        Self
    }
}

fn enter_handler(
    exception: Exception,
    cpu: &mut Cpu,
    registers: &mut Registers,
    space: &GuestSpace<'_>,
) -> Result<(), Undeliverable> {
    let gate = Gate::read(exception.vector, cpu, space)?;
    let stack = match gate.ist {
        0 => registers.rsp,
        ist => interrupt_stack(ist, cpu, space)?,
    };
    let mut rflags = cpu.rflags(registers.rflags);
    if exception.fault {
        rflags |= RFLAGS_RF;
    }
    let frame = [registers.rip, cpu.cs.into(), rflags, registers.rsp, cpu.ss.into()];
    let mut top = (stack & !0xf).wrapping_sub(size_of_val(&frame) as u64);
    space.write(Gpa(top), &frame)?;
    if let Some(code) = exception.error_code {
        top = top.wrapping_sub(size_of_val(&code) as u64);
        space.write(Gpa(top), &code)?;
    }
    registers.rsp = top;
    registers.rip = gate.offset;
    registers.rflags &= !(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF);
    cpu.cs = gate.selector;
    cpu.interrupts &= gate.kind == Gate::TRAP;
    Ok(())
}

/// Gate descriptor of the IDT (SDM figure 6-8), with the relevant fields.
struct Gate {
    offset: u64,
    selector: u16,
    /// Index in the interrupt stack table (IST), 0 for none.
    ist: u8,
    kind: u8,
}

impl Gate {
    const INTERRUPT: u8 = 0xe;
    const TRAP: u8 = 0xf;

    fn read(vector: u8, cpu: &Cpu, space: &GuestSpace<'_>) -> Result<Self, Undeliverable> {
        let at = u64::from(vector) * 16;
        if at + 15 > u64::from(cpu.idtr.limit) {
            return Err(Undeliverable);
        }
        let [low, high]: [u64; 2] = space.read(Gpa(cpu.idtr.base.wrapping_add(at)))?;
        let gate = Self {
            offset: low & 0xffff | low >> 32 & 0xffff_0000 | high << 32,
            selector: (low >> 16) as u16,
            ist: (low >> 32 & 7) as u8,
            kind: (low >> 40 & 0xf) as u8,
        };
        let present = low >> 47 & 1 == 1;
        if present && matches!(gate.kind, Self::INTERRUPT | Self::TRAP) { Ok(gate) } else { Err(Undeliverable) }
    }
}

/// Reads an entry of the interrupt stack table from the TSS (SDM 7.7).
fn interrupt_stack(ist: u8, cpu: &Cpu, space: &GuestSpace<'_>) -> Result<u64, Undeliverable> {
    let (base, limit) = cpu.task;
    let at = 36 + u64::from(ist - 1) * 8;
    if at + 7 > u64::from(limit) {
        return Err(Undeliverable);
    }
    Ok(space.read(Gpa(base.wrapping_add(at)))?)
}
