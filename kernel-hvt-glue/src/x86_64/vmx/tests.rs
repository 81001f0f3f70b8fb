//! Tests of discovery, entry checks and exits: the parts that need no CPU in VMX operation.

use alloc::collections::BTreeMap;

use hvt_abi::{
    Gpa,
    kernel::{EntryField, Exit, VcpuState},
    x86_64::{Cr0, Cr4, Efer, EntryState, Segment, Vector},
};
use raw_cpuid::{CpuId, CpuIdResult};

use super::{
    capabilities::VmxCapabilities,
    check::check,
    exit::Running,
    fields::{self, Field, Width},
    state,
    vcpu::VmxVcpu,
    vmcs::Fields,
};
use crate::{
    arch::ExitResult,
    fake::{FakeHost, OFFER},
    host::Hpa,
    vcpu::tests::run_with_interrupts_off,
    x86_64::error::Unsupported,
};

/// A Skylake as emulated by Bochs, after `change`.
fn skylake(change: impl Fn(u32, u64) -> u64) -> Result<VmxCapabilities, Unsupported> {
    let cpuid = |leaf, _| {
        let (eax, ecx) = match leaf {
            0 => (0x16, 0),
            1 => (0x506e3, 1 << 5),
            0x8000_0000 => (0x8000_0008, 0),
            0x8000_0008 => (0x3027, 0),
            _ => (0, 0),
        };
        CpuIdResult { eax, ebx: 0, ecx, edx: 0 }
    };
    let msr = |register| {
        let value = match register {
            0x3a => 5,
            0x480 => 0x00d8_1000_0000_002b,
            0x485 => 0x0b00_01e0,
            0x486 => 0x8000_0021,
            0x487 => 0xffff_ffff,
            0x488 => 0x2000,
            0x489 => 0x0037_67ff,
            0x48b => 0x0015_7fff_0000_0000,
            0x48c => 0x0f01_0633_4141,
            0x48d => 0x7f_0000_0016,
            0x48e => 0xfff9_fffe_0400_6172,
            0x48f => 0x007f_ffff_0003_6dfb,
            0x490 => 0xffff_0000_11fb,
            _ => panic!("{register:#x} was not announced"),
        };
        change(register, value)
    };
    VmxCapabilities::discover(&CpuId::with_cpuid_reader(cpuid), &cpuid, msr)
}

#[test]
fn a_skylake_will_do() {
    let vmx = skylake(|_, value| value).unwrap();
    assert_eq!(vmx.revision, 0x2b);
    assert_eq!(vmx.physical_address_bits, 39);
    assert!(vmx.execute_only && vmx.large_pages && vmx.huge_pages && vmx.accessed_dirty);
    assert!(vmx.vpid && vmx.invept_single && !vmx.mitigations.barrier);
}

#[test]
fn a_machine_that_cannot_says_why() {
    let without = |register, bit: u32| {
        skylake(move |asked, value| if asked == register { value & !(1 << bit) } else { value }).unwrap_err()
    };
    let missing = |feature| Unsupported::Missing { extension: "VMX", feature };
    let firmware = Unsupported::DisabledByFirmware { extension: "VMX", register: "IA32_FEATURE_CONTROL" };
    assert_eq!(without(0x3a, 2), firmware);
    assert_eq!(without(0x480, 55), missing("true controls"));
    assert_eq!(without(0x48e, 63), missing("secondary controls"));
    assert_eq!(without(0x48b, 33), missing("EPT"));
    assert_eq!(without(0x48c, 6), missing("EPT of four levels"));
    assert_eq!(without(0x48c, 20), missing("INVEPT"));
    assert_eq!(without(0x48f, 32 + 21), missing("LOAD_IA32_EFER"));
    // Firmware that has not locked the register is supported.
    assert!(skylake(|asked, value| if asked == 0x3a { 0 } else { value }).is_ok());
    let no_vpid = skylake(|asked, value| if asked == 0x48c { value & !(1 << 42) } else { value }).unwrap();
    assert!(!no_vpid.vpid);
}

fn checked(change: impl FnOnce(&mut EntryState)) -> Result<(), EntryField> {
    let mut entry = EntryState::new(0x20_0000, Gpa(0x10_0000));
    change(&mut entry);
    checked_state(&VcpuState::from(&entry))
}

fn checked_state(guest: &VcpuState) -> Result<(), EntryField> {
    let vmx = skylake(|_, value| value).unwrap();
    check(guest, 0x7ff | 1 << 18, &vmx).map_err(|failure| failure.field)
}

#[test]
fn the_entry_state_passes_the_checks() {
    assert_eq!(checked(|_| {}), Ok(()));
}

#[test]
fn every_check_names_its_field() {
    type Change = fn(&mut EntryState);
    let changes: &[(EntryField, Change)] = &[
        (EntryField::Cr0, |entry| entry.cr0 |= Cr0::NW),
        (EntryField::Cr0, |entry| entry.cr0 -= Cr0::PG),
        (EntryField::Cr0, |entry| entry.cr0 |= Cr0::from_bits_retain(1 << 32)),
        (EntryField::Cr3, |entry| entry.cr3 = Gpa(1 << 39)),
        (EntryField::Cr4, |entry| entry.cr4 -= Cr4::PAE),
        (EntryField::Cr4, |entry| entry.cr4 |= Cr4::VMXE),
        (EntryField::Efer, |entry| entry.efer -= Efer::LMA),
        (EntryField::Efer, |entry| entry.efer |= Efer::SVME),
        (EntryField::Cs, |entry| entry.code.kind = 3),
        (EntryField::Cs, |entry| entry.code.default_big = true),
        (EntryField::Cs, |entry| entry.code.granularity = false),
        (EntryField::Ss, |entry| entry.data.kind = 1),
        (EntryField::Ss, |entry| entry.data.dpl = 3),
        (EntryField::Tr, |entry| entry.task.kind = 9),
        (EntryField::Tr, |entry| entry.task.present = false),
        (EntryField::TrBase, |entry| entry.task.base = 1 << 47),
        (EntryField::Ldtr, |entry| entry.ldt = Segment { present: true, ..Segment::UNUSABLE }),
        (EntryField::GdtrBase, |entry| entry.gdtr.base = 1 << 63),
        (EntryField::IdtrBase, |entry| entry.idtr.base = 1 << 63),
        (EntryField::Rip, |entry| entry.rip = Gpa(1 << 47)),
        (EntryField::Rflags, |entry| entry.rflags = 0),
    ];
    for (field, change) in changes {
        assert_eq!(checked(change), Err(*field));
    }
    type StateChange = fn(&mut VcpuState);
    let changes: &[(EntryField, StateChange)] = &[
        (EntryField::Pat, |guest| guest.pat = 2),
        (EntryField::Cs, |guest| guest.cs.base = 1 << 32),
        (EntryField::Ss, |guest| guest.ss.base = 1 << 32),
        (EntryField::Ds, |guest| guest.ds.attributes &= !1),
        (EntryField::Es, |guest| guest.es.selector = 3),
        (EntryField::FsBase, |guest| guest.fs.base = 1 << 47),
        (EntryField::GsBase, |guest| guest.gs.base = 1 << 47),
        (EntryField::KernelGsBase, |guest| guest.kernel_gs_base = 1 << 47),
    ];
    for (field, change) in changes {
        let mut guest = VcpuState::from(&EntryState::new(0x20_0000, Gpa(0x10_0000)));
        change(&mut guest);
        assert_eq!(checked_state(&guest), Err(*field));
    }
}

#[test]
fn segments_have_the_access_rights_of_their_descriptors() {
    assert_eq!(state::access_rights(&Segment::CODE.into()), 0xa099);
    assert_eq!(state::access_rights(&Segment::DATA.into()), 0xc093);
    assert_eq!(state::access_rights(&Segment::TASK.into()), 0x008b);
    assert_eq!(state::access_rights(&Segment::UNUSABLE.into()), 0x1_0000);
}

/// VMCS in memory. A field that was never written reads as 0.
#[derive(Debug, Default)]
struct MemoryVmcs(BTreeMap<u32, u64>);

impl Fields for MemoryVmcs {
    fn read<W: Width>(&self, field: Field<W>) -> W::Value {
        W::truncate(self.0.get(&field.encoding()).copied().unwrap_or(0))
    }

    fn write<W: Width>(&mut self, field: Field<W>, value: W::Value) {
        self.0.insert(field.encoding(), value.into());
    }
}

fn vcpu(host: &FakeHost) -> VmxVcpu<FakeHost> {
    let capabilities = skylake(|_, value| value).unwrap();
    let entry = EntryState::new(0x20_0000, Gpa(0x10_0000));
    VmxVcpu::new(host, capabilities, Hpa(0), OFFER, Hpa(0), &VcpuState::from(&entry)).unwrap()
}

/// CVE-2015-8104 (#DB), CVE-2015-5307 (#AC).
#[test]
fn exceptions_without_end_let_interrupts_in() {
    const EXCEPTION: u32 = 1 << 31 | 3 << 8;
    for (vector, information) in [(Vector::Debug, EXCEPTION), (Vector::AlignmentCheck, EXCEPTION | 1 << 11)] {
        let host = FakeHost::new(8);
        let mut vcpu = vcpu(&host);
        let mut running = Running { vcpu: &mut vcpu, vmcs: MemoryVmcs::default() };
        let information = information | vector as u32;
        running.vmcs.write(fields::EXIT_INTERRUPTION_INFORMATION, information);
        let mut exits = 0;
        let exit = run_with_interrupts_off(|| {
            exits += 1;
            assert!(exits < 100, "{vector:?}: the kernel never gets its CPU back");
            assert_eq!(running.port_access(), None);
            running.handle()
        });
        assert_eq!(exit, Exit::Interrupted);
        let injected = running.vmcs.read(fields::ENTRY_INTERRUPTION_INFORMATION);
        assert_eq!(injected, information, "{vector:?}: the guest still gets its exception");
    }
}

#[test]
fn a_guests_nmi_and_instructions_are_told_apart() {
    const CPUID: u32 = 10;
    let host = FakeHost::new(8);
    let mut vcpu = vcpu(&host);
    let mut running = Running { vcpu: &mut vcpu, vmcs: MemoryVmcs::default() };
    running.vmcs.write(fields::EXIT_INTERRUPTION_INFORMATION, 1 << 31 | 2 << 8 | 2);
    assert_eq!(running.handle(), ExitResult::Interrupted);
    assert_eq!(running.vmcs.read(fields::ENTRY_INTERRUPTION_INFORMATION), 0);
    running.vmcs.write(fields::EXIT_REASON, CPUID);
    running.vmcs.write(fields::EXIT_INSTRUCTION_LENGTH, 2);
    running.vmcs.write(fields::GUEST_CS_ACCESS_RIGHTS, 1 << 13);
    assert_eq!(running.handle(), ExitResult::Again);
    assert_eq!(vcpu.context.registers.rip, 0x10_0002);
}
