//! Hypercalls through trampolines, and attacks on them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64};

use fastrand::Rng;
use hvt_abi::PAGE_SIZE;

use super::super::protocol::{EXCHANGE_ADDRESS, STUB_ADDRESS};
use super::*;

/// mov edx, 0x501; out dx, eax; hlt
const CALL: &[u8] = b"\xba\x01\x05\0\0\xef\xf4";
/// Address behind the `out` of [`CALL`].
const AFTER: u64 = CODE + 6;

/// Flags that `rt_sigreturn` loads, except TF and AC: CF, PF, AF, ZF, SF, DF, OF.
const FLAGS: u64 = 0xcd5;
/// RF, which an exception stores as 1 (SDM 18.3.1.1).
const RF: u64 = 1 << 16;

fn any_registers(random: &mut Rng) -> Registers {
    let mut registers = Registers::default();
    for number in 0..16 {
        *registers.general_mut(number) = random.u64(..);
    }
    Registers { rip: CODE, rflags: 0x202 | random.u64(..) & FLAGS, ..registers }
}

fn set(machine: &ProcessMachine, registers: &Registers) {
    machine.frame().unwrap().set_registers(registers);
}

#[test]
fn registers_and_flags_survive_a_direct_call() {
    let (exit, mut machine) = run(CALL);
    assert!(machine.in_direct, "{exit:?}");
    let mut random = Rng::with_seed(1);
    for _ in 0..200 {
        machine.debug().unwrap();
        assert!(!machine.in_direct);
        let before = any_registers(&mut random);
        set(&machine, &before);
        let expected = Registers { rip: AFTER, rdx: 0x501, rflags: machine.cpu.rflags(before.rflags), ..before };

        let exit = machine.run().unwrap();
        assert_eq!(exit, Exit::Hypercall { number: 1, argument: Gpa(before.rax & 0xffff_ffff) });
        assert!(machine.in_direct);
        assert_eq!(machine.registers().unwrap(), expected, "at the call");

        // The guest continues and halts. `hlt` hands over by a signal.
        assert_eq!(machine.run().unwrap(), Exit::Halted);
        assert!(!machine.in_direct);
        let expected = Registers { rip: AFTER + 1, rflags: expected.rflags | RF, ..expected };
        let registers = machine.registers().unwrap();
        assert_eq!(Registers { rflags: registers.rflags | RF, ..registers }, expected, "behind the call");
    }
}

#[test]
fn instructions_between_mov_and_out_are_executed() {
    // mov edx, 0x502; mov eax, ebx; lea r8, [rsp + 8]; out dx, eax; hlt
    let (_, mut machine) = run(b"\xba\x02\x05\0\0\x89\xd8\x4c\x8d\x44\x24\x08\xef\xf4");
    machine.debug().unwrap();
    set(&machine, &Registers { rip: CODE, rbx: 0x1234_5678, rsp: DATA, rflags: 0x202, ..Registers::default() });
    assert_eq!(machine.run().unwrap(), Exit::Hypercall { number: 2, argument: Gpa(0x1234_5678) });
    assert!(machine.in_direct);
    let registers = machine.registers().unwrap();
    assert_eq!((registers.rax, registers.r8, registers.rip), (0x1234_5678, DATA + 8, CODE + 13));
    assert_eq!(machine.run().unwrap(), Exit::Halted);
}

#[test]
fn sites_in_two_pages_are_direct_calls() {
    // nops up to the end of the page, which is in the middle of the `mov`
    let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
    let memory_map = MemoryMap::new([region(CODE, CODE + 0x3000, Permissions::READ | Permissions::EXECUTE)]).unwrap();
    for split in 1..5 {
        let process = Process::open().unwrap();
        let memory = process.memory(SIZE).unwrap();
        let start = CODE + 0x1000 - split;
        memory.write(Gpa(start - 200), &[0x90; 200]).unwrap();
        memory.write(Gpa(start), CALL).unwrap();
        let entry = EntryState::new(SIZE, Gpa(start - 200));
        let mut machine = process.start(memory, memory_map.clone(), &entry, &CancelToken::new().unwrap()).unwrap();
        assert!(matches!(machine.run().unwrap(), Exit::Hypercall { number: 1, .. }));
        assert!(machine.in_direct, "{split}");
        assert_eq!(machine.run().unwrap(), Exit::Halted);
    }
}

/// The search copies code in parts.
#[test]
fn sites_are_found_in_all_of_the_code() {
    const PART: u64 = 64 << 10;
    let code = GuestRange::new(Gpa(CODE), 3 * PART).unwrap();
    let memory_map = MemoryMap::new([Region { range: code, access: Permissions::EXECUTE }]).unwrap();
    let memory = Process::open().unwrap().memory(SIZE).unwrap();
    memory.write(Gpa(CODE), &vec![0x90; code.len() as usize]).unwrap();
    let ats: Vec<_> = (0..7).map(|before| PART - before).chain([2 * PART - 2, 3 * PART - 6]).collect();
    for at in ats {
        memory.write(Gpa(CODE + at), &CALL[..6]).unwrap();
        let direct = Direct::new(&memory, &memory_map);
        let first = (CODE + at) & !(PAGE_SIZE - 1);
        assert!(direct.replaces(GuestRange::new(Gpa(first), 1).unwrap()), "{at:#x}");
        assert!(matches!(direct.page_count(), 2 | 3), "{at:#x}");
        memory.write(Gpa(CODE + at), &[0x90; 6]).unwrap();
    }
}

#[test]
fn all_registers_can_be_read_after_a_direct_call() {
    // movd xmm0, edi; mov edx, 0x501; out dx, eax; hlt
    let (_, mut machine) = run(b"\x66\x0f\x6e\xc7\xba\x01\x05\0\0\xef\xf4");
    assert!(machine.in_direct);
    let before = machine.registers().unwrap();
    let state = machine.debug().unwrap().state().unwrap();
    assert!(!machine.in_direct);
    assert_eq!(Registers { rflags: state.registers.rflags & !RF, ..state.registers }, before);
    assert_eq!(state.fpu.xmm[0].to_le_bytes()[..4], 0x1_0000_u32.to_le_bytes());
    assert_eq!(machine.run().unwrap(), Exit::Halted);
}

/// A guest that steps itself sees the instructions of its code, not the trampoline.
#[test]
fn a_guest_that_sets_tf_does_not_see_the_trampoline() {
    // pushf; or byte [rsp + 1], 1; popf; mov edx, 0x501; out dx, eax
    let (exit, machine) = run(b"\x9c\x80\x4c\x24\x01\x01\x9d\xba\x01\x05\0\0\xef");
    // Without a handler, #DB ends the guest. It is raised after the `mov`.
    let Exit::Fault(Fault { cause: Cause::TripleFault, registers: Some(registers) }) = exit else { panic!("{exit:?}") };
    assert_eq!((registers.rip, registers.rdx), (CODE + 12, 0x501));
    assert!(!machine.direct.is_empty());
}

#[test]
fn the_out_of_a_site_still_raises_a_signal() {
    // mov dx, 0x502; jmp to the `out`; mov edx, 0x501; out dx, eax; hlt
    let (exit, mut machine) = run(b"\x66\xba\x02\x05\xeb\x05\xba\x01\x05\0\0\xef\xf4");
    assert_eq!(exit, Exit::Hypercall { number: 2, argument: Gpa(0) });
    assert!(!machine.in_direct && !machine.direct.is_empty());
    assert_eq!(machine.run().unwrap(), Exit::Halted);
}

#[test]
fn the_child_alone_executes_the_jumps() {
    let (_, mut machine) = run(CALL);
    let mut code = [0; 7];
    machine.memory().read(Gpa(CODE), &mut code).unwrap();
    assert_eq!(code, CALL);
    let child = fs::File::open(format!("/proc/{}/mem", machine.child())).unwrap();
    child.read_exact_at(&mut code, CODE).unwrap();
    assert_eq!((code[0], &code[5..]), (0xe9, &CALL[5..]));
    // A debugger cannot write code that the child does not execute.
    let target = machine.debug().unwrap();
    assert!(target.poke(Gpa(CODE), b"\xf4").is_err() && target.poke(Gpa(DATA), b"\xf4").is_ok());
}

#[test]
fn a_debugged_guest_executes_its_memory() {
    let mut machine = guest_on(Process::open().unwrap().with_watchpoints(), CALL, &CancelToken::new().unwrap());
    assert!(matches!(machine.run().unwrap(), Exit::Hypercall { .. }));
    assert!(machine.direct.is_empty() && !machine.in_direct);
    machine.debug().unwrap().poke(Gpa(CODE), b"\xf4").unwrap();
}

/// A signal of another process during a direct call does not change the call.
#[test]
fn signals_of_other_processes_lose_no_direct_call() {
    // mov edx, 0x501; out dx, eax; inc eax; jmp to the start
    let (_, mut machine) = run(b"\xba\x01\x05\0\0\xef\xff\xc0\xeb\xf6");
    let ended = AtomicBool::new(false);
    let pidfd = machine.child.pidfd();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                child::send(&pidfd, libc::SIGSEGV).unwrap();
            }
        });
        for index in 1..2000 {
            let exit = machine.run().unwrap();
            ended.store(index == 1999 || exit != Exit::Hypercall { number: 1, argument: Gpa(index) }, RELAXED);
            assert_eq!(exit, Exit::Hypercall { number: 1, argument: Gpa(index) });
        }
    });
}

/// Jumps to each byte of the trampoline and of the stub, with random registers.
#[test]
fn jumps_into_trampolines_and_stub_harm_the_guest_alone() {
    const TRIES: u64 = 4000;
    let tries = AtomicU64::new(0);
    let current: std::sync::Mutex<Option<CancelToken>> = std::sync::Mutex::default();
    let start = || {
        let stop = CancelToken::new().unwrap();
        *current.lock().unwrap() = Some(stop.clone());
        let mut machine = guest(CALL, &stop);
        machine.run().unwrap();
        machine
    };
    thread::scope(|scope| {
        // Ends guests that run forever.
        scope.spawn(|| {
            let mut last = 0;
            while last < TRIES {
                thread::sleep(Duration::from_millis(20));
                let now = tries.load(Ordering::Relaxed);
                if now == last
                    && let Some(stop) = &*current.lock().unwrap()
                {
                    stop.request();
                }
                last = now;
            }
        });
        let mut random = Rng::with_seed(2);
        let mut machine = start();
        let mut kinds = BTreeSet::new();
        for attempt in 0..TRIES {
            tries.store(attempt, Ordering::Relaxed);
            let (base, size) = if attempt % 4 == 3 { (STUB_ADDRESS, 0x400) } else { (TRAMPOLINES, 64) };
            let mut registers = any_registers(&mut random);
            registers.rip = base + attempt / 4 % size;
            for number in 0..16 {
                let register = registers.general_mut(number);
                *register = match random.u8(..8) {
                    0 => EXCHANGE_ADDRESS,
                    1 => EXCHANGE_ADDRESS + random.u64(..0x4000),
                    2 => STUB_ADDRESS + random.u64(..0x400),
                    3 => CODE,
                    4 => random.u64(..0x600),
                    _ => *register,
                };
            }
            if machine.debug().is_none() || machine.in_direct || machine.frame().is_err() {
                machine = start();
                machine.debug().unwrap();
            }
            set(&machine, &registers);
            let exit = machine.run().unwrap();
            let usable = match &exit {
                Exit::Fault(fault) => fault.registers.is_some(),
                Exit::Interrupted => false,
                _ => true,
            };
            kinds.insert(match exit {
                Exit::Fault(fault) => format!("{:?}", std::mem::discriminant(&fault.cause)),
                exit => format!("{:?}", std::mem::discriminant(&exit)),
            });
            // Code stays the code that the tender wrote.
            let child = fs::File::open(format!("/proc/{}/mem", machine.child()));
            let mut code = [0; 7];
            if let Ok(child) = child
                && child.read_exact_at(&mut code, CODE).is_ok()
            {
                assert_eq!((code[0], &code[5..]), (0xe9, &CALL[5..]), "{registers:x?}");
            }
            if !usable {
                machine = start();
            }
        }
        tries.store(TRIES, Ordering::Relaxed);
        assert!(kinds.len() > 2, "{kinds:?}");
    });
}
