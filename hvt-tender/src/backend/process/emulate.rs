//! The privileged instructions that a guest executes at what it takes for CPL 0.
//!
//! In the child each of them raises #GP. They are decoded by `iced-x86` and carried out on the virtual
//! [CPU](super::cpu). What this backend cannot do (page tables of the guest's own, `syscall` enabled, breakpoint
//! registers) ends the guest with a message that names the instruction.

use hvt_abi::Gpa;
use hvt_abi::x86_64::{Cr0, Cr4, Registers, TableRegister, msr};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::control::{self, Written};
use super::cpu::{Cpu, RFLAGS_GUEST, RFLAGS_IF};
use super::exception::Exception;
use crate::exit::{Cause, Exit};
use crate::memory::{Access, GuestSpace, Violation};

/// What came of an instruction. RIP is behind it, but for [`Step::Raise`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Done.
    Next,
    /// Done; the tender has to act.
    Exit(Exit),
    /// Done; FS base must be loaded.
    LoadFsBase,
    /// Done; GS base must be loaded.
    LoadGsBase,
    /// It raises an exception instead, RIP being where the exception says.
    Raise(Exception),
    /// This backend cannot do it.
    Refuse(Cause),
}

impl From<Exception> for Step {
    fn from(exception: Exception) -> Self {
        Self::Raise(exception)
    }
}

/// Longest instruction in bytes (SDM 2.3.11).
const LONGEST: u64 = 15;

/// Carries out the instruction at RIP, which has raised #GP with this error code in the child.
pub(super) fn step(cpu: &mut Cpu, registers: &mut Registers, space: &GuestSpace<'_>, error_code: u64) -> Step {
    let mut bytes = [0; LONGEST as usize];
    let Some(len) = fetch(registers.rip, space, &mut bytes) else {
        return Exception::general_protection(error_code).into();
    };
    let mut decoder = Decoder::with_ip(64, &bytes[..len], registers.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let mut machine = Emulation { cpu, registers, space, instruction, error_code };
    let rip = machine.registers.rip;
    machine.registers.rip = instruction.next_ip();
    let step = machine.execute().unwrap_or_else(Step::Raise);
    if let Step::Raise(_) = step
        && !matches!(instruction.mnemonic(), Mnemonic::Int)
    {
        machine.registers.rip = rip;
    }
    step
}

/// Reads the bytes at RIP, as many as there are up to the longest instruction.
fn fetch(rip: u64, space: &GuestSpace<'_>, into: &mut [u8]) -> Option<usize> {
    let whole = space.slice(Gpa(rip), LONGEST, Access::EXECUTE);
    let slice = whole.or_else(|_| {
        let to_end_of_page = hvt_abi::PAGE_SIZE - rip % hvt_abi::PAGE_SIZE;
        space.slice(Gpa(rip), to_end_of_page.min(LONGEST), Access::EXECUTE)
    });
    Some(slice.ok()?.read(into))
}

struct Emulation<'a, 'm> {
    cpu: &'a mut Cpu,
    registers: &'a mut Registers,
    space: &'a GuestSpace<'m>,
    instruction: Instruction,
    error_code: u64,
}

type Executed = Result<Step, Exception>;

impl Emulation<'_, '_> {
    fn execute(&mut self) -> Executed {
        match self.instruction.mnemonic() {
            Mnemonic::Out | Mnemonic::In | Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => Ok(self.port()),
            Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => Ok(self.port()),
            Mnemonic::Hlt => Ok(Step::Exit(Exit::Halted)),
            Mnemonic::Cli => {
                self.cpu.interrupts = false;
                Ok(Step::Next)
            }
            Mnemonic::Sti => {
                self.cpu.interrupts = true;
                Ok(Step::Next)
            }
            Mnemonic::Lgdt => {
                self.cpu.gdtr = self.table_register()?;
                Ok(Step::Next)
            }
            Mnemonic::Lidt => {
                self.cpu.idtr = self.table_register()?;
                Ok(Step::Next)
            }
            Mnemonic::Ltr => self.load_task_register(),
            Mnemonic::Lldt => match self.operand16()? {
                0..4 => Ok(Step::Next),
                selector => Err(selector_fault(selector)),
            },
            Mnemonic::Mov => self.mov(),
            Mnemonic::Pop => self.pop_segment(),
            Mnemonic::Retf => self.far_return(),
            Mnemonic::Iretq => self.interrupt_return(),
            Mnemonic::Wrmsr => self.write_msr(),
            Mnemonic::Rdmsr => self.read_msr(),
            Mnemonic::Swapgs => {
                std::mem::swap(&mut self.cpu.gs_base, &mut self.cpu.kernel_gs_base);
                Ok(Step::LoadGsBase)
            }
            Mnemonic::Clts => {
                self.cpu.cr0.remove(Cr0::TS);
                Ok(Step::Next)
            }
            // There are no stale translations and no caches to write back: guest memory is the host's own.
            Mnemonic::Invlpg | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd | Mnemonic::Invd => Ok(Step::Next),
            Mnemonic::Int => Ok(self.software_interrupt()),
            // What needs EFER.SVME or CR4.VMXE, which no guest can set.
            Mnemonic::Vmrun | Mnemonic::Vmload | Mnemonic::Vmsave | Mnemonic::Vmmcall | Mnemonic::Invlpga => {
                Err(Exception::invalid_opcode())
            }
            Mnemonic::Stgi | Mnemonic::Clgi | Mnemonic::Skinit => Err(Exception::invalid_opcode()),
            // CR4.OSXSAVE is clear at entry, and CPUID in the child does not say so.
            Mnemonic::Xsetbv if !self.cpu.cr4.contains(Cr4::OSXSAVE) => Err(Exception::invalid_opcode()),
            Mnemonic::Lmsw | Mnemonic::Xsetbv | Mnemonic::Sysretq | Mnemonic::Sysret | Mnemonic::Sysexitq => {
                Ok(self.refuse())
            }
            Mnemonic::Jmp | Mnemonic::Call if self.instruction.is_jmp_far_indirect() => Ok(self.refuse()),
            Mnemonic::Call if self.instruction.is_call_far_indirect() => Ok(self.refuse()),
            // Not a privileged instruction: the #GP is the guest's own.
            _ => Err(Exception::general_protection(self.error_code)),
        }
    }

    fn refuse(&self) -> Step {
        Step::Refuse(Cause::Instruction { what: format!("\"{}\"", self.instruction) })
    }

    /// `in` and `out`, and their string forms, which are never hypercalls.
    fn port(&self) -> Step {
        let (port_operand, write, size) = match self.instruction.code() {
            Code::Out_imm8_AL | Code::Out_DX_AL => (0, true, 1),
            Code::Out_imm8_AX | Code::Out_DX_AX => (0, true, 2),
            Code::Out_imm8_EAX | Code::Out_DX_EAX => (0, true, 4),
            Code::In_AL_imm8 | Code::In_AL_DX => (1, false, 1),
            Code::In_AX_imm8 | Code::In_AX_DX => (1, false, 2),
            Code::In_EAX_imm8 | Code::In_EAX_DX => (1, false, 4),
            Code::Outsb_DX_m8 => return self.string_port(true, 1),
            Code::Outsw_DX_m16 => return self.string_port(true, 2),
            Code::Outsd_DX_m32 => return self.string_port(true, 4),
            Code::Insb_m8_DX => return self.string_port(false, 1),
            Code::Insw_m16_DX => return self.string_port(false, 2),
            _ => return self.string_port(false, 4),
        };
        let port = match self.instruction.op_kind(port_operand) {
            OpKind::Immediate8 => u16::from(self.instruction.immediate8()),
            _ => self.registers.rdx as u16,
        };
        let exit = if write { Exit::from_port_write(port, size, self.registers.rax as u32) } else { None };
        exit.map_or(Step::Refuse(Cause::Port { port, size, write }), Step::Exit)
    }

    fn string_port(&self, write: bool, size: u8) -> Step {
        Step::Refuse(Cause::Port { port: self.registers.rdx as u16, size, write })
    }

    /// `int n`: through the IDT, where that is long enough for it.
    fn software_interrupt(&mut self) -> Step {
        let vector = self.instruction.immediate8();
        match beyond_idt(self.cpu, vector) {
            None => Step::Raise(Exception::software(vector)),
            Some(fault) => {
                self.registers.rip = self.instruction.ip();
                Step::Raise(fault)
            }
        }
    }

    fn mov(&mut self) -> Executed {
        let (to, from) = (self.instruction.op0_register(), self.instruction.op1_register());
        if to.is_segment_register() {
            let selector = self.operand16_at(1)?;
            return self.load_segment(to, selector);
        }
        if to.is_cr() {
            return self.write_control_register(to, self.general(from));
        }
        if from.is_cr() {
            let value = match from {
                Register::CR0 => self.cpu.cr0.bits(),
                Register::CR2 => self.cpu.cr2,
                Register::CR3 => self.cpu.cr3,
                Register::CR4 => self.cpu.cr4.bits(),
                Register::CR8 => 0,
                _ => return Err(Exception::invalid_opcode()),
            };
            self.set_general(to, value);
            return Ok(Step::Next);
        }
        if to.is_dr() || from.is_dr() {
            return Ok(self.refuse());
        }
        Err(Exception::general_protection(self.error_code))
    }

    fn write_control_register(&mut self, register: Register, value: u64) -> Executed {
        match register {
            Register::CR0 => match control::write_cr0(self.cpu.cr0, value) {
                Written::Value(new) => self.cpu.cr0 = new,
                Written::Fault => return Err(Exception::general_protection(0)),
                Written::Unsupported => return Ok(self.refuse()),
            },
            Register::CR2 => self.cpu.cr2 = value,
            // Reloading the same tables only flushes translations.
            Register::CR3 if value == self.cpu.cr3 => {}
            Register::CR4 => match control::write_cr4(self.cpu.cr4, value) {
                Written::Value(new) => self.cpu.cr4 = new,
                Written::Fault => return Err(Exception::general_protection(0)),
                Written::Unsupported => return Ok(self.refuse()),
            },
            Register::CR8 if value == 0 => {}
            Register::CR3 | Register::CR8 => return Ok(self.refuse()),
            _ => return Err(Exception::invalid_opcode()),
        }
        Ok(Step::Next)
    }

    fn write_msr(&mut self) -> Executed {
        let value = self.registers.rdx << 32 | self.registers.rax & 0xffff_ffff;
        match self.registers.rcx as u32 {
            msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE if !is_canonical(value) => {
                Err(Exception::general_protection(0))
            }
            msr::FS_BASE => {
                self.cpu.fs_base = value;
                Ok(Step::LoadFsBase)
            }
            msr::GS_BASE => {
                self.cpu.gs_base = value;
                Ok(Step::LoadGsBase)
            }
            msr::KERNEL_GS_BASE => {
                self.cpu.kernel_gs_base = value;
                Ok(Step::Next)
            }
            msr::EFER => match control::write_efer(self.cpu.efer, value) {
                Written::Value(new) => {
                    self.cpu.efer = new;
                    Ok(Step::Next)
                }
                Written::Fault => Err(Exception::general_protection(0)),
                Written::Unsupported => Ok(self.refuse()),
            },
            // Memory types mean nothing here, but the guest may read back what it wrote.
            msr::PAT => {
                self.cpu.pat = value;
                Ok(Step::Next)
            }
            msr::TSC => Ok(self.refuse()),
            _ => Err(Exception::general_protection(0)),
        }
    }

    fn read_msr(&mut self) -> Executed {
        let value = match self.registers.rcx as u32 {
            msr::FS_BASE => self.cpu.fs_base,
            msr::GS_BASE => self.cpu.gs_base,
            msr::KERNEL_GS_BASE => self.cpu.kernel_gs_base,
            msr::EFER => self.cpu.efer.bits(),
            msr::PAT => self.cpu.pat,
            // SAFETY: every x86_64 CPU has RDTSC; the guest's own reads the same counter.
            msr::TSC => unsafe { std::arch::x86_64::_rdtsc() },
            _ => return Err(Exception::general_protection(0)),
        };
        self.registers.rax = value & 0xffff_ffff;
        self.registers.rdx = value >> 32;
        Ok(Step::Next)
    }

    /// Loads a segment register. In 64-bit mode only the bases of FS and GS matter afterwards (SDM 3.4.4).
    fn load_segment(&mut self, register: Register, selector: u16) -> Executed {
        let base = match selector {
            0..4 => 0,
            _ => self.descriptor(selector)?.base(),
        };
        match register {
            Register::SS => self.cpu.ss = selector,
            Register::FS => {
                self.cpu.fs_base = base;
                return Ok(Step::LoadFsBase);
            }
            Register::GS => {
                self.cpu.gs_base = base;
                return Ok(Step::LoadGsBase);
            }
            Register::CS => return Err(Exception::invalid_opcode()),
            _ => {}
        }
        Ok(Step::Next)
    }

    fn load_code_segment(&mut self, selector: u16) -> Result<(), Exception> {
        let descriptor = self.descriptor(selector)?;
        if selector & 3 != 0 || !descriptor.is_64_bit_code() {
            return Err(selector_fault(selector));
        }
        self.cpu.cs = selector;
        Ok(())
    }

    /// LTR: the descriptor takes two slots, and becomes busy (SDM 7.2.3).
    fn load_task_register(&mut self) -> Executed {
        const AVAILABLE: u64 = 0x9;
        const BUSY: u64 = 1 << 41;
        let selector = self.operand16()?;
        let low = self.descriptor(selector)?;
        let high = self.descriptor(selector.wrapping_add(8)).map_err(|_| selector_fault(selector))?;
        if low.kind() != AVAILABLE {
            return Err(selector_fault(selector));
        }
        let base = low.base() | high.0 << 32;
        self.write_memory(self.cpu.gdtr.base.wrapping_add(u64::from(selector & !7)), &(low.0 | BUSY))?;
        self.cpu.task = (base, low.limit());
        Ok(Step::Next)
    }

    fn pop_segment(&mut self) -> Executed {
        let register = self.instruction.op0_register();
        if !register.is_segment_register() {
            return Err(Exception::general_protection(self.error_code));
        }
        let selector: u64 = self.read_memory(self.registers.rsp)?;
        let step = self.load_segment(register, selector as u16)?;
        self.registers.rsp = self.registers.rsp.wrapping_add(8);
        Ok(step)
    }

    fn far_return(&mut self) -> Executed {
        let stack = self.registers.rsp;
        let (rip, selector, size) = match self.instruction.code() {
            Code::Retfq | Code::Retfq_imm16 => {
                let [rip, selector]: [u64; 2] = self.read_memory(stack)?;
                (rip, selector as u16, 16)
            }
            Code::Retfd | Code::Retfd_imm16 => {
                let [rip, selector]: [u32; 2] = self.read_memory(stack)?;
                (rip.into(), selector as u16, 8)
            }
            _ => return Ok(self.refuse()),
        };
        self.load_code_segment(selector)?;
        let released = match self.instruction.op_count() {
            0 => 0,
            _ => u64::from(self.instruction.immediate16()),
        };
        self.registers.rip = rip;
        self.registers.rsp = stack.wrapping_add(size + released);
        Ok(Step::Next)
    }

    fn interrupt_return(&mut self) -> Executed {
        let [rip, cs, rflags, rsp, ss]: [u64; 5] = self.read_memory(self.registers.rsp)?;
        self.load_code_segment(cs as u16)?;
        if ss > 3 {
            self.descriptor(ss as u16)?;
        }
        self.cpu.ss = ss as u16;
        self.cpu.interrupts = rflags & RFLAGS_IF != 0;
        self.registers.rip = rip;
        self.registers.rsp = rsp;
        self.registers.rflags = self.registers.rflags & !RFLAGS_GUEST | rflags & RFLAGS_GUEST;
        Ok(Step::Next)
    }

    /// The operand of LGDT and LIDT: 10 bytes, limit first.
    fn table_register(&mut self) -> Result<TableRegister, Exception> {
        let bytes: [u8; 10] = self.read_memory(self.memory_address()?)?;
        let [limit_low, limit_high, base @ ..] = bytes;
        let base = u64::from_le_bytes(base);
        if !is_canonical(base) {
            return Err(Exception::general_protection(0));
        }
        Ok(TableRegister { base, limit: u16::from_le_bytes([limit_low, limit_high]) })
    }

    fn descriptor(&mut self, selector: u16) -> Result<Descriptor, Exception> {
        const LOCAL: u16 = 1 << 2;
        let at = selector & !7;
        if selector & LOCAL != 0 || at == 0 || u32::from(at) + 7 > u32::from(self.cpu.gdtr.limit) {
            return Err(selector_fault(selector));
        }
        let raw = self.space.read(Gpa(self.cpu.gdtr.base.wrapping_add(at.into())));
        // The descriptor tables of the tender lie where the guest may not look.
        raw.map(Descriptor).map_err(|violation| self.page_fault(violation))
    }

    fn operand16(&mut self) -> Result<u16, Exception> {
        self.operand16_at(0)
    }

    fn operand16_at(&mut self, operand: u32) -> Result<u16, Exception> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => Ok(self.general(self.instruction.op_register(operand)) as u16),
            _ => self.read_memory(self.memory_address()?),
        }
    }

    fn memory_address(&self) -> Result<u64, Exception> {
        let operand = u32::from(self.instruction.op0_kind() != OpKind::Memory);
        self.instruction
            .try_virtual_address(operand, 0, |register, _, _| {
                Some(match register {
                    Register::FS => self.cpu.fs_base,
                    Register::GS => self.cpu.gs_base,
                    segment if segment.is_segment_register() => 0,
                    general => self.general(general),
                })
            })
            .ok_or(Exception::general_protection(self.error_code))
    }

    fn read_memory<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&mut self, at: u64) -> Result<T, Exception> {
        self.space.read(Gpa(at)).map_err(|violation| self.page_fault(violation))
    }

    fn write_memory(&mut self, at: u64, value: &u64) -> Result<(), Exception> {
        self.space.write(Gpa(at), value).map_err(|violation| self.page_fault(violation))
    }

    fn page_fault(&mut self, violation: Violation) -> Exception {
        self.cpu.cr2 = violation.at.0;
        Exception::from(violation)
    }

    fn general(&self, register: Register) -> u64 {
        let mut copy = *self.registers;
        let full = slot(&mut copy, register.full_register()).copied().unwrap_or(0);
        match register.size() {
            2 => full & 0xffff,
            4 => full & 0xffff_ffff,
            _ => full,
        }
    }

    fn set_general(&mut self, register: Register, value: u64) {
        if let Some(slot) = slot(self.registers, register.full_register()) {
            *slot = value;
        }
    }
}

fn slot(registers: &mut Registers, full: Register) -> Option<&mut u64> {
    Some(match full {
        Register::RAX => &mut registers.rax,
        Register::RBX => &mut registers.rbx,
        Register::RCX => &mut registers.rcx,
        Register::RDX => &mut registers.rdx,
        Register::RSI => &mut registers.rsi,
        Register::RDI => &mut registers.rdi,
        Register::RBP => &mut registers.rbp,
        Register::RSP => &mut registers.rsp,
        Register::R8 => &mut registers.r8,
        Register::R9 => &mut registers.r9,
        Register::R10 => &mut registers.r10,
        Register::R11 => &mut registers.r11,
        Register::R12 => &mut registers.r12,
        Register::R13 => &mut registers.r13,
        Register::R14 => &mut registers.r14,
        Register::R15 => &mut registers.r15,
        _ => return None,
    })
}

/// #GP whose error code names a selector (SDM 6.13).
fn selector_fault(selector: u16) -> Exception {
    Exception::general_protection(u64::from(selector & !3))
}

/// The #GP that `int vector` raises when the IDT is too short for it (SDM 6.13: bit 1 says that it indexes the IDT).
pub(super) fn beyond_idt(cpu: &Cpu, vector: u8) -> Option<Exception> {
    let last_byte = u64::from(vector) * 16 + 15;
    (last_byte > u64::from(cpu.idtr.limit)).then(|| Exception::general_protection(u64::from(vector) << 3 | 2))
}

/// Whether bits 63 to 47 are equal (SDM 3.3.7.1).
fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

/// Segment descriptor (SDM figure 3-8).
#[derive(Clone, Copy)]
struct Descriptor(u64);

impl Descriptor {
    fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }

    fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 >> 55 & 1 == 1 { limit << 12 | 0xfff } else { limit }
    }

    /// Type and S: 5 bits.
    fn kind(self) -> u64 {
        self.0 >> 40 & 0x1f
    }

    fn is_64_bit_code(self) -> bool {
        const CODE: u64 = 0x18;
        const LONG: u64 = 1 << 53;
        const PRESENT: u64 = 1 << 47;
        self.kind() & CODE == CODE && self.0 & LONG != 0 && self.0 & PRESENT != 0
    }
}

#[cfg(test)]
mod tests;
