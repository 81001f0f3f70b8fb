//! Tests of the emulation on a virtual CPU that consists only of registers.

use hvt_abi::{Gpa, x86_64::EntryState};
use proptest::prelude::*;
use raw_cpuid::CpuIdResult;

use super::*;

const OFFER: Offer = Offer { components: 0x7, cr4: CR4_ALWAYS | 1 << 16 | 1 << 18 };

struct Plain {
    registers: Registers,
    cpl: u8,
    is_64_bit: bool,
    cr0: u64,
    cr4: u64,
    efer: u64,
    pat: u64,
    xcr0: u64,
    tsc_offset: u64,
}

impl Plain {
    /// State at the entry point of a guest.
    fn new() -> Self {
        let entry = EntryState::new(0x20_0000, Gpa(0x10_0000));
        Self {
            registers: Registers::default(),
            cpl: 0,
            is_64_bit: true,
            cr0: entry.cr0.bits(),
            cr4: entry.cr4.bits(),
            efer: entry.efer.bits(),
            pat: msr::PAT_RESET,
            xcr0: 1,
            tsc_offset: 0,
        }
    }

    fn wrmsr(&mut self, msr: u32, value: u64) -> Outcome {
        self.registers.rcx = 0xffff_ffff_0000_0000 | u64::from(msr);
        self.registers.rax = 0xffff_ffff_0000_0000 | value & 0xffff_ffff;
        self.registers.rdx = 0xffff_ffff_0000_0000 | value >> 32;
        wrmsr(self)
    }

    fn rdmsr(&mut self, msr: u32) -> Result<u64, Outcome> {
        self.registers.rcx = msr.into();
        match rdmsr(self) {
            Outcome::Done => Ok(self.registers.rdx << 32 | self.registers.rax),
            outcome => Err(outcome),
        }
    }

    fn xsetbv(&mut self, value: u64) -> Outcome {
        (self.registers.rcx, self.registers.rax, self.registers.rdx) = (0, value & 0xffff_ffff, value >> 32);
        xsetbv(self, OFFER)
    }
}

impl Core for Plain {
    fn registers(&mut self) -> &mut Registers {
        &mut self.registers
    }

    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn is_64_bit(&self) -> bool {
        self.is_64_bit
    }

    fn set_cr0(&mut self, value: u64) {
        self.cr0 = value;
    }

    fn cr4(&self) -> u64 {
        self.cr4
    }

    fn set_cr4(&mut self, value: u64) {
        self.cr4 = value;
    }

    fn efer(&self) -> u64 {
        self.efer
    }

    fn set_efer(&mut self, value: u64) {
        self.efer = value;
    }

    fn pat(&self) -> u64 {
        self.pat
    }

    fn set_pat(&mut self, value: u64) {
        self.pat = value;
    }

    fn xcr0(&self) -> u64 {
        self.xcr0
    }

    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }

    fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    fn set_tsc_offset(&mut self, value: u64) {
        self.tsc_offset = value;
    }
}

#[test]
fn a_guest_may_change_two_bits_of_efer() {
    let mut core = Plain::new();
    let before = core.efer;
    for (value, after) in [
        (before | 1, Some(before | 1)),
        (before & !(1 << 11), Some(before & !(1 << 11))),
        (before & !(1 << 10), Some(before)), // LMA is not written
        (before & !(1 << 8), None),          // LME cannot change while paging is on
        (before | 1 << 12, None),            // SVME
        (before | 1 << 14, None),            // FFXSR
        (before | 1 << 63, None),
    ] {
        let mut core = Plain::new();
        let outcome = core.wrmsr(msr::EFER, value);
        assert_eq!(outcome, if after.is_some() { Outcome::Done } else { GP }, "{value:#x}");
        assert_eq!(core.rdmsr(msr::EFER), Ok(after.unwrap_or(before)));
    }
    core.cpl = 3;
    assert_eq!(core.wrmsr(msr::EFER, before), GP);
    assert_eq!(core.rdmsr(msr::EFER), Err(GP));
}

/// The permission maps give the guest direct access to [`msr::OWN`], so these MSRs are never
/// emulated.
#[test]
fn emulated_msrs_are_those_of_the_shared_list() {
    let known = [0..0x2000, 0x4000_0000..0x4000_0200, 0x4b56_4d00..0x4b56_4e00, 0xc000_0000..0xc001_2000];
    let carried_out = known.into_iter().flatten().filter(|&register| Plain::new().rdmsr(register).is_ok());
    assert!(carried_out.eq(msr::EMULATED));
}

#[test]
fn the_tsc_moves_for_the_guest_alone() {
    let mut core = Plain::new();
    assert_eq!(core.wrmsr(msr::TSC, 1 << 62), Outcome::Done);
    let read = core.rdmsr(msr::TSC).unwrap();
    assert!((1 << 62..(1 << 62) + (1 << 40)).contains(&read), "{read:#x}");
}

#[test]
fn the_pat_takes_memory_types_only() {
    let mut core = Plain::new();
    assert_eq!(core.wrmsr(msr::PAT, 0x0706_0504_0100_0600), Outcome::Done);
    assert_eq!(core.rdmsr(msr::PAT), Ok(0x0706_0504_0100_0600));
    for invalid in [2, 3, 8, 0xff] {
        assert_eq!(core.wrmsr(msr::PAT, invalid << 40), GP);
    }
    assert_eq!(core.rdmsr(msr::PAT), Ok(0x0706_0504_0100_0600));
}

#[test]
fn xsetbv_needs_osxsave_and_cpl_0() {
    let mut core = Plain::new();
    assert_eq!(core.xsetbv(7), Outcome::Fault(Fault::INVALID_OPCODE));
    core.cr4 |= Cr4::OSXSAVE.bits();
    assert_eq!(core.xsetbv(7), Outcome::Done);
    assert_eq!(core.xcr0, 7);
    for invalid in [0, 2, 5, 0xe7, 1 << 32 | 1] {
        assert_eq!(core.xsetbv(invalid), GP, "{invalid:#x}");
    }
    core.registers.rcx = 1;
    assert_eq!(xsetbv(&mut core, OFFER), GP);
    core.cpl = 3;
    assert_eq!(core.xsetbv(3), GP);
    assert_eq!(core.xcr0, 7);
}

#[test]
fn cr0_keeps_paging_and_caches() {
    let before = Plain::new().cr0;
    let write = |is_64_bit, value| {
        let mut core = Plain { is_64_bit, ..Plain::new() };
        (write_cr0(&mut core, value), core.cr0)
    };
    let (ts, et, cd, nw, pg, pe) = (1 << 3, 1 << 4, 1 << 30, 1 << 29, 1 << 31, 1);
    assert_eq!(write(true, before | ts), (Outcome::Done, before | ts | et));
    assert_eq!(write(true, before | cd | nw), (Outcome::Done, before | et));
    assert_eq!(write(true, before | nw), (GP, before));
    assert_eq!(write(true, before | 1 << 32), (GP, before));
    assert_eq!(write(true, before & !pg), (GP, before));
    assert_eq!(write(true, before & !pe), (GP, before));
    let value = before & !pg;
    assert_eq!(write(false, value), (Outcome::Exit(Exit::ControlRegister { register: 0, value }), before));
}

#[test]
fn cr4_takes_what_is_on_offer() {
    let before = Plain::new().cr4;
    let write = |value| {
        let mut core = Plain::new();
        (write_cr4(&mut core, value, OFFER), core.cr4)
    };
    assert_eq!(write(before | 1 << 18), (Outcome::Done, before | 1 << 18));
    for refused in [before & !(1 << 5), before | 1 << 13, before | 1 << 17, before | 1 << 22, before | 1 << 32] {
        assert_eq!(write(refused), (GP, before), "{refused:#x}");
    }
}

#[test]
fn cpuid_writes_four_registers_whole() {
    let mut core = Plain::new();
    core.registers = Registers { rax: !0, rbx: !0, rcx: !0, rdx: !0, rsi: 5, ..core.registers };
    let cpu = |leaf, _| CpuIdResult { eax: leaf, ebx: 2, ecx: 3, edx: 4 };
    assert_eq!(cpuid(&mut core, &cpu, OFFER), Outcome::Done);
    assert_eq!(core.registers, Registers { rsi: 5, ..Registers::default() }, "no such leaf");
    core.registers.rax = 0;
    assert_eq!(cpuid(&mut core, &cpu, OFFER), Outcome::Done);
    assert_eq!(core.registers, Registers { rbx: 2, rcx: 3, rdx: 4, rsi: 5, ..Registers::default() });
}

#[test]
fn canonical_addresses_and_flags() {
    for (address, canonical) in
        [(0, true), (!0, true), ((1 << 47) - 1, true), (1 << 47, false), (!0 << 47, true), (!0 << 48, false)]
    {
        assert_eq!(is_canonical(address), canonical, "{address:#x}");
    }
    for (rflags, valid) in
        [(2, true), (0x3f_7fd7 & !(1 << 17), true), (0, false), (2 | 1 << 17, false), (2 | 1 << 22, false)]
    {
        assert_eq!(rflags_are_valid(rflags), valid, "{rflags:#x}");
    }
}

proptest! {
    /// All other MSRs would affect the host: every guest access causes #GP and changes nothing.
    #[test]
    fn every_other_msr_is_denied(number: u32, value: u64) {
        prop_assume!(!msr::EMULATED.contains(&number));
        let mut core = Plain::new();
        prop_assert_eq!(core.wrmsr(number, value), GP);
        prop_assert_eq!(core.rdmsr(number), Err(GP));
    }

    /// Control registers that a guest can set pass the checks at entry.
    #[test]
    fn control_registers_stay_enterable(cr0: u64, cr4: u64, efer: u64) {
        let mut core = Plain::new();
        let _ = (write_cr0(&mut core, cr0), write_cr4(&mut core, cr4, OFFER), core.wrmsr(msr::EFER, efer));
        prop_assert_eq!(core.cr0 & 0x8000_0001, 0x8000_0001);
        prop_assert_eq!(core.cr0 >> 32, 0);
        prop_assert_eq!(core.cr4 & !OFFER.cr4, 0);
        prop_assert_ne!(core.cr4 & Cr4::PAE.bits(), 0);
        prop_assert_eq!(core.efer & !0x901, 0x400);
        prop_assert_ne!(core.efer & 1 << 8, 0);
    }
}
