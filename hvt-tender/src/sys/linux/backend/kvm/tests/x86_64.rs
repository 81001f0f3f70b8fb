//! x86_64.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

use hvt_abi::Gpa;
use hvt_abi::x86_64::{PD_BASE, PDPT_BASE, PML4_BASE, PageEntry};

use super::*;
use crate::backend::arch::assembly::code;
use crate::exit::{Cause, Exit, Fault};
use crate::memory::Permissions;

/// Exit at the end of the guests of the common tests.
pub(super) const DONE: Exit = Exit::Halted;

/// Page tables that map [`SIZE`] bytes and 2 MiB more.
pub(super) fn write_tables(entry: impl Fn(Gpa, u64)) {
    let table = PageEntry::PRESENT | PageEntry::WRITABLE;
    entry(PML4_BASE, PDPT_BASE.0 | table.bits());
    entry(PDPT_BASE, PD_BASE.0 | table.bits());
    for page in 0..3 {
        entry(Gpa(PD_BASE.0 + page * 8), (page * 0x20_0000) | (table | PageEntry::PAGE_SIZE).bits());
    }
}

/// Never ends.
pub(super) fn spin() -> &'static [u8] {
    code!("2: jmp 2b")
}

/// Writes to 64 pages from 0x200000 on.
pub(super) fn touch() -> &'static [u8] {
    code!("mov edi, 0x200000", "mov ecx, 64", "2: mov byte ptr [rdi], 1", "add edi, 0x1000", "dec ecx", "jnz 2b", "hlt")
}

/// Kicks ring 0, then ring 1.
pub(super) fn kick_two_rings() -> &'static [u8] {
    code!("mov dx, 0x600", "xor eax, eax", "out dx, eax", "inc eax", "out dx, eax", "hlt")
}

kvm_tests! {
    fn hypercalls_and_kicks_come_out_and_the_guest_goes_on() {
        let mut guest = guest(code!(
            "mov dx, 0x501", "mov eax, 0xfffffff0", "out dx, eax",
            "mov dx, 0x5ff", "mov eax, 0x1234", "out dx, eax",
            "mov dx, 0x600", "mov eax, 3", "out dx, eax",
            "mov rbx, 42", "hlt"
        ));
        assert_eq!(guest.run().unwrap(), Exit::Hypercall { number: 1, argument: Gpa(0xffff_fff0) });
        assert_eq!(guest.run().unwrap(), Exit::Hypercall { number: 0xff, argument: Gpa(0x1234) });
        assert_eq!(guest.run().unwrap(), Exit::RingKick { ring: 3 });
        assert_eq!(guest.run().unwrap(), Exit::Halted);
        let registers = guest.registers().unwrap();
        assert_eq!((registers.rbx, registers.rdi, registers.rsp), (42, 0x1_0000, SIZE - 8));
    }

    fn other_port_accesses_are_faults() {
        let cause = |port, size, write| Cause::Port { port, size, write };
        assert_eq!(fault(code!("mov dx, 0x3f8", "out dx, al")).cause, cause(0x3f8, 1, true));
        assert_eq!(fault(code!("mov dx, 0x501", "out dx, ax")).cause, cause(0x501, 2, true));
        assert_eq!(fault(code!("mov dx, 0x700", "out dx, eax")).cause, cause(0x700, 4, true));
        assert_eq!(fault(code!("mov dx, 0x501", "in eax, dx")).cause, cause(0x501, 4, false));
        assert_eq!(fault(code!("mov dx, 0x60", "in al, dx")).cause, cause(0x60, 1, false));
        let repeated = code!("mov dx, 0x501", "mov rsi, 0x101000", "mov rcx, 4", "rep outsb");
        assert_eq!(fault(repeated).cause, cause(0x501, 1, true));
    }

    fn memory_that_is_not_there_is_a_fault_with_its_address() {
        let cause = |access| Cause::Memory { address: Some(Gpa(0x40_1000)), access };
        assert_eq!(fault(code!("mov dword ptr [0x401000], eax")).cause, cause(Permissions::WRITE));
        assert_eq!(fault(code!("mov eax, dword ptr [0x401000]")).cause, cause(Permissions::READ));
        assert_eq!(fault(code!("mov rax, 0x401000", "jmp rax")).cause, cause(Permissions::EXECUTE));
    }

    fn the_host_keeps_code_and_boot_info_read_only() {
        for code in [code!("mov dword ptr [0x100800], eax", "hlt"), code!("mov dword ptr [0x10000], eax", "hlt")] {
            let fault = fault(code);
            assert!(matches!(fault.cause, Cause::Memory { access: Permissions::WRITE, .. }), "{fault:?}");
            let rip = fault.registers.map(|registers| registers.rip);
            // An emulated CPU may have executed one more instruction.
            assert!(rip == Some(CODE) || rip == Some(CODE + 7) && !Kvm::has_hardware(), "{rip:x?}");
        }
        let mut guest = guest(code!("mov dword ptr [0x101000], 7", "hlt"));
        assert_eq!(guest.run().unwrap(), Exit::Halted);
        let mut word = [0; 4];
        guest.memory().read(Gpa(DATA), &mut word).unwrap();
        assert_eq!(word, [7, 0, 0, 0]);
    }

    fn exceptions_without_a_handler_are_triple_faults() {
        assert_eq!(fault(code!("ud2")).cause, Cause::TripleFault);
        let Fault { cause, registers } = fault(code!("mov rax, 0x40000000", "mov eax, [rax]"));
        assert_eq!(cause, Cause::TripleFault);
        // SVM loses the registers.
        assert!(registers.as_ref().is_none_or(|registers| registers.rax == 0x4000_0000), "{registers:x?}");
    }

    /// The conformance table covers all MSRs. These are one of KVM's clock, one of an APIC, and one
    /// that KVM emulates.
    fn msrs_are_denied_but_those_of_the_list() {
        for code in [
            code!("mov ecx, 0x4b564d01", "mov eax, 0x101001", "xor edx, edx", "wrmsr", "hlt"),
            code!("mov ecx, 0x1b", "rdmsr", "hlt"),
            code!("mov ecx, 0x17", "rdmsr", "hlt"),
        ] {
            assert_eq!(fault(code).cause, Cause::TripleFault, "{code:x?}");
        }
        for code in [code!("mov ecx, 0x277", "rdmsr", "wrmsr", "hlt"), code!("mov ecx, 0xc0000100", "rdmsr", "wrmsr", "hlt")] {
            assert_eq!(guest(code).run().unwrap(), Exit::Halted, "{code:x?}");
        }
    }

    fn sse_works_with_hardware_and_is_refused_by_name_without() {
        let mut guest = guest(code!(
            "mov eax, 0x3f800000", "movd xmm0, eax", "addss xmm0, xmm0", "movd eax, xmm0",
            "stmxcsr [0x101000]", "fnstcw [0x101004]", "mov dx, 0x501", "out dx, eax"
        ));
        let exit = guest.run().unwrap();
        if Kvm::has_hardware() {
            assert_eq!(exit, Exit::Hypercall { number: 1, argument: Gpa(0x4000_0000) });
            let mut state = [0; 6];
            guest.memory().read(Gpa(DATA), &mut state).unwrap();
            assert_eq!(state, [0x80, 0x1f, 0, 0, 0x7f, 0x03], "MXCSR and FCW as after reset and FNINIT");
        } else {
            let Exit::Fault(Fault { cause: Cause::Instruction { what }, .. }) = exit else { panic!("{exit:?}") };
            assert!(what.contains("66 0f 6e c0"), "{what}");
        }
    }
}

#[test]
fn an_intercepted_hypercall_is_an_instruction_that_is_not_there() {
    let run = kvm_bindings::kvm_run { exit_reason: kvm_bindings::KVM_EXIT_XEN, ..kvm_bindings::kvm_run::default() };
    let cause = crate::backend::kvm::exit::cause(&run);
    assert!(matches!(&cause, Cause::Instruction { what } if what.contains("vmcall")), "{cause:?}");
}

/// Debugger conformance tests of every backend.
mod debugger {
    use super::*;
    use crate::backend::debug::conformance;

    fn start(code: &[u8], stop: &CancelToken) -> Box<dyn Machine> {
        Box::new(super::start(code, stop))
    }

    /// Returns true if the machine's debug registers work: QEMU's emulator (TCG, according to its
    /// hypervisor CPUID leaf) ignores them while it runs a guest of KVM.
    fn has_debug_registers() -> bool {
        let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
        let emulated = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat() == b"TCGTCGTCGTCG";
        if emulated {
            eprintln!("not tested: the emulator has no debug registers for guests of KVM");
        }
        !emulated
    }

    macro_rules! conforms {
        ($able:expr => $($name:ident)+) => {$(
            #[test]
            fn $name() {
                if available() && Kvm::has_hardware() && $able {
                    conformance::$name(&start);
                }
            }
        )+};
    }

    conforms! {
        true =>
        steps planted_breakpoints own_instructions_stay_the_guests registers_are_read_and_changed pauses
        what_is_not_mapped
    }

    conforms! {
        has_debug_registers() =>
        watched_writes watched_reads steps_meet_watchpoints hardware_breakpoints
    }
}
