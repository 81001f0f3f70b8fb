//! aarch64.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

use hvt_abi::Gpa;
use hvt_abi::aarch64::{Descriptor, MMIO_BASE, Mair, PGD_BASE, PMD_BASE, PUD_BASE, VECTORS, VECTORS_BASE};

use super::*;
use crate::backend::arch::assembly::code;
use crate::exit::{Cause, Exit, Fault};
use crate::memory::Permissions;

/// Exit at the end of the guests of the common tests: a hypercall, because nothing else leaves the
/// guest.
pub(super) const DONE: Exit = Exit::Hypercall { number: 0, argument: Gpa(0) };

/// Translation tables that map [`SIZE`] bytes, 2 MiB more, and device memory; and the tender's
/// vectors.
pub(super) fn write_tables(entry: impl Fn(Gpa, u64)) {
    for (index, word) in (0..).zip(VECTORS) {
        entry(Gpa(VECTORS_BASE.0 + index * 8), word);
    }
    let table = (Descriptor::VALID | Descriptor::TABLE_OR_PAGE).bits();
    let block = (Descriptor::VALID | Descriptor::AF | Descriptor::SH_INNER).bits();
    entry(PGD_BASE, PUD_BASE.0 | table);
    entry(PUD_BASE, PMD_BASE.0 | table);
    entry(Gpa(PUD_BASE.0 + 4 * 8), MMIO_BASE.0 | block | Mair::DeviceNGnRE.index());
    for page in 0..3 {
        entry(Gpa(PMD_BASE.0 + page * 8), (page * 0x20_0000) | block | Mair::Normal.index());
    }
}

/// Never ends.
pub(super) fn spin() -> &'static [u8] {
    code!("b .")
}

/// Writes to 64 pages from 0x200000 on.
pub(super) fn touch() -> &'static [u8] {
    code!(
        "mov x1, #0x200000",
        "mov x2, #64",
        "2: strb w2, [x1], #1",
        "add x1, x1, #0xfff",
        "subs x2, x2, #1",
        "b.ne 2b",
        "mov x1, #0x100000000",
        "str wzr, [x1]"
    )
}

/// Kicks ring 0, then ring 1.
pub(super) fn kick_two_rings() -> &'static [u8] {
    code!("mov x1, #0x100000000", "mov w0, #1", "str wzr, [x1, #0x100]", "str w0, [x1, #0x100]", "str wzr, [x1]")
}

kvm_tests! {
    fn hypercalls_and_kicks_come_out_and_the_guest_goes_on() {
        let mut guest = guest(code!(
            "mov x1, #0x100000000",
            "mov w2, #0xfffffff0", "str w2, [x1, #8]",
            "mov w3, #0x1234", "str w3, [x1, #0xf8]",
            "mov x4, #3", "movk x4, #7, lsl #32", "str w4, [x1, #0x100]",
            "mov x30, #42", "str wzr, [x1]"
        ));
        assert_eq!(guest.run().unwrap(), Exit::Hypercall { number: 1, argument: Gpa(0xffff_fff0) });
        assert_eq!(guest.registers().unwrap().pc, CODE + 8);
        assert_eq!(guest.run().unwrap(), Exit::Hypercall { number: 31, argument: Gpa(0x1234) });
        assert_eq!(guest.run().unwrap(), Exit::RingKick { ring: 3 });
        assert_eq!(guest.run().unwrap(), DONE);
        let registers = guest.registers().unwrap();
        assert_eq!((registers.x[0], registers.x[4], registers.x[30]), (0x1_0000, 0x7_0000_0003, 42));
        assert_eq!((registers.sp, registers.pstate), (SIZE - 16, 0x3c5));
    }

    fn other_accesses_to_device_memory_are_faults() {
        let cause = |offset, size, write| Cause::Device { address: Gpa(MMIO_BASE.0 + offset), size, write };
        macro_rules! access {
            ($line:literal) => { fault(code!("mov x1, #0x100000000", $line)).cause };
        }
        assert_eq!(access!("strb w0, [x1, #8]"), cause(8, Some(1), true));
        assert_eq!(access!("strh w0, [x1, #8]"), cause(8, Some(2), true));
        assert_eq!(access!("str x0, [x1, #8]"), cause(8, Some(8), true));
        assert_eq!(access!("str w0, [x1, #4]"), cause(4, Some(4), true));
        assert_eq!(access!("str w0, [x1, #0x108]"), cause(0x108, Some(4), true));
        assert_eq!(access!("ldr w0, [x1, #8]"), cause(8, Some(4), false));
        assert_eq!(access!("ldrb w0, [x1]"), cause(0, Some(1), false));
        assert_eq!(access!("str w0, [x1, #0x80]!"), cause(0x80, None, true));
        assert_eq!(access!("ldr w0, [x1], #8"), cause(0, None, false));
        assert_eq!(access!("stp w0, w2, [x1]"), cause(0, None, true));
        assert_eq!(access!("str q0, [x1, #16]"), cause(16, None, true));
        let last = fault(code!("mov w1, #0x3ffffff8", "movk x1, #1, lsl #32", "str w0, [x1]")).cause;
        assert_eq!(last, cause(0x3fff_fff8, Some(4), true));
    }

    fn memory_that_is_not_there_is_a_fault_with_its_address() {
        let cause = |access| Cause::Memory { address: Some(Gpa(0x40_1000)), access };
        let place = |code| fault(code).cause;
        assert_eq!(place(code!("mov x1, #0x400000", "add x1, x1, #0x1000", "str w0, [x1]")), cause(Permissions::WRITE));
        assert_eq!(place(code!("mov x1, #0x400000", "add x1, x1, #0x1000", "ldr w0, [x1]")), cause(Permissions::READ));
        assert_eq!(place(code!("mov x1, #0x400000", "add x1, x1, #0x1000", "ldp x2, x3, [x1]")), cause(Permissions::READ));
    }

    /// KVM makes the CPU raise an exception, which the guest handles.
    fn running_where_there_is_no_memory_is_the_guests_exception() {
        let mut guest = guest(code!(
            "mov x1, #0x400000", "add x1, x1, #0x1000", "adr x2, 8b", "add x2, x2, #0x800", "msr vbar_el1, x2", "isb", "br x1",
            // Behind 0x200 bytes of vectors: synchronous exceptions of EL1 on its own stack (Arm ARM, D1.3.1).
            ".space 0xa00 - (. - 8b)",
            "mrs x3, esr_el1", "ubfx x3, x3, #26, #6", "mrs x4, far_el1", "mov x5, #0x100000000", "str w3, [x5, #8]"
        ));
        // EC: an instruction abort at the same exception level (Arm ARM, D17.2.37).
        assert_eq!(guest.run().unwrap(), Exit::Hypercall { number: 1, argument: Gpa(0x21) });
        assert_eq!(guest.registers().unwrap().x[4], 0x40_1000);
    }

    fn exceptions_without_vectors_end_the_guest_where_they_were_raised() {
        // Syndrome, fault address and registers of the exception.
        let said = |code: &[u8]| {
            let Fault { cause: Cause::Exception { syndrome, address }, registers: Some(registers) } = fault(code) else {
                panic!("no exception: {code:x?}")
            };
            (syndrome, address, registers)
        };
        let (syndrome, _, registers) = said(code!("mov x0, #7", "mov x30, #9", "adds x1, x0, #1", "udf #0"));
        assert_eq!((syndrome, registers.pc, registers.sp), (0x200_0000, CODE + 0xc, SIZE - 16));
        assert_eq!((registers.x[0], registers.x[1], registers.x[30], registers.pstate), (7, 8, 9, 0x3c5));
        let (syndrome, address, registers) = said(code!("mov x1, #0x600000", "str x1, [x1, #8]"));
        assert_eq!((syndrome, address, registers.pc), (0x9600_0046, 0x60_0008, CODE + 4));
        let (syndrome, address, registers) = said(code!("mov x1, #0x600000", "br x1"));
        assert_eq!((syndrome, address, registers.pc), (0x8600_0006, 0x60_0000, 0x60_0000));
        // Exception injected by KVM for an address without memory. Linux 6.1 sets the upper half of
        // the syndrome to ones.
        let (syndrome, address, _) = said(code!("mov x1, #0x400000", "add x1, x1, #0x1000", "br x1"));
        assert_eq!((syndrome as u32, address), (0x8600_0010, 0x40_1000));
        let (syndrome, _, registers) = said(code!("mov x1, #0x600000", "add sp, x1, #8", "svc #3"));
        assert_eq!((syndrome, registers.pc, registers.sp), (0x5600_0003, CODE + 0xc, 0x60_0008), "no stack is needed");
        let (_, _, registers) = said(code!("msr spsel, #0", "mov x1, #0x1230", "mov sp, x1", "brk #1"));
        assert_eq!((registers.sp, registers.pstate), (0x1230, 0x3c4), "the stack pointer of EL0");
        // Without address translation.
        let (syndrome, _, registers) =
            said(code!("mrs x1, sctlr_el1", "bic x1, x1, #1", "msr sctlr_el1, x1", "isb", "mov x0, #5", "udf #0"));
        assert_eq!((syndrome, registers.pc, registers.x[0]), (0x200_0000, CODE + 0x14, 5));
    }

    fn the_place_where_vectors_store_means_nothing_elsewhere() {
        let fault = fault(code!("mov x1, #0x100000000", "str wzr, [x1, #0x800]"));
        assert_eq!(fault.cause, Cause::Device { address: Gpa(0x1_0000_0800), size: Some(4), write: true });
        assert_eq!(fault.registers.map(|registers| registers.pc), Some(CODE + 4));
    }

    fn vectors_are_what_they_say() {
        let vector = code!("msr tpidr_el1, x0", "mov x0, #0x100000000", "str wzr, [x0, #0x800]", "b .");
        let words = VECTORS.map(u64::to_le_bytes);
        assert_eq!(words.as_flattened()[..16], *vector);
    }

    fn the_host_keeps_code_and_boot_info_read_only() {
        let codes = [code!("mov x1, #0x100000", "str w0, [x1, #0x800]"), code!("mov x1, #0x10000", "stp x0, x0, [x1]")];
        for code in codes {
            let fault = fault(code);
            assert!(matches!(fault.cause, Cause::Memory { access: Permissions::WRITE, .. }), "{fault:?}");
            assert_eq!(fault.registers.map(|registers| registers.pc), Some(CODE + 4));
        }
        let mut guest =
            guest(code!("mov x1, #0x100000", "add x1, x1, #0x1000", "mov w0, #7", "str w0, [x1]", "mov x1, #0x100000000", "str wzr, [x1]"));
        assert_eq!(guest.run().unwrap(), DONE);
        let mut word = [0; 4];
        guest.memory().read(Gpa(DATA), &mut word).unwrap();
        assert_eq!(word, [7, 0, 0, 0]);
    }

    fn floating_point_works() {
        let mut guest = guest(code!(
            "fmov s0, #1.0", "fadd s0, s0, s0", "fmov w0, s0", "mrs x2, fpcr", "mov x1, #0x100000000", "str w0, [x1, #8]"
        ));
        assert_eq!(guest.run().unwrap(), Exit::Hypercall { number: 1, argument: Gpa(0x4000_0000) });
        assert_eq!(guest.registers().unwrap().x[2], 0);
    }

    /// An address above the lower range is a translation fault and does not use the table at
    /// address 0.
    fn the_upper_half_of_addresses_leads_nowhere() {
        let mut guest = guest(code!(
            "adr x2, 8b", "add x2, x2, #0x800", "msr vbar_el1, x2", "isb", "mov x1, #-0x1000", "ldr x0, [x1]",
            ".space 0xa00 - (. - 8b)",
            "mrs x3, esr_el1", "and x3, x3, #0x3f", "mov x5, #0x100000000", "str w3, [x5, #8]"
        ));
        // DFSC: a translation fault at level 0.
        assert_eq!(guest.run().unwrap(), Exit::Hypercall { number: 1, argument: Gpa(0b00_0100) });
    }

    /// The guest sleeps in KVM, which does not report it.
    fn a_stop_ends_a_guest_that_waits_for_an_interrupt() {
        let stop = CancelToken::new().unwrap();
        let mut guest = start(code!("mov x1, #0x100000000", "str wzr, [x1]", "2: wfi", "b 2b"), &stop);
        assert_eq!(guest.run().unwrap(), DONE);
        thread::scope(|scope| {
            scope.spawn(|| stop.request());
            assert_eq!(guest.run().unwrap(), Exit::Interrupted);
        });
    }

    /// PSCI: this vCPU is the only one, and it is off permanently.
    fn a_stop_ends_a_guest_that_turns_its_cpu_off() {
        let stop = CancelToken::new().unwrap();
        let mut guest = start(
            code!("mov x1, #0x100000000", "str wzr, [x1]", "movz w0, #0xba5f", "movk w0, #0x95c1, lsl #16", "hvc #0", "b ."),
            &stop,
        );
        assert_eq!(guest.run().unwrap(), DONE);
        thread::scope(|scope| {
            scope.spawn(|| stop.request());
            assert_eq!(guest.run().unwrap(), Exit::Interrupted);
        });
    }
}

/// Debugger conformance tests of every backend.
mod debugger {
    use super::*;
    use crate::backend::debug::conformance;

    fn start(code: &[u8], stop: &CancelToken) -> Box<dyn Machine> {
        Box::new(super::start(code, stop))
    }

    macro_rules! conforms {
        ($($name:ident)+) => {$(
            #[test]
            fn $name() {
                if available() {
                    conformance::$name(&start);
                }
            }
        )+};
    }

    conforms! {
        steps planted_breakpoints own_instructions_stay_the_guests registers_are_read_and_changed pauses
        what_is_not_mapped watched_writes watched_reads watched_blocks steps_meet_watchpoints hardware_breakpoints
    }
}
