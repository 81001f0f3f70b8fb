//! Emulation of privileged instructions, which the guest executes at virtual CPL 0.
//!
//! In the child each of them raises #GP. They are decoded by `yaxpeax-x86`, whose tables are
//! constants; the tables of a more common decoder are built at first use, which takes as long as
//! starting a process. They are executed on the virtual [CPU](super::cpu). An unsupported
//! instruction (loading other page tables, enabling `syscall`, setting breakpoint registers) ends
//! the guest with a message that names it.

mod descriptor;
mod operand;
#[cfg(test)]
mod tests;

use hvt_abi::Gpa;
use hvt_abi::x86_64::{Cr0, Cr4, Registers, TableRegister, msr};
use yaxpeax_arch::{Decoder, LengthedInstruction, U8Reader};
use yaxpeax_x86::amd64::{InstDecoder, Instruction, Opcode, Operand, register_class};

use self::descriptor::Descriptor;
use self::operand::{register, segment};
use super::control::{self, Written};
use super::cpu::{Cpu, RFLAGS_AC, RFLAGS_GUEST, RFLAGS_IF};
use super::exception::Exception;
use super::features::Features;
use crate::exit::{Cause, Exit};
use crate::memory::{GuestSpace, Permissions, Violation};

/// Result of an instruction. RIP is behind the instruction, except for [`EmulationResult::Raise`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EmulationResult {
    /// Done.
    Next,
    /// Done, with an exit to the tender.
    Exit(Exit),
    /// Done; FS base must be loaded.
    LoadFsBase,
    /// Done; GS base must be loaded.
    LoadGsBase,
    /// The instruction raises an exception instead. RIP is the exception's return address.
    Raise(Exception),
    /// Not supported by this backend.
    Refuse(Cause),
}

impl From<Exception> for EmulationResult {
    fn from(exception: Exception) -> Self {
        Self::Raise(exception)
    }
}

/// Longest instruction in bytes (SDM 2.3.11).
pub(super) const LONGEST: u64 = 15;

/// Emulates the instruction at RIP, which raised #GP with this error code in the child.
pub(super) fn step(
    cpu: &mut Cpu,
    registers: &mut Registers,
    space: &GuestSpace<'_>,
    error_code: u64,
) -> EmulationResult {
    let mut bytes = [0; LONGEST as usize];
    let Some(len) = fetch(registers.rip, space, &mut bytes) else {
        return Exception::general_protection(error_code).into();
    };
    let decoded = InstDecoder::default().decode(&mut U8Reader::new(&bytes[..len]));
    let Ok(instruction) = decoded else { return Exception::general_protection(error_code).into() };
    let mut machine = Emulation { cpu, registers, space, instruction, error_code };
    let rip = machine.registers.rip;
    machine.registers.rip = rip.wrapping_add(instruction.len().to_const());
    let step = machine.execute().unwrap_or_else(EmulationResult::Raise);
    if let EmulationResult::Raise(exception) = step
        && !exception.is_software()
    {
        machine.registers.rip = rip;
    }
    step
}

/// Reads the bytes at RIP, at most the length of the longest instruction.
pub(super) fn fetch(rip: u64, space: &GuestSpace<'_>, into: &mut [u8]) -> Option<usize> {
    let whole = space.slice(Gpa(rip), LONGEST, Permissions::EXECUTE);
    let slice = whole.or_else(|_| {
        let to_end_of_page = hvt_abi::PAGE_SIZE - rip % hvt_abi::PAGE_SIZE;
        space.slice(Gpa(rip), to_end_of_page.min(LONGEST), Permissions::EXECUTE)
    });
    Some(slice.ok()?.read(into))
}

/// Emulates the instruction at RIP, which raised #UD in the child. STAC and CLAC do so at CPL 3,
/// whatever CR4.SMAP is (SDM volume 2).
pub(super) fn undefined(registers: &mut Registers, space: &GuestSpace<'_>) -> EmulationResult {
    let mut bytes = [0; LONGEST as usize];
    let code = fetch(registers.rip, space, &mut bytes).map_or(&[][..], |len| &bytes[..len]);
    let set = match InstDecoder::default().decode(&mut U8Reader::new(code)) {
        Ok(instruction) if instruction.opcode() == Opcode::STAC => true,
        Ok(instruction) if instruction.opcode() == Opcode::CLAC => false,
        _ => return Exception::invalid_opcode().into(),
    };
    if Features::of_this_cpu().cr4 & Cr4::SMAP.bits() == 0 {
        return Exception::invalid_opcode().into();
    }
    registers.rip = registers.rip.wrapping_add(3);
    registers.rflags = registers.rflags & !RFLAGS_AC | if set { RFLAGS_AC } else { 0 };
    EmulationResult::Next
}

/// Returns the number of bytes of memory that the instruction at the start of `code` accesses, if
/// its encoding determines the number.
pub(super) fn accessed(code: &[u8]) -> Option<u64> {
    let instruction = InstDecoder::default().decode(&mut U8Reader::new(code)).ok()?;
    instruction.mem_size()?.bytes_size().map(u64::from)
}

struct Emulation<'a, 'm> {
    cpu: &'a mut Cpu,
    registers: &'a mut Registers,
    space: &'a GuestSpace<'m>,
    instruction: Instruction,
    error_code: u64,
}

type Executed = Result<EmulationResult, Exception>;

impl Emulation<'_, '_> {
    fn execute(&mut self) -> Executed {
        match self.instruction.opcode() {
            Opcode::OUT | Opcode::IN | Opcode::OUTS | Opcode::INS => Ok(self.port()),
            Opcode::HLT => Ok(EmulationResult::Exit(Exit::Halted)),
            Opcode::CLI => {
                self.cpu.interrupts = false;
                Ok(EmulationResult::Next)
            }
            Opcode::STI => {
                self.cpu.interrupts = true;
                Ok(EmulationResult::Next)
            }
            Opcode::LGDT => {
                self.cpu.gdtr = self.table_register()?;
                Ok(EmulationResult::Next)
            }
            Opcode::LIDT => {
                self.cpu.idtr = self.table_register()?;
                Ok(EmulationResult::Next)
            }
            Opcode::LTR => self.load_task_register(),
            Opcode::LLDT => match self.operand16(0)? {
                0..4 => Ok(EmulationResult::Next),
                selector => Err(selector_fault(selector)),
            },
            Opcode::MOV => self.mov(),
            Opcode::POP => self.pop_segment(),
            Opcode::RETF => self.far_return(),
            Opcode::IRETQ => self.interrupt_return(),
            Opcode::WRMSR => self.write_msr(),
            Opcode::RDMSR => self.read_msr(),
            // These trap only if the guest reads a counter other than the host's.
            Opcode::RDTSC | Opcode::RDTSCP if self.cpu.cycles.is_some() => Ok(self.read_tsc()),
            Opcode::SWAPGS => {
                std::mem::swap(&mut self.cpu.gs_base, &mut self.cpu.kernel_gs_base);
                Ok(EmulationResult::LoadGsBase)
            }
            Opcode::CLTS => {
                self.cpu.cr0.remove(Cr0::TS);
                Ok(EmulationResult::Next)
            }
            // No TLB entries or cache lines need flushing: guest memory is host memory.
            Opcode::INVLPG | Opcode::WBINVD | Opcode::INVD => Ok(EmulationResult::Next),
            Opcode::INT => Ok(self.software_interrupt()),
            // Instructions that need EFER.SVME or CR4.VMXE, which a guest cannot set.
            Opcode::VMRUN | Opcode::VMLOAD | Opcode::VMSAVE | Opcode::VMMCALL | Opcode::INVLPGA => {
                Err(Exception::invalid_opcode())
            }
            Opcode::STGI | Opcode::CLGI | Opcode::SKINIT => Err(Exception::invalid_opcode()),
            Opcode::XSETBV => self.write_xcr0(),
            Opcode::INVPCID => self.invalidate_by_pcid(),
            Opcode::LMSW | Opcode::SYSRET | Opcode::SYSEXIT => Ok(self.refuse()),
            Opcode::JMPF | Opcode::CALLF | Opcode::IRET | Opcode::IRETD => Ok(self.refuse()),
            // Not a privileged instruction: the guest caused the #GP itself.
            _ => Err(Exception::general_protection(self.error_code)),
        }
    }

    fn refuse(&self) -> EmulationResult {
        EmulationResult::Refuse(Cause::Instruction { what: format!("\"{}\"", self.text()) })
    }

    /// Text of an unsupported instruction.
    ///
    /// The decoder can format every instruction, but from a table of 1,600 pointers. Each start of
    /// the tender would relocate them, which takes 45,000 instructions.
    fn text(&self) -> String {
        let mnemonic = match self.instruction.opcode() {
            Opcode::MOV => "mov",
            Opcode::WRMSR => "wrmsr",
            Opcode::XSETBV => "xsetbv",
            Opcode::LMSW => "lmsw",
            Opcode::SYSRET => "sysret",
            Opcode::SYSEXIT => "sysexit",
            Opcode::JMPF => "jmp far",
            Opcode::CALLF => "call far",
            Opcode::IRET | Opcode::IRETD => "iret",
            Opcode::INT => "int",
            _ => "a privileged instruction",
        };
        match (register(self.instruction.operand(0)), register(self.instruction.operand(1))) {
            (Some(to), Some(from)) => format!("{mnemonic} {}, {}", operand::name(to), operand::name(from)),
            _ => mnemonic.to_owned(),
        }
    }

    /// Emulates `in` and `out`. Their string forms are never hypercalls.
    fn port(&self) -> EmulationResult {
        let write = matches!(self.instruction.opcode(), Opcode::OUT | Opcode::OUTS);
        let (port, data) = if write { (0, 1) } else { (1, 0) };
        let port = match self.instruction.operand(port) {
            Operand::ImmediateU8 { imm } => u16::from(imm),
            _ => self.registers.rdx as u16,
        };
        let (size, is_string) = match self.instruction.operand(data) {
            Operand::Register { reg } => (reg.width(), false),
            _ => (self.instruction.mem_size().and_then(|size| size.bytes_size()).unwrap_or(0), true),
        };
        let exit = match write && !is_string {
            true => Exit::from_port_write(port, size, self.registers.rax as u32),
            false => None,
        };
        exit.map_or(EmulationResult::Refuse(Cause::Port { port, size, write }), EmulationResult::Exit)
    }

    /// `int n`: through the IDT, if its limit covers the vector.
    fn software_interrupt(&self) -> EmulationResult {
        let Operand::ImmediateU8 { imm: vector } = self.instruction.operand(0) else { return self.refuse() };
        beyond_idt(self.cpu, vector).unwrap_or(Exception::software(vector)).into()
    }

    fn mov(&mut self) -> Executed {
        let (to, from) = (register(self.instruction.operand(0)), register(self.instruction.operand(1)));
        match (to, from) {
            (Some(to), _) if to.class() == register_class::S => {
                let selector = self.operand16(1)?;
                self.load_segment(to.num(), selector)
            }
            (Some(to), Some(from)) if to.class() == register_class::CR => {
                let value = operand::general(self.registers, from);
                self.write_control_register(to.num(), value)
            }
            (Some(to), Some(from)) if from.class() == register_class::CR => {
                let value = match from.num() {
                    0 => self.cpu.cr0.bits(),
                    2 => self.cpu.cr2,
                    3 => self.cpu.cr3,
                    4 => self.cpu.cr4().bits(),
                    8 => 0,
                    _ => return Err(Exception::invalid_opcode()),
                };
                *self.registers.general_mut(to.num()) = value;
                Ok(EmulationResult::Next)
            }
            (Some(to), Some(from)) if [to.class(), from.class()].contains(&register_class::DR) => Ok(self.refuse()),
            _ => Err(Exception::general_protection(self.error_code)),
        }
    }

    fn write_control_register(&mut self, number: u8, value: u64) -> Executed {
        match number {
            0 => match control::write_cr0(self.cpu.cr0, value) {
                Written::Value(new) => self.cpu.cr0 = new,
                Written::Fault => return Err(Exception::general_protection(0)),
                Written::Unsupported => return Ok(self.refuse()),
            },
            2 => self.cpu.cr2 = value,
            3 => match control::write_cr3(self.cpu.cr3, value, self.cpu.cr4()) {
                Written::Value(new) => self.cpu.cr3 = new,
                Written::Fault => return Err(Exception::general_protection(0)),
                Written::Unsupported => return Ok(self.refuse()),
            },
            4 => match control::write_cr4(self.cpu.cr4(), value, Features::of_this_cpu()) {
                Written::Value(new) => self.cpu.cr4_written = new,
                Written::Fault => return Err(Exception::general_protection(0)),
                Written::Unsupported => return Ok(self.refuse()),
            },
            8 if value == 0 => {}
            8 => return Ok(self.refuse()),
            _ => return Err(Exception::invalid_opcode()),
        }
        Ok(EmulationResult::Next)
    }

    /// XSETBV (SDM volume 2). The CPU itself raises #UD if its CR4.OSXSAVE is clear.
    fn write_xcr0(&self) -> Executed {
        if !self.cpu.cr4().contains(Cr4::OSXSAVE) {
            return Err(Exception::invalid_opcode());
        }
        if self.registers.rcx as u32 != 0 {
            return Err(Exception::general_protection(0));
        }
        match control::write_xcr0(self.edx_eax(), Features::of_this_cpu()) {
            Written::Value(()) => Ok(EmulationResult::Next),
            Written::Fault => Err(Exception::general_protection(0)),
            Written::Unsupported => Ok(self.refuse()),
        }
    }

    /// INVPCID (SDM volume 2) with the types 0 to 3. No TLB entries need flushing.
    fn invalidate_by_pcid(&mut self) -> Executed {
        let kind = register(self.instruction.operand(0)).map(|register| operand::general(self.registers, register));
        match kind {
            Some(0..=3) => Ok(EmulationResult::Next),
            _ => Err(Exception::general_protection(0)),
        }
    }

    fn edx_eax(&self) -> u64 {
        self.registers.rdx << 32 | self.registers.rax & 0xffff_ffff
    }

    fn write_msr(&mut self) -> Executed {
        let value = self.edx_eax();
        match self.registers.rcx as u32 {
            msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE if !is_canonical(value) => {
                Err(Exception::general_protection(0))
            }
            msr::FS_BASE => {
                self.cpu.fs_base = value;
                Ok(EmulationResult::LoadFsBase)
            }
            msr::GS_BASE => {
                self.cpu.gs_base = value;
                Ok(EmulationResult::LoadGsBase)
            }
            msr::KERNEL_GS_BASE => {
                self.cpu.kernel_gs_base = value;
                Ok(EmulationResult::Next)
            }
            msr::EFER => match control::write_efer(self.cpu.efer, value) {
                Written::Value(new) => {
                    self.cpu.efer = new;
                    Ok(EmulationResult::Next)
                }
                Written::Fault => Err(Exception::general_protection(0)),
                Written::Unsupported => Ok(self.refuse()),
            },
            // Memory types have no effect here, but the guest can read the value back.
            msr::PAT => {
                self.cpu.pat = value;
                Ok(EmulationResult::Next)
            }
            msr::TSC => Ok(self.refuse()),
            _ => Err(Exception::general_protection(0)),
        }
    }

    /// RDTSC and RDTSCP (SDM volume 2). IA32_TSC_AUX, which RDTSCP reads as well, is 0.
    fn read_tsc(&mut self) -> EmulationResult {
        let value = self.cpu.tsc();
        self.registers.rax = value & 0xffff_ffff;
        self.registers.rdx = value >> 32;
        if self.instruction.opcode() == Opcode::RDTSCP {
            self.registers.rcx = 0;
        }
        EmulationResult::Next
    }

    fn read_msr(&mut self) -> Executed {
        let value = match self.registers.rcx as u32 {
            msr::FS_BASE => self.cpu.fs_base,
            msr::GS_BASE => self.cpu.gs_base,
            msr::KERNEL_GS_BASE => self.cpu.kernel_gs_base,
            msr::EFER => self.cpu.efer.bits(),
            msr::PAT => self.cpu.pat,
            msr::TSC => self.cpu.tsc(),
            _ => return Err(Exception::general_protection(0)),
        };
        self.registers.rax = value & 0xffff_ffff;
        self.registers.rdx = value >> 32;
        Ok(EmulationResult::Next)
    }

    /// Loads a segment register. In 64-bit mode only the bases of FS and GS have an effect
    /// afterwards (SDM 3.4.4).
    fn load_segment(&mut self, number: u8, selector: u16) -> Executed {
        let base = match selector {
            0..4 => 0,
            _ => self.descriptor(selector)?.base(),
        };
        let [ds, es, fs, gs] = &mut self.cpu.data;
        match number {
            segment::SS => self.cpu.ss = selector,
            segment::DS => *ds = selector,
            segment::ES => *es = selector,
            segment::FS => {
                (*fs, self.cpu.fs_base) = (selector, base);
                return Ok(EmulationResult::LoadFsBase);
            }
            segment::GS => {
                (*gs, self.cpu.gs_base) = (selector, base);
                return Ok(EmulationResult::LoadGsBase);
            }
            segment::CS => return Err(Exception::invalid_opcode()),
            _ => {}
        }
        Ok(EmulationResult::Next)
    }

    fn load_code_segment(&mut self, selector: u16) -> Result<(), Exception> {
        let descriptor = self.descriptor(selector)?;
        if selector & 3 != 0 || !descriptor.is_64_bit_code() {
            return Err(selector_fault(selector));
        }
        self.cpu.cs = selector;
        Ok(())
    }

    /// LTR: the descriptor takes two slots and becomes busy (SDM 7.2.3).
    fn load_task_register(&mut self) -> Executed {
        const AVAILABLE: u64 = 0x9;
        const BUSY: u64 = 1 << 41;
        let selector = self.operand16(0)?;
        let low = self.descriptor(selector)?;
        let high = self.descriptor(selector.wrapping_add(8)).map_err(|_| selector_fault(selector))?;
        if low.kind() != AVAILABLE {
            return Err(selector_fault(selector));
        }
        let base = low.base() | high.0 << 32;
        self.write_memory(self.cpu.gdtr.base.wrapping_add(u64::from(selector & !7)), &(low.0 | BUSY))?;
        self.cpu.task = (base, low.limit());
        Ok(EmulationResult::Next)
    }

    fn pop_segment(&mut self) -> Executed {
        let to = register(self.instruction.operand(0)).filter(|to| to.class() == register_class::S);
        let to = to.ok_or(Exception::general_protection(self.error_code))?;
        let selector: u64 = self.read_memory(self.registers.rsp)?;
        let step = self.load_segment(to.num(), selector as u16)?;
        self.registers.rsp = self.registers.rsp.wrapping_add(8);
        Ok(step)
    }

    fn far_return(&mut self) -> Executed {
        let stack = self.registers.rsp;
        let (rip, selector, size) = if self.instruction.prefixes.rex().is_some_and(|rex| rex.w()) {
            let [rip, selector]: [u64; 2] = self.read_memory(stack)?;
            (rip, selector as u16, 16)
        } else {
            let [rip, selector]: [u32; 2] = self.read_memory(stack)?;
            (rip.into(), selector as u16, 8)
        };
        self.load_code_segment(selector)?;
        let released = match self.instruction.operand(0) {
            Operand::ImmediateU16 { imm } => u64::from(imm),
            _ => 0,
        };
        self.registers.rip = rip;
        self.registers.rsp = stack.wrapping_add(size + released);
        Ok(EmulationResult::Next)
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
        Ok(EmulationResult::Next)
    }

    /// Operand of LGDT and LIDT: 10 bytes, limit first.
    fn table_register(&mut self) -> Result<TableRegister, Exception> {
        let bytes: [u8; 10] = {
            let at = self.memory_address(0)?;
            self.read_memory(at)?
        };
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
        // The tender's descriptor tables lie in memory that the guest cannot read.
        raw.map(Descriptor).map_err(|violation| self.page_fault(violation))
    }

    fn operand16(&mut self, index: u8) -> Result<u16, Exception> {
        match register(self.instruction.operand(index)) {
            Some(register) => Ok(operand::general(self.registers, register) as u16),
            None => {
                let at = self.memory_address(index)?;
                self.read_memory(at)
            }
        }
    }

    fn memory_address(&self, index: u8) -> Result<u64, Exception> {
        let address = operand::memory_address(&self.instruction, index, self.registers, self.cpu);
        address.ok_or(Exception::general_protection(self.error_code))
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
}

/// #GP with an error code that contains a selector (SDM 6.13).
fn selector_fault(selector: u16) -> Exception {
    Exception::general_protection(u64::from(selector & !3))
}

/// #GP that `int vector` raises if the vector exceeds the IDT limit (SDM 6.13: bit 1 marks an index
/// into the IDT).
pub(super) fn beyond_idt(cpu: &Cpu, vector: u8) -> Option<Exception> {
    let last_byte = u64::from(vector) * 16 + 15;
    (last_byte > u64::from(cpu.idtr.limit)).then(|| Exception::general_protection(u64::from(vector) << 3 | 2))
}

/// Returns true if bits 63 to 47 are equal (SDM 3.3.7.1).
fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}
