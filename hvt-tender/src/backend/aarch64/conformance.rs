//! aarch64. A hypercall is a store to device memory.

#![expect(unsafe_code, reason = "instructions that read the counter of the CPU")]

use hvt_abi::aarch64::{Pstate, Registers};

use crate::backend::arch::assembly::code;
use crate::backend::debug::FpState;
use crate::backend::debug::conformance::*;
use crate::exit::{Cause, Fault};

/// Never ends: `b .`.
pub(crate) const SPIN: &[u8] = &0x1400_0000_u32.to_le_bytes();

/// Counts in X0 until the word at [`DATA`] is not 0, then makes a hypercall.
pub(crate) fn counting() -> &'static [u8] {
    code!(
        "mov x1, #0x100000",
        "add x1, x1, #0x1000",
        "2: add x0, x0, #1",
        "ldr w2, [x1]",
        "cbz w2, 2b",
        "mov x5, #0x100000000",
        "str wzr, [x5, #8]"
    )
}

/// Value of the counter.
pub(crate) fn count(registers: &Registers) -> u64 {
    registers.x[0]
}

/// Single-steps ordinary instructions and a hypercall.
pub(crate) fn steps(start: Start<'_>) {
    let mut guest = Guest::new(
        start,
        code!("mov w0, #7", "mov x1, #0x100000000", "str w0, [x1, #8]", "add w0, w0, #1", "mrs x2, nzcv", "b ."),
    );
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 4));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 8));
    assert_eq!(guest.step(), hypercall(7));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0xc), "behind the hypercall");
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0x10));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0x14));
    assert_eq!(guest.state().registers.x[0], 8);
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0x14));
    assert_eq!(guest.state().registers.pstate, Pstate::ENTRY.bits(), "SS is the debugger's");
}

/// A breakpoint of the debugger ends the run before its instruction, in code that the guest cannot
/// write and has already executed.
pub(crate) fn planted_breakpoints(start: Start<'_>) {
    let mut guest = Guest::new(
        start,
        code!("add w6, w6, #1", "2: add w2, w2, #1", "mov x1, #0x100000000", "str w6, [x1, #8]", "b 2b"),
    );
    let mut original = [0; 4];
    guest.0.memory().read(Gpa(CODE + 4), &mut original).unwrap();
    let traps = guest.plant(4);
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::SoftwareBreakpoint, 4));
    assert_eq!(guest.run(&traps), Halt::SoftwareBreakpoint, "it is still there");
    assert_eq!(guest.state().registers.x[2], 0);
    guest.poke(CODE + 4, &original);
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 8));
    let traps = guest.plant(4);
    assert_eq!(guest.run(&traps), hypercall(1));
    assert_eq!((guest.run(&traps), guest.state().registers.x[2]), (Halt::SoftwareBreakpoint, 1));
    guest.poke(CODE + 4, &original);
    assert_eq!(guest.run(&Traps::default()), hypercall(1));
}

/// A `brk` that the debugger has not written is an exception of the guest.
pub(crate) fn own_instructions_stay_the_guests(start: Start<'_>) {
    let code = code!(
        "adr x2, 8b",
        "add x2, x2, #0x800",
        "msr vbar_el1, x2",
        "isb",
        "nop",
        "brk #0",
        "nop",
        "b .",
        // Behind 0x200 bytes of vectors: synchronous exceptions of EL1 on its own stack (Arm ARM, D1.3.1.5).
        ".space 0xa00 - (. - 8b)",
        "mrs x3, esr_el1",
        "lsr w3, w3, #26",
        "mrs x4, elr_el1",
        "mrs x6, spsr_el1",
        "mov x5, #0x100000000",
        "str w3, [x5, #8]",
        "add x7, x4, #4",
        "msr elr_el1, x7",
        "eret"
    );
    let mut guest = Guest::new(start, code);
    let traps = guest.plant(0x1c);
    assert_eq!(guest.run(&traps), hypercall(0x3c));
    let registers = guest.state().registers;
    assert_eq!((registers.x[4], registers.x[6]), (CODE + 0x14, Pstate::ENTRY.bits()));
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::SoftwareBreakpoint, 0x1c));
    // Entering the vector is a step.
    let mut guest = Guest::new(start, code);
    for place in [4, 8, 0xc, 0x10, 0x14, 0xa00, 0xa04] {
        assert_eq!((guest.step(), guest.pc()), (Halt::Step, place));
    }
    assert_eq!(guest.run(&Traps::default()), hypercall(0x3c));
    assert_eq!(guest.state().registers.x[6], Pstate::ENTRY.bits(), "the step is not the guest's");
    // A guest without vectors ends.
    let mut guest = Guest::new(start, code!("mov x0, #7", "brk #1", "nop"));
    let traps = guest.plant(8);
    let halt = guest.run(&traps);
    let Halt::Exit(Exit::Fault(Fault { cause: Cause::Exception { syndrome, .. }, .. })) = halt else {
        panic!("{halt:?}")
    };
    assert_eq!(syndrome, 0xf200_0001);
    assert_eq!((guest.pc(), guest.state().registers.x[0]), (4, 7));
}

/// A write next to the watched bytes does not trap, nor does a read of them. The reported
/// instruction is about to write.
pub(crate) fn watched_writes(start: Start<'_>) {
    let mut guest = Guest::new(
        start,
        code!(
            "mov x1, #0x100000",
            "add x1, x1, #0x1000",
            "mov x5, #0x100000000",
            "mov w0, #5",
            "ldr w3, [x1, #0x18]",
            "str w2, [x1, #0x14]",
            "strb w2, [x1, #0x1c]",
            "str w0, [x1, #0x18]",
            "str w2, [x5, #8]"
        ),
    );
    let traps = watch(DATA + 0x18, 4, false);
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Watched(DATA + 0x18), 0x1c));
    let mut word = [1; 4];
    guest.0.memory().read(Gpa(DATA + 0x18), &mut word).unwrap();
    assert_eq!(word, [0; 4]);
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0x20));
    guest.0.memory().read(Gpa(DATA + 0x18), &mut word).unwrap();
    assert_eq!(word, [5, 0, 0, 0]);
    assert_eq!(guest.run(&traps), hypercall(0));
}

/// Reads trap if requested.
pub(crate) fn watched_reads(start: Start<'_>) {
    let mut guest = Guest::new(
        start,
        code!(
            "mov x1, #0x100000",
            "add x1, x1, #0x1000",
            "ldr w0, [x1, #0x10]",
            "ldr w0, [x1, #0x14]",
            "ldur w0, [x1, #0x16]",
            "b ."
        ),
    );
    let traps = watch(DATA + 0x18, 8, true);
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Watched(DATA + 0x18), 0x10), "it reaches into what is watched");
}

/// More than a doubleword, and two watchpoints: the right one is reported.
pub(crate) fn watched_blocks(start: Start<'_>) {
    let mut guest = Guest::new(
        start,
        code!(
            "mov x1, #0x100000",
            "add x1, x1, #0x1000",
            "str x0, [x1, #0x3f8]",
            "str x0, [x1, #0x500]",
            "strb w0, [x1, #0x4ff]",
            "str x0, [x1, #0x800]",
            "stp x0, x0, [x1, #0x18]",
            "b ."
        ),
    );
    let (block, odd) = (DATA + 0x400, DATA + 0x23);
    let mut traps = watch(block, 0x100, false);
    traps.watched.push(Watch { start: odd, len: 3, reads: false });
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Watched(block), 0x10));
    assert_eq!(guest.step(), Halt::Step);
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Watched(odd), 0x18), "in the second of two registers");
    let many = (0..17).map(|number| Watch { start: DATA + 16 * number, len: 1, reads: false }).collect();
    assert!(!guest.target().set_traps(&Traps { watched: many, ..Traps::default() }).unwrap());
}

/// With steps and watchpoints at once, the watchpoint is reported.
pub(crate) fn steps_meet_watchpoints(start: Start<'_>) {
    let code = code!("mov x1, #0x100000", "add x1, x1, #0x1000", "str w1, [x1, #0x18]", "str w1, [x1, #0x20]", "b .");
    let mut guest = Guest::new(start, code);
    let traps = Traps { step: true, ..watch(DATA + 0x18, 8, false) };
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Step, 4));
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Step, 8));
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Watched(DATA + 0x18), 8));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0xc));
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Step, 0x10));
}

/// Registers of all kinds are read and changed, and the guest sees the changes.
pub(crate) fn registers_are_read_and_changed(start: Start<'_>) {
    let mut guest = Guest::new(
        start,
        code!(
            "mov v2.16b, v1.16b",
            "mrs x3, tpidr_el0",
            "ldr w0, [x3]",
            "mov x1, #0x100000000",
            "str w0, [x1, #8]",
            "b ."
        ),
    );
    guest.poke(DATA + 8, &[0x42]);
    let before = guest.state();
    assert_eq!((before.registers.pc, before.registers.pstate), (CODE, Pstate::ENTRY.bits()));
    assert_eq!(before.fpu, FpState::default());
    let mut state = before;
    (state.registers.x[30], state.registers.pstate) = (u64::MAX, before.registers.pstate | 1 << 31);
    (state.registers.sp, state.tpidr) = (DATA, DATA + 8);
    (state.fpu.v[1], state.fpu.fpcr, state.fpu.fpsr) = (0x1234_5678_9abc_def0 << 64 | 7, 0x40_0000, 0x10);
    guest.target().set_state(&state).unwrap();
    assert_eq!(guest.state(), state);
    assert_eq!(guest.run(&Traps::default()), hypercall(0x42));
    let after = guest.state();
    assert_eq!((after.fpu.v[2], after.fpu.fpcr, after.fpu.fpsr), (state.fpu.v[1], 0x40_0000, 0x10));
    assert_eq!((after.registers.x[30], after.registers.pstate), (u64::MAX, state.registers.pstate));
    assert_eq!((after.registers.pc, after.registers.sp), (CODE + 0x10, DATA));
    // A change of PC before the end of the hypercall takes effect. Without one, the guest continues
    // behind it.
    let mut moved = after;
    moved.registers.pc = CODE;
    guest.target().set_state(&moved).unwrap();
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 4));
    assert_eq!(guest.run(&Traps::default()), hypercall(0x42));
    let mut other = guest.state();
    other.registers.x[7] = 9;
    guest.target().set_state(&other).unwrap();
    assert_eq!((guest.step(), guest.pc(), guest.state().registers.x[7]), (Halt::Step, 0x14, 9));
    let mut impossible = guest.state();
    impossible.registers.pstate = 0b1111;
    assert!(guest.target().set_state(&impossible).is_err(), "there is no such exception level");
    assert!(guest.target().describe().unwrap().contains("ttbr0_el1 0x1000\n"));
}

/// Hardware breakpoints, as many as exist.
pub(crate) fn hardware_breakpoints(start: Start<'_>) {
    let mut guest = Guest::new(start, code!("add w0, w0, #1", "add w2, w2, #1", "b ."));
    let traps = Traps { executed: vec![CODE + 4], ..Traps::default() };
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Executed, 4));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 8));
    let many = Traps { executed: (0..17).map(|number| CODE + 4 * number).collect(), ..Traps::default() };
    assert!(!guest.target().set_traps(&many).unwrap());
}
