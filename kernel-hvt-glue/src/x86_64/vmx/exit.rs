//! Exit handling: decodes the reason and handles it (SDM volume 3, 28.2 and appendix C).

use hvt_abi::{
    Gpa, Permissions,
    kernel::{Direction, EntryFailure, EntryField, Exit, Io, MemoryViolation},
    x86_64::{Efer, Registers, Vector},
};

use super::{
    fields,
    reason::{basic as reason, event},
    state,
    vcpu::VmxVcpu,
    vmcs::{Fields, Vmcs},
};
use crate::{
    arch::ExitResult,
    host::Host,
    x86_64::{
        cpuid::native,
        emulate::{self, Core, Fault, Outcome},
    },
};

/// Virtual CPU that has just exited, with its VMCS.
pub(super) struct Running<'a, H: Host, V: Fields = Vmcs> {
    pub(super) vcpu: &'a mut VmxVcpu<H>,
    pub(super) vmcs: V,
}

impl<H: Host, V: Fields> Running<'_, H, V> {
    /// Returns the port access that caused the exit, if any.
    #[inline]
    pub(super) fn port_access(&mut self) -> Option<Io> {
        if self.vmcs.read(fields::EXIT_REASON) != reason::IO {
            return None;
        }
        let io = decode_io(self.vmcs.read(fields::EXIT_QUALIFICATION), self.vcpu.context.registers.rax);
        self.skip();
        Some(io)
    }

    /// Handles any other exit.
    pub(super) fn handle(&mut self) -> ExitResult {
        self.deliver_again();
        let exit_reason = self.vmcs.read(fields::EXIT_REASON);
        let qualification = self.vmcs.read(fields::EXIT_QUALIFICATION);
        let offer = self.vcpu.offer;
        let outcome = match exit_reason {
            reason::EXTERNAL_INTERRUPT | reason::INIT | reason::SIPI | reason::PREEMPTION_TIMER => {
                return ExitResult::Interrupted;
            }
            reason::EXCEPTION_OR_NMI => return self.exception(qualification),
            reason::EPT_VIOLATION => return ExitResult::Exit(self.violation(qualification)),
            reason::EPT_MISCONFIGURATION => {
                return ExitResult::Exit(Exit::Misconfiguration {
                    gpa: Gpa(self.vmcs.read(fields::GUEST_PHYSICAL_ADDRESS)),
                });
            }
            reason::TRIPLE_FAULT => return ExitResult::Exit(Exit::TripleFault),
            reason::HLT => {
                self.skip();
                return ExitResult::Exit(Exit::Halt);
            }
            reason::MOV_DR => {
                self.vcpu.give_debug_registers(&mut self.vmcs);
                return ExitResult::Again;
            }
            reason::CPUID => emulate::cpuid(self, &native, offer),
            reason::RDMSR => emulate::rdmsr(self),
            reason::WRMSR => emulate::wrmsr(self),
            reason::XSETBV => emulate::xsetbv(self, offer),
            reason::CR_ACCESS => self.access_control_register(qualification),
            // No guest data can be in a cache without being visible in memory.
            reason::INVD | reason::WBINVD => Outcome::Done,
            reason::RDPMC => Outcome::Fault(Fault::GENERAL_PROTECTION),
            reason::GETSEC
            | reason::RSM
            | reason::VMCALL..=reason::VMXON
            | reason::MWAIT
            | reason::MONITOR
            | reason::INVEPT
            | reason::RDTSCP
            | reason::INVVPID
            | reason::INVPCID
            | reason::VMFUNC
            | reason::ENCLS => Outcome::Fault(Fault::INVALID_OPCODE),
            failed if failed & reason::ENTRY_FAILURE != 0 => {
                let failure = EntryFailure { field: EntryField::Unspecified, value: failed.into() };
                return ExitResult::Exit(Exit::EntryFailure(failure));
            }
            reason => return ExitResult::Exit(Exit::Unknown { reason: reason.into(), info: qualification }),
        };
        match outcome {
            Outcome::Done => self.skip(),
            Outcome::Fault(fault) => self.inject(fault),
            Outcome::Exit(exit) => return ExitResult::Exit(exit),
        }
        ExitResult::Again
    }

    /// Advances RIP past the instruction that caused the exit. Also ends the shadow of `sti` or
    /// `mov ss`.
    fn skip(&mut self) {
        const SHADOW: u32 = 0b11;
        let length = self.vmcs.read(fields::EXIT_INSTRUCTION_LENGTH);
        let is_64_bit = self.is_64_bit();
        let rip = &mut self.vcpu.context.registers.rip;
        *rip = rip.wrapping_add(length.into());
        if !is_64_bit {
            *rip &= 0xffff_ffff;
        }
        self.vcpu.rip_moved = true;
        let interruptibility = self.vmcs.read(fields::GUEST_INTERRUPTIBILITY_STATE);
        if interruptibility & SHADOW != 0 {
            self.vmcs.write(fields::GUEST_INTERRUPTIBILITY_STATE, interruptibility & !SHADOW);
        }
    }

    /// Injects an exception at the next entry.
    fn inject(&mut self, fault: Fault) {
        let mut information = event::VALID | event::HARDWARE_EXCEPTION | fault.vector as u32;
        if let Some(error_code) = fault.error_code {
            information |= event::ERROR_CODE_VALID;
            self.vmcs.write(fields::ENTRY_EXCEPTION_ERROR_CODE, error_code);
        }
        self.vmcs.write(fields::ENTRY_INTERRUPTION_INFORMATION, information);
    }

    /// Repeats the injection of an event whose delivery the exit interrupted. The software
    /// exceptions `int`, `int3` and `into` are not repeated, because their instruction executes
    /// again (28.2.4).
    fn deliver_again(&mut self) {
        let information = self.vmcs.read(fields::IDT_VECTORING_INFORMATION);
        if information & event::VALID == 0
            || !matches!(information & event::TYPE, event::NMI | event::HARDWARE_EXCEPTION)
        {
            return;
        }
        if information & event::ERROR_CODE_VALID != 0 {
            let error_code = self.vmcs.read(fields::IDT_VECTORING_ERROR_CODE);
            self.vmcs.write(fields::ENTRY_EXCEPTION_ERROR_CODE, error_code);
        }
        let meaningful = event::VALID | event::ERROR_CODE_VALID | event::TYPE | event::VECTOR;
        self.vmcs.write(fields::ENTRY_INTERRUPTION_INFORMATION, information & meaningful);
    }

    /// Handles an exception of [`EXCEPTIONS`], or an NMI, which the kernel has handled.
    fn exception(&mut self, qualification: u64) -> ExitResult {
        const DEBUG: u32 = Vector::Debug as u32;
        const ALIGNMENT: u32 = Vector::AlignmentCheck as u32;
        let information = self.vmcs.read(fields::EXIT_INTERRUPTION_INFORMATION);
        if information & event::TYPE == event::NMI {
            return ExitResult::Interrupted;
        }
        match information & event::VECTOR {
            DEBUG => {
                // The qualification has the layout of DR6, which an exit does not set (28.1).
                const STATUS: u64 = 1 << 14 | 1 << 13 | 0xf;
                self.vcpu.debug.report(qualification & STATUS);
                self.inject(Fault { vector: Vector::Debug, error_code: None });
                ExitResult::raised_again()
            }
            ALIGNMENT => {
                let error_code = Some(self.vmcs.read(fields::EXIT_INTERRUPTION_ERROR_CODE));
                self.inject(Fault { vector: Vector::AlignmentCheck, error_code });
                ExitResult::raised_again()
            }
            _ => ExitResult::Interrupted,
        }
    }

    /// Handles an exit for a control-register access, by its exit qualification (table 28-3).
    fn access_control_register(&mut self, qualification: u64) -> Outcome {
        const MOV_TO: u64 = 0;
        const MOV_FROM: u64 = 1;
        let general = (qualification >> 8 & 0xf) as u8;
        let value = self.vcpu.context.registers.general(general);
        match (qualification >> 4 & 3, qualification & 0xf) {
            (MOV_TO, 0) => emulate::write_cr0(self, value),
            (MOV_TO, 4) => emulate::write_cr4(self, value, self.vcpu.offer),
            (MOV_TO, 8) if value > 15 => Outcome::Fault(Fault::GENERAL_PROTECTION),
            (MOV_TO, 8) => {
                self.vcpu.cr8 = value;
                Outcome::Done
            }
            (MOV_FROM, 8) => {
                let value = self.vcpu.cr8;
                self.set_general_register(general, value);
                Outcome::Done
            }
            _ => Outcome::Exit(Exit::Unknown { reason: reason::CR_ACCESS.into(), info: qualification }),
        }
    }

    fn set_general_register(&mut self, number: u8, value: u64) {
        const RSP: u8 = 4;
        *self.vcpu.context.registers.general_mut(number) = value;
        if number == RSP {
            self.vmcs.write(fields::GUEST_RSP, value);
        }
    }

    /// Decodes the exit qualification of an EPT violation (table 28-7).
    fn violation(&self, qualification: u64) -> Exit {
        const LINEAR_VALID: u64 = 1 << 7;
        const FINAL: u64 = 1 << 8;
        // Bits 2:0 have the same meaning as in `Permissions`.
        let mut access = Permissions::from_bits_truncate(qualification as u32);
        // A read-modify-write counts as a write, as on SVM.
        if access.contains(Permissions::WRITE) {
            access = Permissions::WRITE;
        }
        let has_linear = qualification & LINEAR_VALID != 0;
        Exit::MemoryViolation(MemoryViolation {
            gpa: Gpa(self.vmcs.read(fields::GUEST_PHYSICAL_ADDRESS)),
            access,
            page_walk: has_linear && qualification & FINAL == 0,
            gva: has_linear.then(|| self.vmcs.read(fields::GUEST_LINEAR_ADDRESS)),
        })
    }
}

/// Decodes the exit qualification of an I/O instruction (table 28-5).
#[inline]
fn decode_io(qualification: u64, rax: u64) -> Io {
    const IN: u64 = 1 << 3;
    const STRING: u64 = 1 << 4;
    let size = (qualification & 7) as u8 + 1;
    let direction = if qualification & IN != 0 { Direction::In } else { Direction::Out };
    let string = qualification & STRING != 0;
    let sent = rax as u32 & u32::MAX.wrapping_shr(32_u32.wrapping_sub(8 * u32::from(size)));
    let value = if qualification & (IN | STRING) == 0 { sent } else { 0 };
    Io { port: (qualification >> 16) as u16, size, direction, string, value }
}

impl<H: Host, V: Fields> Core for Running<'_, H, V> {
    fn registers(&mut self) -> &mut Registers {
        &mut self.vcpu.context.registers
    }

    fn cpl(&self) -> u8 {
        (self.vmcs.read(fields::GUEST_SS_ACCESS_RIGHTS) >> 5 & 3) as u8
    }

    fn is_64_bit(&self) -> bool {
        const LONG: u32 = 1 << 13;
        self.vmcs.read(fields::GUEST_CS_ACCESS_RIGHTS) & LONG != 0
    }

    fn set_cr0(&mut self, value: u64) {
        state::write_cr0(&mut self.vmcs, value, &self.vcpu.capabilities);
    }

    fn cr4(&self) -> u64 {
        state::read_cr4(&self.vmcs)
    }

    fn set_cr4(&mut self, value: u64) {
        state::write_cr4(&mut self.vmcs, value, &self.vcpu.capabilities);
        self.vcpu.choose_xcr0(&self.vmcs);
    }

    fn efer(&self) -> u64 {
        self.vmcs.read(fields::GUEST_IA32_EFER)
    }

    fn set_efer(&mut self, value: u64) {
        self.vmcs.write(fields::GUEST_IA32_EFER, value);
        self.vcpu.uses_syscall = Efer::from_bits_retain(value).contains(Efer::SCE);
    }

    fn pat(&self) -> u64 {
        self.vmcs.read(fields::GUEST_IA32_PAT)
    }

    fn set_pat(&mut self, value: u64) {
        self.vmcs.write(fields::GUEST_IA32_PAT, value);
    }

    fn xcr0(&self) -> u64 {
        self.vcpu.xcr0
    }

    fn set_xcr0(&mut self, value: u64) {
        self.vcpu.xcr0 = value;
        self.vcpu.choose_xcr0(&self.vmcs);
    }

    fn tsc_offset(&self) -> u64 {
        self.vmcs.read(fields::TSC_OFFSET)
    }

    fn set_tsc_offset(&mut self, value: u64) {
        self.vmcs.write(fields::TSC_OFFSET, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_qualifications_tell_what_the_guest_did() {
        let io = Io { port: 0x501, size: 4, direction: Direction::Out, string: false, value: 0x4433_2211 };
        let cases = [
            (0x0501_0003, io),
            (0x0501_0001, Io { size: 2, value: 0x2211, ..io }),
            (0xffff_0040, Io { port: 0xffff, size: 1, value: 0x11, ..io }),
            (0x0501_000b, Io { direction: Direction::In, value: 0, ..io }),
            (0x0501_0033, Io { string: true, value: 0, ..io }),
        ];
        for (qualification, expected) in cases {
            assert_eq!(decode_io(qualification, 0x8877_6655_4433_2211), expected, "{qualification:#x}");
        }
    }
}
