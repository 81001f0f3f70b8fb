//! Tests of a virtual CPU with simulated exits.

use hvt_abi::{
    Gpa, GuestRange, Permissions,
    kernel::{Direction, EntryFailure, EntryField, Exit, Io, MemoryViolation, VcpuState},
    x86_64::{EntryState, PML4_BASE, Registers},
};

use super::{
    check::check,
    maps::PermissionMaps,
    vcpu::SvmVcpu,
    vmcb::{Vmcb, event, exit_code},
};
use crate::{
    arch::ExitResult,
    fake::{FakeHost, OFFER, svm_capabilities},
    vcpu::tests::run_with_interrupts_off,
    vm::Vm,
    x86_64::{emulate::Core, svm::capabilities::SvmCapabilities},
};

const CODE: u64 = 0x10_0000;

/// A VM of 2 MiB with identity-mapping page tables, and a virtual CPU.
struct Guest {
    vm: Vm<FakeHost>,
    vcpu: SvmVcpu<FakeHost>,
}

impl Guest {
    fn new(code: &[u8]) -> Self {
        Self::on(code, |_| {})
    }

    fn on(code: &[u8], change: impl FnOnce(&mut SvmCapabilities)) -> Self {
        let host = FakeHost::new(2048);
        let hypervisor = host.svm();
        let mut vm = Vm::new(&hypervisor).unwrap();
        vm.allocate(GuestRange::new(Gpa(0), 0x20_0000).unwrap(), Permissions::all()).unwrap();
        for (at, entry) in [(PML4_BASE.0, 0x3003_u64), (0x3000, 0x4003), (0x4000, 0x83)] {
            vm.write(Gpa(at), &entry.to_le_bytes()).unwrap();
        }
        vm.write(Gpa(CODE), code).unwrap();
        let entry = EntryState::new(0x20_0000, Gpa(CODE));
        let svm = svm_capabilities(change);
        let maps = PermissionMaps::new(&host).unwrap();
        let vcpu = SvmVcpu::new(&host, svm, &maps, OFFER, vm.root(), &VcpuState::from(&entry)).unwrap();
        Self { vm, vcpu }
    }

    /// Simulates an exit with this reason.
    fn leave(&mut self, code: u64, info_1: u64, info_2: u64) {
        let control = &mut self.vcpu.vmcb_mut().control;
        control.exit_code = code;
        control.exit_info_1 = info_1;
        control.exit_info_2 = info_2;
    }

    /// Simulates an exit and handles it.
    fn exit(&mut self, code: u64, info_1: u64, info_2: u64) -> ExitResult {
        self.leave(code, info_1, info_2);
        assert_eq!(self.vcpu.port_access(), None);
        self.vcpu.handle(&self.vm)
    }

    fn set(&mut self, change: impl FnOnce(&mut Registers)) {
        let mut registers = self.vcpu.general_registers();
        change(&mut registers);
        self.vcpu.set_general_registers(&registers);
    }

    fn rip(&self) -> u64 {
        self.vcpu.vmcb().save.rip
    }

    fn event(&self) -> u64 {
        self.vcpu.vmcb().control.event_injection
    }
}

fn checked(change: impl FnOnce(&mut Vmcb)) -> Result<(), EntryFailure> {
    let mut guest = Guest::new(&[]);
    change(guest.vcpu.vmcb_mut());
    check(guest.vcpu.vmcb(), 0x7ff, 40)
}

#[test]
fn the_entry_state_passes_the_checks() {
    assert_eq!(checked(|_| {}), Ok(()));
}

#[test]
fn every_check_names_its_field() {
    type Change = fn(&mut Vmcb);
    let changes: &[(EntryField, Change)] = &[
        (EntryField::Cr0, |vmcb| vmcb.save.cr0 |= 1 << 32),
        (EntryField::Cr0, |vmcb| vmcb.save.cr0 |= 1 << 29),
        (EntryField::Cr0, |vmcb| vmcb.save.cr0 &= !1),
        (EntryField::Cr3, |vmcb| vmcb.save.cr3 = 1 << 40),
        (EntryField::Cr4, |vmcb| vmcb.save.cr4 |= 1 << 13),
        (EntryField::Cr4, |vmcb| vmcb.save.cr4 &= !(1 << 5)),
        (EntryField::Efer, |vmcb| vmcb.save.efer &= !(1 << 12)),
        (EntryField::Efer, |vmcb| vmcb.save.efer &= !(1 << 8)),
        (EntryField::Efer, |vmcb| vmcb.save.efer |= 1 << 16),
        (EntryField::Cs, |vmcb| vmcb.save.cs.attributes |= 1 << 10),
        (EntryField::Cs, |vmcb| vmcb.save.cs.attributes = 0xc93),
        (EntryField::Ss, |vmcb| vmcb.save.ss.attributes |= 3 << 5),
        (EntryField::Rflags, |vmcb| vmcb.save.rflags = 0),
        (EntryField::Rip, |vmcb| vmcb.save.rip = 1 << 47),
        (EntryField::Dr6, |vmcb| vmcb.save.dr6 |= 1 << 32),
        (EntryField::Dr7, |vmcb| vmcb.save.dr7 |= 1 << 32),
        (EntryField::Pat, |vmcb| vmcb.save.g_pat = 2),
        (EntryField::GdtrBase, |vmcb| vmcb.save.gdtr.base = 1 << 63),
        (EntryField::IdtrBase, |vmcb| vmcb.save.idtr.base = 1 << 63),
        (EntryField::FsBase, |vmcb| vmcb.save.fs.base = 1 << 63),
        (EntryField::GsBase, |vmcb| vmcb.save.gs.base = 1 << 63),
        (EntryField::TrBase, |vmcb| vmcb.save.tr.base = 1 << 63),
    ];
    for (field, change) in changes {
        assert_eq!(checked(change).map_err(|failure| failure.field), Err(*field));
    }
}

#[test]
fn io_exits_tell_what_the_guest_did() {
    let mut guest = Guest::new(&[]);
    guest.set(|registers| registers.rax = 0x8877_6655_4433_2211);
    let io = Io { port: 0x501, size: 4, direction: Direction::Out, string: false, value: 0x4433_2211 };
    let cases = [
        (0x0501_0040, io),
        (0x0501_0020, Io { size: 2, value: 0x2211, ..io }),
        (0xffff_0010, Io { port: 0xffff, size: 1, value: 0x11, ..io }),
        (0x0501_0041, Io { direction: Direction::In, value: 0, ..io }),
        (0x0501_004c, Io { string: true, value: 0, ..io }),
        (0x0501_001d, Io { direction: Direction::In, size: 1, string: true, value: 0, ..io }),
    ];
    for (info, expected) in cases {
        guest.leave(exit_code::IOIO, info, 0x1234);
        assert_eq!(guest.vcpu.port_access(), Some(expected), "{info:#x}");
        assert_eq!(guest.rip(), 0x1234);
    }
}

#[test]
fn nested_page_faults_tell_address_and_access() {
    let mut guest = Guest::new(&[]);
    let cases = [
        (1 << 32 | 4, Permissions::READ, false),
        (1 << 32 | 6, Permissions::WRITE, false),
        (1 << 32 | 0x15, Permissions::EXECUTE, false),
        (1 << 33 | 6, Permissions::WRITE, true),
    ];
    for (info, access, page_walk) in cases {
        let violation = MemoryViolation { gpa: Gpa(0xfee0_0000), access, page_walk, gva: None };
        let expected = Exit::MemoryViolation(violation);
        assert_eq!(guest.exit(exit_code::NPF, info, 0xfee0_0000), ExitResult::Exit(expected));
    }
    let malformed = guest.exit(exit_code::NPF, 1 << 3, 0x1000);
    assert!(matches!(malformed, ExitResult::Exit(Exit::Misconfiguration { gpa: Gpa(0x1000) })));
    assert_eq!(guest.rip(), CODE);
}

#[test]
fn instructions_are_measured_in_guest_memory() {
    // A prefix without effect, and CPUID.
    let mut guest = Guest::new(&[0x2e, 0x0f, 0xa2]);
    guest.set(|registers| registers.rax = 0x4000_0000);
    assert_eq!(guest.exit(exit_code::CPUID, 0, 0), ExitResult::Again);
    assert_eq!((guest.rip(), guest.vcpu.general_registers().rax), (CODE + 3, 0));

    // Not the expected instruction: other code rewrites it, or the guest runs from another address.
    let mut guest = Guest::new(&[0x90]);
    let undecodable = Exit::Undecodable { rip: CODE, reason: exit_code::HLT };
    assert_eq!(guest.exit(exit_code::HLT, 0, 0), ExitResult::Exit(undecodable));
    guest.vm.write(PML4_BASE, &[0; 8]).unwrap();
    guest.vm.write(Gpa(CODE), &[0xf4]).unwrap();
    assert_eq!(guest.exit(exit_code::HLT, 0, 0), ExitResult::Exit(undecodable));
}

#[test]
fn an_instruction_may_cross_into_the_next_page() {
    let mut guest = Guest::new(&[]);
    guest.vm.write(Gpa(0x10_0fff), &[0x0f, 0xa2]).unwrap();
    guest.set(|registers| registers.rip = 0x10_0fff);
    assert_eq!(guest.exit(exit_code::CPUID, 0, 0), ExitResult::Again);
    assert_eq!(guest.rip(), 0x10_1001);
}

#[test]
fn the_cpus_own_measure_is_used_where_there_is_one() {
    let mut guest = Guest::on(&[], |capabilities| capabilities.nrip_save = true);
    guest.vcpu.vmcb_mut().control.next_rip = 0x7777;
    assert_eq!(guest.exit(exit_code::HLT, 0, 0), ExitResult::Exit(Exit::Halt));
    assert_eq!(guest.rip(), 0x7777);
}

#[test]
fn control_register_writes_name_their_source() {
    // mov cr4, r9
    let mut guest = Guest::new(&[0x41, 0x0f, 0x22, 0xe1]);
    guest.set(|registers| registers.r9 = 0x6a0);
    assert_eq!(guest.exit(exit_code::CR0_WRITE + 4, 0, 0), ExitResult::Again);
    assert_eq!((guest.rip(), guest.vcpu.cr4()), (CODE + 4, 0x6a0));
    // The exit reports another register than the bytes.
    guest.set(|registers| registers.rip = CODE);
    assert!(matches!(guest.exit(exit_code::CR0_WRITE + 3, 0, 0), ExitResult::Exit(Exit::Undecodable { .. })));

    // The same with decode assists and nRIP-save, without reading memory.
    let mut guest = Guest::on(&[], |capabilities| {
        capabilities.nrip_save = true;
        capabilities.decode_assists = true;
    });
    guest.set(|registers| registers.rsp = 0x6a0);
    guest.vcpu.vmcb_mut().control.next_rip = CODE + 3;
    assert_eq!(guest.exit(exit_code::CR0_WRITE + 4, 1 << 63 | 4, 0), ExitResult::Again);
    assert_eq!((guest.rip(), guest.vcpu.cr4()), (CODE + 3, 0x6a0));
}

#[test]
fn refused_instructions_raise_exceptions_in_place() {
    const GP: u64 = event::VALID | event::ERROR_CODE_VALID | 3 << 8 | 13;
    const UD: u64 = event::VALID | 3 << 8 | 6;
    // rdmsr of an MSR that does not exist.
    let mut guest = Guest::new(&[0x0f, 0x32]);
    guest.set(|registers| registers.rcx = 0x1b);
    assert_eq!(guest.exit(exit_code::MSR, 0, 0), ExitResult::Again);
    assert_eq!((guest.rip(), guest.event()), (CODE, GP));
    for code in [exit_code::VMRUN, 0x81, 0x86, exit_code::RDTSCP, exit_code::MONITOR, exit_code::RSM] {
        assert_eq!(guest.exit(code, 0, 0), ExitResult::Again);
        assert_eq!(guest.event(), UD, "{code:#x}");
    }
    assert_eq!(guest.exit(exit_code::RDPMC, 0, 0), ExitResult::Again);
    assert_eq!(guest.event(), GP);
    assert_eq!(guest.exit(exit_code::EXCEPTION_AC, 0, 0), ExitResult::Interrupted);
    assert_eq!(guest.event(), event::VALID | event::ERROR_CODE_VALID | 3 << 8 | 17);
    assert_eq!(guest.exit(exit_code::EXCEPTION_DB, 0, 0), ExitResult::Interrupted);
    assert_eq!(guest.event(), event::VALID | 3 << 8 | 1);
    guest.set(|_| {});
    assert_eq!(guest.event(), 0, "setting registers forgets it");
}

/// CVE-2015-8104 (#DB), CVE-2015-5307 (#AC).
#[test]
fn exceptions_without_end_let_interrupts_in() {
    for code in [exit_code::EXCEPTION_DB, exit_code::EXCEPTION_AC] {
        let mut guest = Guest::new(&[]);
        let mut exits = 0;
        let exit = run_with_interrupts_off(|| {
            exits += 1;
            assert!(exits < 100, "{code:#x}: the kernel never gets its CPU back");
            guest.exit(code, 0, 0)
        });
        assert_eq!(exit, Exit::Interrupted);
        assert_ne!(guest.event(), 0, "{code:#x}: the guest still gets its exception");
    }
}

#[test]
fn debug_registers_are_given_on_first_use() {
    let mut guest = Guest::new(&[]);
    assert_eq!(guest.vcpu.vmcb().control.intercept_dr_writes, !0);
    assert_eq!(guest.exit(exit_code::DR0_READ + 0x17, 0, 0), ExitResult::Again);
    assert_eq!(guest.vcpu.vmcb().control.intercept_dr_writes, 0);
    assert!(guest.vcpu.debug.are_guests());
    assert_eq!(guest.rip(), CODE, "the instruction runs again");
}

#[test]
fn the_rest_is_told_as_it_is() {
    let mut guest = Guest::new(&[]);
    assert_eq!(guest.exit(exit_code::INTR, 0, 0), ExitResult::Interrupted);
    assert_eq!(guest.exit(exit_code::NMI, 0, 0), ExitResult::Interrupted);
    assert_eq!(guest.exit(exit_code::SHUTDOWN, 0, 0), ExitResult::Exit(Exit::TripleFault));
    let unknown = Exit::Unknown { reason: 0x402, info: 9 };
    assert_eq!(guest.exit(0x402, 9, 0), ExitResult::Exit(unknown));
    let failure = EntryFailure { field: EntryField::Unspecified, value: u64::MAX };
    assert!(
        matches!(guest.exit(exit_code::INVALID, 0, 0), ExitResult::Exit(Exit::EntryFailure(found)) if found == failure)
    );
}

#[test]
fn the_state_that_is_set_is_the_state_that_is_there() {
    let mut guest = Guest::new(&[]);
    let entry = VcpuState::from(&EntryState::new(0x20_0000, Gpa(CODE)));
    assert_eq!(guest.vcpu.read_state(), entry);

    let mut other = VcpuState { cr2: 2, cr3: 0x5000, kernel_gs_base: 0x1234, pat: 6, ..entry };
    other.general.r15 = 15;
    other.general.rax = 1;
    other.fs.base = 0x7000;
    other.ss.attributes |= 3 << 5;
    guest.vcpu.inject(crate::x86_64::emulate::Fault::GENERAL_PROTECTION);
    guest.vcpu.write_state(&other);
    assert_eq!(guest.vcpu.read_state(), other);
    assert_eq!((guest.event(), guest.vcpu.vmcb().save.cpl), (0, 3));
}
