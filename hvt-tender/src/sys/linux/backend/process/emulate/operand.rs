//! Operands of a decoded instruction, over the guest's registers.

use hvt_abi::x86_64::Registers;
use yaxpeax_x86::amd64::{Instruction, Operand, RegSpec, Segment, register_class};

use super::Cpu;

/// Numbers of the segment registers (SDM volume 2, table B-8).
pub(super) mod segment {
    pub(crate) const ES: u8 = 0;
    pub(crate) const CS: u8 = 1;
    pub(crate) const SS: u8 = 2;
    pub(crate) const DS: u8 = 3;
    pub(crate) const FS: u8 = 4;
    pub(crate) const GS: u8 = 5;
}

/// Returns the register of a register operand.
pub(super) fn register(operand: Operand) -> Option<RegSpec> {
    match operand {
        Operand::Register { reg } => Some(reg),
        _ => None,
    }
}

/// Name of a general, control or debug register of 64 bits.
pub(super) fn name(register: RegSpec) -> String {
    /// In the order of the register numbers (SDM volume 2, table 3-1).
    const GENERAL: [&str; 8] = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
    let number = register.num();
    match register.class() {
        register_class::CR => format!("cr{number}"),
        register_class::DR => format!("dr{number}"),
        _ => GENERAL.get(usize::from(number)).map_or_else(|| format!("r{number}"), |name| (*name).to_owned()),
    }
}

/// Value of a general register, or of RIP, which must already be behind the instruction.
pub(super) fn general(registers: &Registers, register: RegSpec) -> u64 {
    let full = match register.class() {
        register_class::RIP | register_class::EIP => registers.rip,
        _ => registers.general(register.num()),
    };
    match register.width() {
        2 => full & 0xffff,
        4 => full & 0xffff_ffff,
        _ => full,
    }
}

/// Address of the memory operand with this index, or `None` if it is not a memory operand.
pub(super) fn memory_address(instruction: &Instruction, index: u8, registers: &Registers, cpu: &Cpu) -> Option<u64> {
    let of = |register: RegSpec| general(registers, register);
    let scaled = |index: RegSpec, scale: u8| of(index).wrapping_mul(scale.into());
    let offset = match instruction.operand(index) {
        Operand::AbsoluteU32 { addr } => u64::from(addr),
        Operand::AbsoluteU64 { addr } => addr,
        Operand::MemDeref { base } => of(base),
        Operand::Disp { base, disp } => of(base).wrapping_add_signed(disp.into()),
        Operand::MemIndexScale { index, scale } => scaled(index, scale),
        Operand::MemIndexScaleDisp { index, scale, disp } => scaled(index, scale).wrapping_add_signed(disp.into()),
        Operand::MemBaseIndexScale { base, index, scale } => of(base).wrapping_add(scaled(index, scale)),
        Operand::MemBaseIndexScaleDisp { base, index, scale, disp } => {
            of(base).wrapping_add(scaled(index, scale)).wrapping_add_signed(disp.into())
        }
        _ => return None,
    };
    let base = match instruction.segment_override_for_op(index) {
        Some(Segment::FS) => cpu.fs_base,
        Some(Segment::GS) => cpu.gs_base,
        _ => 0,
    };
    Some(base.wrapping_add(offset))
}
