//! Instructions on a virtual CPU and a page of code, without a child.

use hvt_abi::GuestRange;
use hvt_abi::x86_64::EntryState;

use super::super::exception::deliver;
use super::*;
use crate::memory::{GuestMemory, MappedMemory, MemoryMap, Region};

const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x10_1000;
const SIZE: u64 = 0x20_0000;
/// GDT of the guest: null, 64-bit code, data, and a 64-bit TSS at [`TSS`] in two slots.
const GDT: u64 = DATA + 0x100;
const TSS: u64 = DATA + 0x200;
const IDT: u64 = DATA + 0x400;
const STACK: u64 = DATA + 0x1000;

struct Lab {
    memory: MappedMemory,
    memory_map: MemoryMap,
    cpu: Cpu,
    registers: Registers,
}

impl Lab {
    fn new() -> Self {
        let memory = MappedMemory::anonymous(SIZE).unwrap();
        let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
        let read_write = Permissions::READ | Permissions::WRITE;
        let memory_map =
            MemoryMap::new([region(CODE, DATA, Permissions::EXECUTE), region(DATA, SIZE, read_write)]).unwrap();
        let mut cpu = Cpu::new(&EntryState::new(SIZE, Gpa(CODE)));
        cpu.gdtr = TableRegister { base: GDT, limit: 5 * 8 - 1 };
        let tss_low = TSS << 16 & 0xff_ffff_0000 | 0x67 | 0x89 << 40 | (TSS >> 24 & 0xff) << 56;
        let gdt = [0, 0x00af_9900_0000_ffff, 0x00cf_9300_0000_ffff, tss_low, TSS >> 32];
        let registers = Registers { rsp: STACK, ..Registers::default() };
        let lab = Self { memory, memory_map, cpu, registers };
        lab.write(GDT, &gdt);
        lab
    }

    fn write(&self, at: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.memory.write(Gpa(at), &bytes).unwrap();
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read(Gpa(at), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn step(&mut self, code: &[u8]) -> EmulationResult {
        self.memory.write(Gpa(CODE), code).unwrap();
        self.registers.rip = CODE;
        let space = GuestSpace::new(&self.memory, &self.memory_map);
        step(&mut self.cpu, &mut self.registers, &space, 0)
    }
}

fn general_protection(code: u64) -> EmulationResult {
    EmulationResult::Raise(Exception::general_protection(code))
}

#[test]
fn descriptor_tables_are_loaded() {
    let mut lab = Lab::new();
    lab.write(DATA, &[0x1234_5678_9abc_00ff, 0]);
    // lgdt [0x101000]; lidt [0x101000]
    for code in [b"\x0f\x01\x14\x25\0\x10\x10\0", b"\x0f\x01\x1c\x25\0\x10\x10\0"] {
        assert_eq!(lab.step(code), EmulationResult::Next);
        assert_eq!(lab.registers.rip, CODE + 8);
    }
    let expected = TableRegister { base: 0x1234_5678_9abc, limit: 0xff };
    assert_eq!((lab.cpu.gdtr, lab.cpu.idtr), (expected, expected));

    lab.write(DATA, &[0x8000_0000_0000_00ff, 0xffff]);
    assert_eq!(
        lab.step(b"\x0f\x01\x1c\x25\0\x10\x10\0"),
        EmulationResult::Next,
        "a canonical address in the upper half"
    );
    lab.write(DATA, &[0x8000_0000_0000_00ff, 0]);
    assert_eq!(lab.step(b"\x0f\x01\x1c\x25\0\x10\x10\0"), general_protection(0));
    assert_eq!(lab.registers.rip, CODE, "a fault leaves RIP at the instruction");
}

#[test]
fn operand_outside_memory_is_a_page_fault() {
    let mut lab = Lab::new();
    // lgdt [0x8000]
    let EmulationResult::Raise(exception) = lab.step(b"\x0f\x01\x14\x25\0\x80\0\0") else { panic!() };
    assert_eq!(exception, Exception::new(hvt_abi::x86_64::Vector::PageFault, 0));
    assert_eq!(lab.cpu.cr2, 0x8000);
}

#[test]
fn segments_are_checked_against_the_gdt() {
    let mut lab = Lab::new();
    lab.registers.rax = 16;
    // mov ss, eax; mov ds, eax; mov es, eax
    for code in [b"\x8e\xd0", b"\x8e\xd8", b"\x8e\xc0"] {
        assert_eq!(lab.step(code), EmulationResult::Next);
    }
    assert_eq!(lab.cpu.ss, 16);
    lab.registers.rax = 0x28;
    assert_eq!(lab.step(b"\x8e\xd8"), general_protection(0x28), "beyond the limit");
    lab.registers.rax = 0xc;
    assert_eq!(lab.step(b"\x8e\xd8"), general_protection(0xc), "in a local table");
    lab.registers.rax = 0;
    // mov fs, eax
    lab.cpu.fs_base = 5;
    assert_eq!(lab.step(b"\x8e\xe0"), EmulationResult::LoadFsBase);
    assert_eq!(lab.cpu.fs_base, 0);
}

#[test]
fn far_return_and_interrupt_return() {
    let mut lab = Lab::new();
    lab.write(STACK, &[0x10_0800, 8]);
    assert_eq!(lab.step(b"\x48\xcb"), EmulationResult::Next);
    assert_eq!((lab.registers.rip, lab.registers.rsp, lab.cpu.cs), (0x10_0800, STACK + 16, 8));

    lab.registers.rsp = STACK;
    lab.write(STACK, &[0x10_0900, 8, 0x246, DATA + 0x800, 16]);
    assert_eq!(lab.step(b"\x48\xcf"), EmulationResult::Next);
    assert_eq!((lab.registers.rip, lab.registers.rsp), (0x10_0900, DATA + 0x800));
    assert!(lab.cpu.interrupts);
    assert_eq!(lab.registers.rflags & 0x44, 0x44);

    lab.registers.rsp = STACK;
    lab.write(STACK, &[0x10_0800, 16]);
    assert_eq!(lab.step(b"\x48\xcb"), general_protection(16), "data is not code");
    assert_eq!(lab.registers.rsp, STACK, "a fault pops nothing");
}

#[test]
fn task_register_becomes_busy() {
    let mut lab = Lab::new();
    lab.registers.rax = 24;
    assert_eq!(lab.step(b"\x0f\x00\xd8"), EmulationResult::Next);
    assert_eq!(lab.cpu.task, (TSS, 0x67));
    assert_eq!(lab.step(b"\x0f\x00\xd8"), general_protection(24), "a busy one cannot be loaded");
    assert_eq!(lab.word(GDT + 24) >> 40 & 0xff, 0x8b);
}

#[test]
fn model_specific_registers() {
    let mut lab = Lab::new();
    (lab.registers.rcx, lab.registers.rdx, lab.registers.rax) = (msr::FS_BASE.into(), 0x12, 0x3456_7890);
    assert_eq!(lab.step(b"\x0f\x30"), EmulationResult::LoadFsBase);
    assert_eq!(lab.cpu.fs_base, 0x12_3456_7890);
    (lab.registers.rdx, lab.registers.rax) = (!0, !0);
    assert_eq!(lab.step(b"\x0f\x32"), EmulationResult::Next);
    assert_eq!((lab.registers.rdx, lab.registers.rax), (0x12, 0x3456_7890));
    lab.registers.rdx = 0x8000_0000;
    assert_eq!(lab.step(b"\x0f\x30"), general_protection(0), "not canonical");
    lab.registers.rcx = 0xdead_beef;
    assert_eq!(lab.step(b"\x0f\x30"), general_protection(0));
    assert_eq!(lab.step(b"\x0f\x32"), general_protection(0));
    // EFER: the current value may be written back; SYSCALL cannot be enabled.
    (lab.registers.rcx, lab.registers.rdx) = (msr::EFER.into(), 0);
    lab.registers.rax = lab.cpu.efer.bits();
    assert_eq!(lab.step(b"\x0f\x30"), EmulationResult::Next);
    lab.registers.rax |= 1;
    assert!(matches!(lab.step(b"\x0f\x30"), EmulationResult::Refuse(Cause::Instruction { .. })));
}

#[test]
fn control_registers() {
    let mut lab = Lab::new();
    // mov rax, cr3; mov cr3, rax
    assert_eq!(lab.step(b"\x0f\x20\xd8"), EmulationResult::Next);
    assert_eq!(lab.registers.rax, 0x2000);
    assert_eq!(lab.step(b"\x0f\x22\xd8"), EmulationResult::Next, "a flush");
    lab.registers.rax = 0x10_0000;
    let EmulationResult::Refuse(Cause::Instruction { what }) = lab.step(b"\x0f\x22\xd8") else { panic!() };
    assert_eq!(what, "\"mov cr3, rax\"");
    for (code, text) in [
        (&b"\x0f\x23\xf9"[..], "\"mov dr7, rcx\""),
        (b"\x41\x0f\x21\xf9", "\"mov r9, dr7\""),
        (b"\x0f\x01\xf0", "\"lmsw\""),
        (b"\xcf", "\"iret\""),
    ] {
        let EmulationResult::Refuse(Cause::Instruction { what }) = lab.step(code) else { panic!("{text}") };
        assert_eq!(what, text);
    }
    // mov rax, cr0; mov cr0, rax with paging off
    assert_eq!(lab.step(b"\x0f\x20\xc0"), EmulationResult::Next);
    assert_eq!(lab.registers.rax, 0x8001_0021);
    lab.registers.rax = 0x1_0021;
    assert_eq!(lab.step(b"\x0f\x22\xc0"), general_protection(0));
    lab.registers.rax = 0x8000_0021;
    assert!(matches!(lab.step(b"\x0f\x22\xc0"), EmulationResult::Refuse(_)), "without write protection");
    lab.registers.rax = 0xe001_0031;
    assert_eq!(lab.step(b"\x0f\x22\xc0"), EmulationResult::Next, "caches off");
}

#[test]
fn cr4_takes_what_the_cpu_has() {
    use control::{write_cr3, write_cr4, write_xcr0};

    let entry = EntryState::new(SIZE, Gpa(CODE)).cr4;
    // A CPU with FSGSBASE, PCIDE, XSAVE, SMEP, SMAP, PKE and CET, and with AVX-512, AMX and PKRU, which are not enabled.
    let known = [16, 17, 18, 20, 21, 22, 23].into_iter().fold(0, |bits, bit| bits | 1 << bit);
    let features = Features { cr4: known, on: 1 << 18 | 1 << 22, usable: 1 << 16, components: 0x6_02e7, xcr0: 0xe7 };
    let write = |value: u64| write_cr4(entry, value, &features);
    // Bits that are set stay set, visibly to the guest.
    let on = Cr4::from_bits_retain(features.on);
    assert_eq!(write(entry.bits()), Written::Value(entry | on));
    for bit in [0, 1, 2, 3, 4, 6, 7, 8, 16, 17, 18, 20, 21, 22] {
        assert_eq!(write(entry.bits() | 1 << bit), Written::Value(entry | on | Cr4::from_bits_retain(1 << bit)));
    }
    for bit in [11, 12, 13, 14, 15, 19, 24, 25, 27, 31, 63] {
        assert_eq!(write(entry.bits() | 1 << bit), Written::Fault, "bit {bit}");
    }
    assert_eq!(write(entry.bits() | 1 << 23), Written::Unsupported, "CET");
    assert_eq!(write(entry.bits() & !Cr4::PAE.bits()), Written::Fault);
    let without = Features { usable: 0, ..features };
    assert_eq!(write_cr4(entry, entry.bits() | 1 << 16, &without), Written::Unsupported, "the kernel has it off");

    for value in [1, 3, 7, 0xe7] {
        assert_eq!(write_xcr0(value, &features), Written::Value(()), "{value:#x}");
    }
    for value in [0, 2, 5, 0x23, 0xe3, 0x107, 0x2_0007, 1 << 63 | 1] {
        assert_eq!(write_xcr0(value, &features), Written::Fault, "{value:#x}");
    }
    for value in [0x207, 0x6_0007] {
        assert_eq!(write_xcr0(value, &features), Written::Unsupported, "{value:#x}: not enabled in this process");
    }

    assert_eq!(write_cr3(0x2000, 0x2001, entry), Written::Unsupported);
    for (value, cr3) in [(0x2001, 0x2001), (1 << 63 | 0x2fff, 0x2fff)] {
        assert_eq!(write_cr3(0x2000, value, entry | Cr4::PCIDE), Written::Value(cr3));
    }
    assert_eq!(write_cr3(0x2000, 0x3000, entry | Cr4::PCIDE), Written::Unsupported);
}

#[test]
fn cr4_and_xcr0_are_those_of_cpuid() {
    let features = Features::of_this_cpu();
    let mut lab = Lab::new();
    // mov rax, cr4
    assert_eq!(lab.step(b"\x0f\x20\xe0"), EmulationResult::Next);
    assert_eq!(lab.registers.rax, 0x620 | features.on);
    // mov cr4, rax; mov rax, cr4
    lab.registers.rax = 0x7ff | features.on;
    assert_eq!(lab.step(b"\x0f\x22\xe0"), EmulationResult::Next);
    assert_eq!(lab.step(b"\x0f\x20\xe0"), EmulationResult::Next);
    assert_eq!(lab.registers.rax, 0x7ff | features.on);
    // xsetbv
    (lab.registers.rcx, lab.registers.rdx) = (0, features.xcr0 >> 32);
    lab.registers.rax = features.xcr0 & 0xffff_ffff;
    let xsetbv = b"\x0f\x01\xd1";
    if features.on & Cr4::OSXSAVE.bits() == 0 {
        assert_eq!(lab.step(xsetbv), EmulationResult::Raise(Exception::invalid_opcode()));
        return;
    }
    assert_eq!(lab.step(xsetbv), EmulationResult::Next);
    lab.registers.rax = 0;
    assert_eq!(lab.step(xsetbv), general_protection(0), "x87 is always enabled");
    (lab.registers.rcx, lab.registers.rax) = (1, 1);
    assert_eq!(lab.step(xsetbv), general_protection(0), "there is one such register");
}

#[test]
fn stac_and_clac_are_those_of_cpl_0() {
    let mut lab = Lab::new();
    let mut undefined = |code: &[u8]| {
        lab.memory.write(Gpa(CODE), code).unwrap();
        lab.registers.rip = CODE;
        let space = GuestSpace::new(&lab.memory, &lab.memory_map);
        (super::undefined(&mut lab.registers, &space), lab.registers.rip - CODE, lab.registers.rflags & RFLAGS_AC)
    };
    assert_eq!(undefined(b"\x0f\x0b"), (EmulationResult::Raise(Exception::invalid_opcode()), 0, 0));
    for (code, flag) in [(b"\x0f\x01\xcb", RFLAGS_AC), (b"\x0f\x01\xca", 0)] {
        let (step, len, ac) = undefined(code);
        match Features::of_this_cpu().cr4 & Cr4::SMAP.bits() {
            0 => assert_eq!((step, len), (EmulationResult::Raise(Exception::invalid_opcode()), 0)),
            _ => assert_eq!((step, len, ac), (EmulationResult::Next, 3, flag)),
        }
    }
}

#[test]
fn ports_and_halt() {
    let mut lab = Lab::new();
    (lab.registers.rdx, lab.registers.rax) = (0x502, 0xffff_ffff_0010_1000);
    assert_eq!(lab.step(b"\xef"), EmulationResult::Exit(Exit::Hypercall { number: 2, argument: Gpa(0x10_1000) }));
    let refused = |port, size, write| EmulationResult::Refuse(Cause::Port { port, size, write });
    assert_eq!(lab.step(b"\xee"), refused(0x502, 1, true));
    assert_eq!(lab.step(b"\x66\xef"), refused(0x502, 2, true));
    assert_eq!(lab.step(b"\xed"), refused(0x502, 4, false));
    assert_eq!(lab.step(b"\xe7\x80"), refused(0x80, 4, true));
    assert_eq!(lab.step(b"\xf3\x6f"), refused(0x502, 4, true));
    assert_eq!(lab.step(b"\xf4"), EmulationResult::Exit(Exit::Halted));
}

#[test]
fn what_is_not_privileged_is_the_guests_own_fault() {
    let mut lab = Lab::new();
    // mov eax, [rcx]: a non-canonical address
    assert_eq!(lab.step(b"\x8b\x01"), general_protection(0));
    lab.registers.rip = SIZE;
    let space = GuestSpace::new(&lab.memory, &lab.memory_map);
    let outside = step(&mut lab.cpu, &mut lab.registers, &space, 0x10);
    assert_eq!(outside, general_protection(0x10));
}

#[test]
fn exceptions_go_through_the_idt() {
    let mut lab = Lab::new();
    lab.cpu.idtr = TableRegister { base: IDT, limit: 32 * 16 - 1 };
    let gate = |ist: u64, offset: u64| [offset & 0xffff | 8 << 16 | ist << 32 | 0x8e << 40 | (offset >> 16) << 48, 0];
    lab.write(IDT + 13 * 16, &gate(2, 0x10_0abc));
    // int 0x21 (beyond the limit) and int 13
    assert_eq!(lab.step(b"\xcd\x21"), general_protection(0x21 << 3 | 2));
    assert_eq!(lab.step(b"\xcd\x0d"), EmulationResult::Raise(Exception::software(13)));
    assert_eq!(lab.registers.rip, CODE + 2, "a software interrupt returns behind itself");

    lab.registers.rflags = 0x202;
    lab.cpu.task = (TSS, 0x67);
    lab.write(TSS + 36 + 8, &[DATA + 0xf08]);
    let space = GuestSpace::new(&lab.memory, &lab.memory_map);
    deliver(Exception::general_protection(0x18), &mut lab.cpu, &mut lab.registers, &space).unwrap();
    assert_eq!(lab.registers.rip, 0x10_0abc);
    let frame: Vec<u64> = (0..6).map(|index| lab.word(lab.registers.rsp + index * 8)).collect();
    assert_eq!(frame, [0x18, CODE + 2, 8, 0x1_0002, STACK, 16]);
    assert_eq!(lab.registers.rsp + 48, DATA + 0xf00, "aligned to 16 before the push");

    // #DE has no gate. The resulting double fault has none either.
    let divide = Exception::new(hvt_abi::x86_64::Vector::DivideError, 0);
    assert!(deliver(divide, &mut lab.cpu, &mut lab.registers, &space).is_err());
    lab.write(IDT + 8 * 16, &gate(0, 0x10_0def));
    deliver(divide, &mut lab.cpu, &mut lab.registers, &space).unwrap();
    assert_eq!(lab.registers.rip, 0x10_0def);
    assert_eq!(lab.word(lab.registers.rsp), 0, "a double fault's error code is 0");
}

#[test]
fn a_counter_of_its_own_is_read_by_every_instruction() {
    use crate::backend::CycleCounter;
    use std::sync::atomic::{AtomicU64, Ordering};

    let mut lab = Lab::new();
    // Without a counter to emulate, RDTSC does not trap, and #GP goes to the guest.
    assert_eq!(lab.step(b"\x0f\x31"), general_protection(0));
    let now = AtomicU64::new(0x1234_5678_9abc_def0);
    lab.cpu.cycles = Some(CycleCounter::new(move || now.fetch_add(1, Ordering::Relaxed)));
    lab.registers.rcx = 0x10;
    // rdtsc; rdmsr; rdtscp
    for (code, len, low) in [(&b"\x0f\x31"[..], 2, 0xf0), (b"\x0f\x32", 2, 0xf1), (b"\x0f\x01\xf9", 3, 0xf2)] {
        assert_eq!(lab.step(code), EmulationResult::Next);
        assert_eq!((lab.registers.rax, lab.registers.rdx), (0x9abc_de00 | low, 0x1234_5678));
        assert_eq!(lab.registers.rip, CODE + len);
    }
    assert_eq!(lab.registers.rcx, 0, "IA32_TSC_AUX");
}
