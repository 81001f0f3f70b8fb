//! Emulation of intercepted instructions, common to VMX and SVM.
//!
//! Each instruction behaves as on a CPU that has only the features of [`cpuid`](super::cpuid). An
//! instruction that such a CPU rejects raises the same exception.

use hvt_abi::{
    kernel::Exit,
    x86_64::{Cr0, Cr4, Efer, RFLAGS_RESERVED, Registers, Vector, msr},
};
use raw_cpuid::CpuIdReader;

use super::{cpuid, fpu, privileged};

/// Bits of CR4 that every CPU has: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT
/// (SDM volume 3, 2.5).
const CR4_ALWAYS: u64 = 0x7ff;
/// Bits that a guest may set in EFER.
const EFER_ALLOWED: Efer = Efer::SCE.union(Efer::LME).union(Efer::LMA).union(Efer::NXE);

/// Features offered to guests on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// XSAVE components; 0 without XSAVE.
    pub(crate) components: u64,
    /// Bits of CR4.
    pub(crate) cr4: u64,
}

impl Offer {
    /// Returns all features that CPUID shows a guest. `host_xcr0` is the kernel's XCR0, if XSAVE is
    /// enabled.
    pub(crate) fn new(cpuid: &impl CpuIdReader, host_xcr0: Option<u64>) -> Self {
        let components = fpu::components(cpuid, host_xcr0);
        Self { components, cr4: CR4_ALWAYS | cpuid::cr4_features(cpuid, components) }
    }
}

/// Virtual CPU, as used by the emulation. Setters receive checked values.
pub(crate) trait Core {
    fn registers(&mut self) -> &mut Registers;
    fn cpl(&self) -> u8;
    /// CS.L: 64-bit mode, not compatibility mode.
    fn is_64_bit(&self) -> bool;
    fn set_cr0(&mut self, value: u64);
    fn cr4(&self) -> u64;
    fn set_cr4(&mut self, value: u64);
    /// Returns EFER as seen by the guest.
    fn efer(&self) -> u64;
    fn set_efer(&mut self, value: u64);
    fn pat(&self) -> u64;
    fn set_pat(&mut self, value: u64);
    fn xcr0(&self) -> u64;
    fn set_xcr0(&mut self, value: u64);
    /// Returns the difference between the guest's TSC and the CPU's.
    fn tsc_offset(&self) -> u64;
    fn set_tsc_offset(&mut self, value: u64);
}

/// Exception to inject at the current instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) vector: Vector,
    pub(crate) error_code: Option<u32>,
}

impl Fault {
    /// #UD
    pub(crate) const INVALID_OPCODE: Self = Self { vector: Vector::InvalidOpcode, error_code: None };
    /// #GP(0)
    pub(crate) const GENERAL_PROTECTION: Self = Self { vector: Vector::GeneralProtection, error_code: Some(0) };
}

/// Result of an emulated instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Completed: continue at the next instruction.
    Done,
    /// The instruction raises an exception.
    Fault(Fault),
    /// The guest cannot continue.
    Exit(Exit),
}

const GP: Outcome = Outcome::Fault(Fault::GENERAL_PROTECTION);

/// `cpuid`
pub(crate) fn cpuid(core: &mut impl Core, cpuid: &impl CpuIdReader, offer: Offer) -> Outcome {
    let osxsave = Cr4::from_bits_retain(core.cr4()).contains(Cr4::OSXSAVE);
    let view = cpuid::View { components: offer.components, xcr0: core.xcr0(), osxsave };
    let registers = core.registers();
    let answer = cpuid::answer(cpuid, registers.rax as u32, registers.rcx as u32, view);
    registers.rax = answer.eax.into();
    registers.rbx = answer.ebx.into();
    registers.rcx = answer.ecx.into();
    registers.rdx = answer.edx.into();
    Outcome::Done
}

fn edx_eax(registers: &Registers) -> u64 {
    registers.rdx << 32 | registers.rax & 0xffff_ffff
}

/// `rdmsr`
pub(crate) fn rdmsr(core: &mut impl Core) -> Outcome {
    if core.cpl() != 0 {
        return GP;
    }
    let msr = core.registers().rcx as u32;
    let value = match msr {
        msr::TSC => privileged::rdtsc().wrapping_add(core.tsc_offset()),
        msr::EFER => core.efer(),
        msr::PAT => core.pat(),
        _ => return GP,
    };
    let registers = core.registers();
    registers.rax = value & 0xffff_ffff;
    registers.rdx = value >> 32;
    Outcome::Done
}

/// `wrmsr`
pub(crate) fn wrmsr(core: &mut impl Core) -> Outcome {
    if core.cpl() != 0 {
        return GP;
    }
    let msr = core.registers().rcx as u32;
    let value = edx_eax(core.registers());
    match msr {
        msr::TSC => core.set_tsc_offset(value.wrapping_sub(privileged::rdtsc())),
        msr::EFER => {
            // Paging is enabled, so LME cannot change; only the CPU sets LMA (SDM volume 3, 2.2.1).
            let (old, new) = (Efer::from_bits_retain(core.efer()), Efer::from_bits_retain(value));
            if !EFER_ALLOWED.contains(new) || (old ^ new).contains(Efer::LME) {
                return GP;
            }
            core.set_efer(((new - Efer::LMA) | (old & Efer::LMA)).bits());
        }
        msr::PAT if pat_is_valid(value) => core.set_pat(value),
        _ => return GP,
    }
    Outcome::Done
}

/// Returns `true` if every byte of IA32_PAT is a memory type that WRMSR accepts (SDM volume 3,
/// 12.12.2).
pub(crate) fn pat_is_valid(pat: u64) -> bool {
    pat.to_le_bytes().iter().all(|memory_type| matches!(memory_type, 0 | 1 | 4..=7))
}

/// Returns `true` if bits 63:47 are equal, as in a linear address of four-level paging.
pub(crate) fn is_canonical(address: u64) -> bool {
    matches!(address.cast_signed() >> 47, 0 | -1)
}

/// Returns `true` if RFLAGS has no reserved bit set, and no bit that does not exist in 64-bit mode
/// (SDM volume 3, 27.3.1.4).
pub(crate) fn rflags_are_valid(rflags: u64) -> bool {
    /// Bits 63:22, 15, 5, 3, and VM (17).
    const ZERO: u64 = !0 << 22 | 1 << 17 | 1 << 15 | 1 << 5 | 1 << 3;
    rflags & ZERO == 0 && rflags & RFLAGS_RESERVED != 0
}

/// `xsetbv`
pub(crate) fn xsetbv(core: &mut impl Core, offer: Offer) -> Outcome {
    if !Cr4::from_bits_retain(core.cr4()).contains(Cr4::OSXSAVE) {
        return Outcome::Fault(Fault::INVALID_OPCODE);
    }
    let (cpl, registers) = (core.cpl(), core.registers());
    let value = edx_eax(registers);
    if cpl != 0 || registers.rcx as u32 != 0 || !fpu::xcr0_is_valid(value, offer.components) {
        return GP;
    }
    core.set_xcr0(value);
    Outcome::Done
}

/// `mov cr0, ..` and similar instructions, at CPL 0.
pub(crate) fn write_cr0(core: &mut impl Core, value: u64) -> Outcome {
    let new = Cr0::from_bits_truncate(value) | Cr0::ET;
    if value >> 32 != 0 || new.contains(Cr0::NW) && !new.contains(Cr0::CD) {
        return GP;
    }
    match (new.contains(Cr0::PG), new.contains(Cr0::PE)) {
        (true, true) => {}
        // Only compatibility mode can disable paging (SDM volume 3, 11.8.5.4).
        (false, _) if !core.is_64_bit() => return Outcome::Exit(Exit::ControlRegister { register: 0, value }),
        _ => return GP,
    }
    // Guests cannot disable caches, because that would slow down every CPU that shares them.
    core.set_cr0((new - Cr0::CD - Cr0::NW).bits());
    Outcome::Done
}

/// `mov cr4, ..`, at CPL 0.
pub(crate) fn write_cr4(core: &mut impl Core, value: u64, offer: Offer) -> Outcome {
    if value & !offer.cr4 != 0 || !Cr4::from_bits_retain(value).contains(Cr4::PAE) {
        return GP;
    }
    core.set_cr4(value);
    Outcome::Done
}

#[cfg(test)]
mod tests;
