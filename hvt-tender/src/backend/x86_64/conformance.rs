//! x86_64. A hypercall is an `out` of EAX to port 0x501.

use hvt_abi::x86_64::Registers;

use crate::backend::debug::conformance::*;
use crate::exit::{Cause, Fault};

/// Never ends.
pub(crate) const SPIN: &[u8] = b"\xeb\xfe";

/// Counts in RAX until the quadword at [`DATA`] is not 0, then makes a hypercall.
pub(crate) fn counting() -> &'static [u8] {
    // 0: inc rax; 3: cmp qword [0x101000], 0; c: je 0; e: mov edx, 0x501; 13: xor eax, eax; 15: out dx, eax
    b"\x48\xff\xc0\x48\x83\x3c\x25\0\x10\x10\0\0\x74\xf2\xba\x01\x05\0\0\x31\xc0\xef"
}

/// Value of the counter.
pub(crate) fn count(registers: &Registers) -> u64 {
    registers.rax
}

/// Single-steps ordinary instructions, a hypercall, and a `pushf` that shows no trap flag.
pub(crate) fn steps(start: Start<'_>) {
    // 0: mov eax, 7; 5: mov edx, 0x501; a: out dx, eax; b: inc eax; d: pushf; e: pop rbx; f: jmp $
    let mut guest = Guest::new(start, b"\xb8\x07\0\0\0\xba\x01\x05\0\0\xef\xff\xc0\x9c\x5b\xeb\xfe");
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 5));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0xa));
    assert_eq!(guest.step(), hypercall(7));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0xb), "behind the hypercall");
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0xd));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0xe));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0xf));
    assert_eq!(guest.state().registers.rax, 8);
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 0xf));
    assert_eq!(guest.state().registers.rflags & 1 << 8, 0, "TF is the debugger's");
}

/// A breakpoint of the debugger ends the run before its instruction, in code that the guest cannot
/// write.
pub(crate) fn planted_breakpoints(start: Start<'_>) {
    // 0: inc eax; 2: inc ebx; 4: mov edx, 0x501; 9: out dx, eax; a: jmp 2
    let mut guest = Guest::new(start, b"\xff\xc0\xff\xc3\xba\x01\x05\0\0\xef\xeb\xf6");
    let traps = guest.plant(2);
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::SoftwareBreakpoint, 2));
    assert_eq!(guest.run(&traps), Halt::SoftwareBreakpoint, "it is still there");
    assert_eq!(guest.state().registers.rbx, 0);
    guest.poke(CODE + 2, &[0xff]);
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 4));
    let traps = guest.plant(2);
    assert_eq!(guest.run(&traps), hypercall(1));
    assert_eq!((guest.run(&traps), guest.state().registers.rbx), (Halt::SoftwareBreakpoint, 1));
    guest.poke(CODE + 2, &[0xff]);
    assert_eq!(guest.run(&Traps::default()), hypercall(1));
}

/// An `int3` belongs to the guest, and this guest has no handler. A `hlt` that the debugger has not
/// written belongs to the guest too.
pub(crate) fn own_instructions_stay_the_guests(start: Start<'_>) {
    // 0: nop; 1: int3; 2: nop
    let mut guest = Guest::new(start, b"\x90\xcc\x90\xeb\xfe");
    let traps = guest.plant(2);
    let halt = guest.run(&traps);
    assert!(matches!(halt, Halt::Exit(Exit::Fault(Fault { cause: Cause::TripleFault, .. }))), "{halt:?}");
    // 0: nop; 1: hlt; 2: nop
    let mut guest = Guest::new(start, b"\x90\xf4\x90\xeb\xfe");
    let traps = guest.plant(2);
    assert_eq!(guest.run(&traps), Halt::Exit(Exit::Halted));
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::SoftwareBreakpoint, 2));
}

/// A write next to the watched bytes does not trap, nor does a read of them.
pub(crate) fn watched_writes(start: Start<'_>) {
    // 0: mov [0x101010], eax; 7: mov ebx, [0x101018]; e: mov [0x10100f], eax; 15: mov dword [0x101018], 5;
    // 20: mov edx, 0x501; 25: out dx, eax
    let code = b"\x89\x04\x25\x10\x10\x10\0\x8b\x1c\x25\x18\x10\x10\0\x89\x04\x25\x0f\x10\x10\0\
        \xc7\x04\x25\x18\x10\x10\0\x05\0\0\0\xba\x01\x05\0\0\xef";
    let mut guest = Guest::new(start, code);
    let traps = watch(DATA + 0x18, 4, false);
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Watched(DATA + 0x18), 0x20));
    let mut word = [0; 4];
    guest.0.memory().read(Gpa(DATA + 0x18), &mut word).unwrap();
    assert_eq!(word, [5, 0, 0, 0]);
    assert_eq!(guest.run(&traps), hypercall(0));
}

/// Reads trap if requested.
pub(crate) fn watched_reads(start: Start<'_>) {
    // 0: mov eax, [0x101010]; 7: mov eax, [0x101016]; e: mov eax, [0x101014]; 15: jmp $
    let mut guest =
        Guest::new(start, b"\x8b\x04\x25\x10\x10\x10\0\x8b\x04\x25\x16\x10\x10\0\x8b\x04\x25\x14\x10\x10\0\xeb\xfe");
    let traps = watch(DATA + 0x18, 8, true);
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Watched(DATA + 0x18), 0xe), "it reaches into what is watched");
}

/// With steps and watchpoints at once, the watchpoint is reported.
pub(crate) fn steps_meet_watchpoints(start: Start<'_>) {
    // 0: mov dword [0x101018], 5; b: mov dword [0x101020], 5; 16: nop; jmp $
    let code = b"\xc7\x04\x25\x18\x10\x10\0\x05\0\0\0\xc7\x04\x25\x20\x10\x10\0\x05\0\0\0\x90\xeb\xfe";
    let mut guest = Guest::new(start, code);
    let traps = Traps { step: true, ..watch(DATA + 0x18, 8, false) };
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Watched(DATA + 0x18), 0xb));
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Step, 0x16));
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Step, 0x17));
}

/// All registers can be read and changed.
pub(crate) fn registers_are_read_and_changed(start: Start<'_>) {
    // 0: movaps xmm2, xmm1; 3: mov eax, fs:[0]; b: mov edx, 0x501; 10: out dx, eax
    let mut guest = Guest::new(start, b"\x0f\x28\xd1\x64\x8b\x04\x25\0\0\0\0\xba\x01\x05\0\0\xef");
    guest.poke(DATA + 8, &[0x42]);
    let before = guest.state();
    assert_eq!((before.registers.rip, before.segments.cs, before.segments.ss), (CODE, 8, 16));
    assert_eq!((before.fpu.fcw, before.fpu.mxcsr), (0x37f, 0x1f80));
    let mut state = before;
    (state.registers.r15, state.registers.rflags) = (u64::MAX, before.registers.rflags | 1);
    (state.segments.fs_base, state.segments.gs_base) = (DATA + 8, DATA);
    (state.fpu.xmm[1], state.fpu.mxcsr) = (0x1234_5678_9abc_def0 << 64 | 7, 0x9fc0);
    guest.target().set_state(&state).unwrap();
    assert_eq!((guest.state().registers, guest.state().segments), (state.registers, state.segments));
    assert_eq!(guest.run(&Traps::default()), hypercall(0x42));
    let after = guest.state();
    assert_eq!((after.fpu.xmm[2], after.fpu.mxcsr), (state.fpu.xmm[1], 0x9fc0));
    assert_eq!((after.registers.r15, after.registers.rflags & 1), (u64::MAX, 1));
    // A change of RIP before the end of the hypercall takes effect, too.
    let moved = CpuState { registers: Registers { rip: CODE, ..after.registers }, ..after };
    guest.target().set_state(&moved).unwrap();
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 3));
    assert!(guest.target().describe().unwrap().contains("cr0 0x80"));
}

/// Hardware breakpoints, if there are any.
pub(crate) fn hardware_breakpoints(start: Start<'_>) {
    // 0: inc eax; 2: inc ebx; 4: jmp $
    let mut guest = Guest::new(start, b"\xff\xc0\xff\xc3\xeb\xfe");
    let traps = Traps { executed: vec![CODE + 2], ..Traps::default() };
    assert_eq!((guest.run(&traps), guest.pc()), (Halt::Executed, 2));
    assert_eq!((guest.step(), guest.pc()), (Halt::Step, 4));
    let five = Traps { executed: (CODE..CODE + 5).collect(), ..Traps::default() };
    assert!(!guest.target().set_traps(&five).unwrap());
}
