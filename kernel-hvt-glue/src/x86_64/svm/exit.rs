//! Exit handling: decodes the reason and handles it.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use hvt_abi::{
    Gpa, Permissions,
    kernel::{Direction, EntryFailure, EntryField, Exit, Io, MemoryViolation},
    x86_64::Vector,
};

use super::{
    vcpu::SvmVcpu,
    vmcb::{Clean, exit_code},
};
use crate::{
    arch::ExitResult,
    host::{FRAME_SIZE, Host},
    memory::ReadMemory,
    x86_64::{
        cpuid::native,
        emulate::{self, Core, Fault, Outcome},
        instruction::{self, Instruction, Operation},
        privileged, walk,
    },
};

/// EXITINFO1 of a `mov` to a control register, with decode assists: the field holds the register
/// (15.8.1).
const MOV_CR: u64 = 1 << 63;

impl<H: Host> SvmVcpu<H> {
    /// Returns the port access that caused the exit, if any.
    #[inline]
    pub(super) fn port_access(&mut self) -> Option<Io> {
        let control = &self.vmcb().control;
        if control.exit_code != exit_code::IOIO {
            return None;
        }
        let (info, next_rip) = (control.exit_info_1, control.exit_info_2);
        self.skip_to(next_rip);
        Some(decode_io(info, self.context.registers.rax))
    }

    /// Handles any other exit.
    pub(super) fn handle(&mut self, memory: &dyn ReadMemory) -> ExitResult {
        let control = &self.vmcb().control;
        let (code, info) = (control.exit_code, control.exit_info_1);
        let fault = |vcpu: &mut Self, fault| {
            vcpu.inject(fault);
            ExitResult::Again
        };
        match code {
            exit_code::INTR | exit_code::NMI | exit_code::INIT => ExitResult::Interrupted,
            exit_code::NPF => ExitResult::Exit(decode_npf(info, control.exit_info_2)),
            exit_code::SHUTDOWN => ExitResult::Exit(Exit::TripleFault),
            exit_code::CPUID => self.carry_out(memory, Some(Operation::Cpuid)),
            exit_code::HLT => self.carry_out(memory, Some(Operation::Hlt)),
            exit_code::INVD | exit_code::WBINVD => self.carry_out(memory, Some(Operation::InvalidateCaches)),
            exit_code::XSETBV => self.carry_out(memory, Some(Operation::Xsetbv)),
            exit_code::MSR if info & 1 == 0 => self.carry_out(memory, Some(Operation::Rdmsr)),
            exit_code::MSR => self.carry_out(memory, Some(Operation::Wrmsr)),
            exit_code::CR0_WRITE..=exit_code::CR15_WRITE | exit_code::CR0_SELECTIVE_WRITE => {
                let control =
                    if code == exit_code::CR0_SELECTIVE_WRITE { 0 } else { (code - exit_code::CR0_WRITE) as u8 };
                let general = (info & 0xf) as u8;
                let told = self.capabilities.decode_assists && info & MOV_CR != 0;
                self.carry_out(memory, told.then_some(Operation::MovToControlRegister { control, general }))
            }
            exit_code::DR0_READ..=exit_code::DR15_WRITE => {
                self.give_debug_registers();
                ExitResult::Again
            }
            exit_code::EXCEPTION_DB => {
                self.inject(Fault { vector: Vector::Debug, error_code: None });
                ExitResult::raised_again()
            }
            exit_code::EXCEPTION_AC => {
                self.inject(Fault { vector: Vector::AlignmentCheck, error_code: Some(info as u32) });
                ExitResult::raised_again()
            }
            exit_code::EXCEPTION_MC => {
                // SAFETY: CPL 0, and a machine check has caused the exit.
                unsafe { privileged::raise_machine_check() };
                ExitResult::Interrupted
            }
            exit_code::RDPMC => fault(self, Fault::GENERAL_PROTECTION),
            exit_code::RSM | exit_code::INVLPGA | exit_code::VMRUN..=exit_code::RDTSCP => {
                fault(self, Fault::INVALID_OPCODE)
            }
            exit_code::MONITOR..=exit_code::MWAIT_ARMED | exit_code::RDPRU => fault(self, Fault::INVALID_OPCODE),
            exit_code::INVALID => {
                ExitResult::Exit(Exit::EntryFailure(EntryFailure { field: EntryField::Unspecified, value: code }))
            }
            _ => ExitResult::Exit(Exit::Unknown { reason: code, info }),
        }
    }

    /// Emulates the instruction that caused the exit. `told` is the instruction reported by the
    /// CPU.
    fn carry_out(&mut self, memory: &dyn ReadMemory, told: Option<Operation>) -> ExitResult {
        let Some((operation, next_rip)) = self.locate(memory, told) else {
            let (rip, reason) = (self.vmcb().save.rip, self.vmcb().control.exit_code);
            return ExitResult::Exit(Exit::Undecodable { rip, reason });
        };
        let offer = self.offer;
        let outcome = match operation {
            Operation::Hlt => {
                self.skip_to(next_rip);
                return ExitResult::Exit(Exit::Halt);
            }
            // No guest data can be in a cache without being visible in memory.
            Operation::InvalidateCaches => Outcome::Done,
            Operation::Cpuid => emulate::cpuid(self, &native, offer),
            Operation::Rdmsr => emulate::rdmsr(self),
            Operation::Wrmsr => emulate::wrmsr(self),
            Operation::Xsetbv => emulate::xsetbv(self, offer),
            Operation::MovToControlRegister { control, general } => {
                let value = self.general_registers().general(general);
                match control {
                    0 => emulate::write_cr0(self, value),
                    4 => emulate::write_cr4(self, value, offer),
                    _ => Outcome::Fault(Fault::INVALID_OPCODE),
                }
            }
        };
        match outcome {
            Outcome::Done => self.skip_to(next_rip),
            Outcome::Fault(fault) => self.inject(fault),
            Outcome::Exit(exit) => return ExitResult::Exit(exit),
        }
        ExitResult::Again
    }

    /// Returns the instruction that caused the exit and the address of the next one. The CPU's
    /// report is used if it is complete. Otherwise the instruction is read from the guest's memory,
    /// and must match the CPU's report.
    fn locate(&self, memory: &dyn ReadMemory, told: Option<Operation>) -> Option<(Operation, u64)> {
        let next_rip = self.vmcb().control.next_rip;
        if let Some(operation) = told.filter(|_| self.capabilities.nrip_save && next_rip != 0) {
            return Some((operation, next_rip));
        }
        let Instruction { operation, length } = self.fetch(memory)?;
        let agrees = match (told, operation) {
            (Some(told), _) => told == operation,
            (None, Operation::MovToControlRegister { control, .. }) => {
                let code = self.vmcb().control.exit_code;
                code == exit_code::CR0_SELECTIVE_WRITE && control == 0
                    || code == exit_code::CR0_WRITE + u64::from(control)
            }
            (None, _) => false,
        };
        agrees.then(|| (operation, self.truncate(self.vmcb().save.rip.wrapping_add(length.into()))))
    }

    /// Reads the instruction at CS:RIP.
    fn fetch(&self, memory: &dyn ReadMemory) -> Option<Instruction> {
        let save = &self.vmcb().save;
        let long = self.is_64_bit();
        let base = if long { 0 } else { save.cs.base };
        let start = self.truncate(base.wrapping_add(save.rip));
        let read_entry = |gpa| {
            let mut entry = [0; 8];
            memory.read(gpa, &mut entry).ok().map(|()| u64::from_le_bytes(entry))
        };
        let mut bytes = [0; instruction::MAX_LENGTH];
        let mut available = 0;
        while available < bytes.len() {
            let linear = self.truncate(start.wrapping_add(available as u64));
            let in_page = (FRAME_SIZE - linear % FRAME_SIZE) as usize;
            let end = bytes.len().min(available + in_page);
            let Some(gpa) = walk::linear_to_gpa(save.cr3, linear, read_entry) else { break };
            if memory.read(gpa, &mut bytes[available..end]).is_err() {
                break;
            }
            available = end;
        }
        instruction::decode(&bytes[..available], long)
    }

    /// Truncates an address to 32 bits in compatibility mode.
    fn truncate(&self, address: u64) -> u64 {
        if self.is_64_bit() { address } else { address & 0xffff_ffff }
    }

    fn skip_to(&mut self, rip: u64) {
        let vmcb = self.vmcb_mut();
        vmcb.save.rip = rip;
        vmcb.control.interrupt_shadow = 0;
    }

    /// Gives the debug registers to the guest after its first access. From then on they are swapped
    /// at every entry and exit.
    fn give_debug_registers(&mut self) {
        self.debug.give_to_guest();
        let control = &mut self.vmcb_mut().control;
        control.intercept_dr_reads = 0;
        control.intercept_dr_writes = 0;
        control.clean &= !Clean::INTERCEPTS.bits();
    }
}

/// Decodes EXITINFO1 of an IOIO exit (15.10.2).
#[inline]
fn decode_io(info: u64, rax: u64) -> Io {
    const IN: u64 = 1 << 0;
    const STRING: u64 = 1 << 2;
    // SZ8, SZ16, SZ32 in bits 4 to 6 are the size in bytes.
    let size = (info >> 4 & 7) as u8;
    let direction = if info & IN != 0 { Direction::In } else { Direction::Out };
    let string = info & STRING != 0;
    let sent = rax as u32 & u32::MAX.wrapping_shr(32_u32.wrapping_sub(8 * u32::from(size)));
    let value = if info & (IN | STRING) == 0 { sent } else { 0 };
    Io { port: (info >> 16) as u16, size, direction, string, value }
}

/// Decodes EXITINFO1 and EXITINFO2 of a nested page fault (15.25.6).
fn decode_npf(info: u64, gpa: u64) -> Exit {
    const WRITE: u64 = 1 << 1;
    const RESERVED: u64 = 1 << 3;
    const FETCH: u64 = 1 << 4;
    const PAGE_WALK: u64 = 1 << 33;
    let gpa = Gpa(gpa);
    if info & RESERVED != 0 {
        return Exit::Misconfiguration { gpa };
    }
    let access = match (info & WRITE != 0, info & FETCH != 0) {
        (true, _) => Permissions::WRITE,
        (false, true) => Permissions::EXECUTE,
        (false, false) => Permissions::READ,
    };
    Exit::MemoryViolation(MemoryViolation { gpa, access, page_walk: info & PAGE_WALK != 0, gva: None })
}
