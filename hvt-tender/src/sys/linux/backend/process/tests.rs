//! Guests of a few bytes of machine code, run in real children.

use std::fs;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use hvt_abi::GuestRange;

use super::*;
use crate::memory::Region;

const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x10_1000;
const SIZE: u64 = 0x20_0000;
/// Page of trampolines.
const TRAMPOLINES: u64 = 0xf_f000;

/// A guest with this code, one page of data, and memory up to [`SIZE`].
fn guest(code: &[u8], stop: &CancelToken) -> ProcessMachine {
    guest_on(Process::open().unwrap(), code, stop)
}

fn guest_on(process: Process, code: &[u8], stop: &CancelToken) -> ProcessMachine {
    let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
    let memory_map = MemoryMap::new([
        region(0x1_0000, CODE, Permissions::READ),
        region(CODE, DATA, Permissions::EXECUTE),
        region(DATA, SIZE, Permissions::READ | Permissions::WRITE),
    ]);
    let memory = process.memory(SIZE).unwrap();
    memory.write(Gpa(CODE), code).unwrap();
    process.start(memory, memory_map.unwrap(), &EntryState::new(SIZE, Gpa(CODE)), stop).unwrap()
}

fn run(code: &[u8]) -> (Exit, ProcessMachine) {
    let mut machine = guest(code, &CancelToken::new().unwrap());
    let exit = machine.run().unwrap();
    (exit, machine)
}

#[test]
fn hypercall_and_back() {
    // mov edx, 0x501; mov eax, 0x101000; out dx, eax; mov edx, 0x600; mov eax, ebx; out dx, eax; hlt
    let code = b"\xba\x01\x05\0\0\xb8\0\x10\x10\0\xef\xba\0\x06\0\0\x89\xd8\xef\xf4";
    let (exit, mut machine) = run(code);
    assert_eq!(exit, Exit::Hypercall { number: 1, argument: Gpa(0x10_1000) });
    let registers = machine.registers().unwrap();
    assert_eq!((registers.rip, registers.rdi, registers.rsp), (CODE + 11, 0x1_0000, SIZE - 8));
    assert_eq!(machine.run().unwrap(), Exit::RingKick { ring: 0 });
    assert_eq!(machine.run().unwrap(), Exit::Halted);
}

#[test]
fn address_space_holds_the_guest_alone() {
    let (_, machine) = run(b"\xba\x01\x05\0\0\xef");
    let maps = fs::read_to_string(format!("/proc/{}/maps", machine.child())).unwrap();
    let ranges: Vec<(u64, String)> = maps
        .lines()
        // A page of the machine, not of the process, at an address that no process can map.
        .filter(|line| !line.ends_with("[vsyscall]"))
        .map(|line| {
            let mut words = line.split(' ');
            let (start, _) = words.next().unwrap().split_once('-').unwrap();
            (u64::from_str_radix(start, 16).unwrap(), words.next().unwrap().to_owned())
        })
        .collect();
    let expected = [
        (0x1_0000, "r--s"),
        (TRAMPOLINES, "r-xs"),
        (CODE, "--xs"),
        (DATA, "rw-s"),
        (protocol::STUB_ADDRESS, "r-xp"),
        (protocol::EXCHANGE_ADDRESS, "rw-s"),
    ];
    assert_eq!(ranges, expected.map(|(start, access)| (start, access.to_owned())));
    let descriptors = fs::read_dir(format!("/proc/{}/fd", machine.child())).unwrap().count();
    assert_eq!(descriptors, 0);
}

#[test]
fn the_set_up_leaves_nothing_of_the_tender() {
    let machine = guest(b"\xf4", &CancelToken::new().unwrap());
    let options = setup::Options::default();
    let plan = setup::SetupPlan {
        parent: 0,
        memory: 0,
        stub: 0,
        memory_map: &machine.memory_map,
        direct: &Direct::default(),
        options,
    };
    let script = Exchange::SCRIPT..Script::measure(&plan).1.signal_stack().0;
    for address in script.step_by(8) {
        assert_eq!(machine.exchange.word(address).unwrap().load(RELAXED), 0, "{address:#x}");
    }
    // Parameters of the stub as the child sees them.
    let mut parameters = [1; 16];
    fs::File::open(format!("/proc/{}/mem", machine.child()))
        .and_then(|memory| memory.read_exact_at(&mut parameters, protocol::STUB_ADDRESS + 0x1000 - 16))
        .unwrap();
    assert_eq!(parameters, [0; 16]);
}

#[test]
fn guests_have_as_many_segments_as_they_like() {
    use crate::Unikernel;
    use crate::config::BackendChoice;
    use crate::image::write::{Elf, Part, TEXT};
    use goblin::elf::program_header::{PF_R, PF_W, PF_X};
    use hvt_abi::hypercall::Number;

    // mov edx, port of halt; mov eax, address of its argument, which is the first page of data; out dx, eax
    let mut code = vec![0xba];
    code.extend((0x500 + Number::Halt as u32).to_le_bytes());
    code.push(0xb8);
    code.extend((TEXT as u32 + 0x1000).to_le_bytes());
    code.push(0xef);
    for (count, distance) in [(600, 0x1000), (600, 0x2000)] {
        // Every second segment is read-only, so that neighbours cannot be joined.
        let data = (1..=count).map(|index| {
            let flags = if index % 2 == 1 { PF_R | PF_W } else { PF_R };
            Part::load(flags, TEXT + index * distance - (distance - 0x1000), 0x1000, vec![0; 16])
        });
        let segments = std::iter::once(Part::load(PF_R | PF_X, TEXT, 0x1000, code.clone())).chain(data);
        let file = Elf::with_devices(segments, &[]).build();
        let unikernel = Unikernel::from_bytes(file).unwrap().mem(8 << 20).backend(BackendChoice::Process);
        assert_eq!(unikernel.output().unwrap().status(), Some(0));
    }
}

#[test]
fn registers_start_clean() {
    // fnstcw [0x101000]; stmxcsr [0x101004]; movdqu [0x101010], xmm7; out dx, eax (port 0: a fault)
    let code = b"\xd9\x3c\x25\0\x10\x10\0\x0f\xae\x1c\x25\x04\x10\x10\0\xf3\x0f\x7f\x3c\x25\x10\x10\x10\0\xef";
    let (exit, machine) = run(code);
    let Exit::Fault(fault) = exit else { panic!("{exit:?}") };
    assert_eq!(fault.cause, Cause::Port { port: 0, size: 4, write: true });
    let registers = fault.registers.unwrap();
    let expected = Registers {
        rip: registers.rip,
        rflags: registers.rflags,
        rdi: 0x1_0000,
        rsp: SIZE - 8,
        ..Registers::default()
    };
    assert_eq!(*registers, expected);
    let mut state = [0; 32];
    machine.memory().read(Gpa(DATA), &mut state).unwrap();
    assert_eq!(state[..2], [0x7f, 0x03]);
    assert_eq!(state[4..8], [0x80, 0x1f, 0, 0]);
    assert_eq!(state[16..], [0; 16]);
}

#[test]
fn segment_bases_are_loaded_either_way() {
    // wrmsr of 0x101000 to FS base and 0x101008 to GS base; mov eax, fs:[0]; mov ebx, gs:[0]; out dx, eax
    let code = b"\xb9\0\x01\0\xc0\xb8\0\x10\x10\0\x31\xd2\x0f\x30\xff\xc1\xb0\x08\x0f\x30\
        \x64\x8b\x04\x25\0\0\0\0\x65\x8b\x1c\x25\0\0\0\0\xba\x01\x05\0\0\xef";
    let with_instructions = Process::open().unwrap().by_system_call;
    for by_system_call in [with_instructions, true] {
        let process = Process { by_system_call, ..Process::open().unwrap() };
        let mut machine = guest_on(process, code, &CancelToken::new().unwrap());
        machine.memory().write(Gpa(DATA), &[1, 0, 0, 0, 0, 0, 0, 0, 2]).unwrap();
        assert_eq!(machine.run().unwrap(), Exit::Hypercall { number: 1, argument: Gpa(1) });
        assert_eq!(machine.registers().unwrap().rbx, 2);
    }
}

/// WRFSBASE and WRGSBASE do not trap, but the tender must read their results.
#[test]
fn segment_bases_that_the_guest_loads_itself_are_read_back() {
    if Process::open().unwrap().by_system_call {
        return;
    }
    // mov eax, 0x101000; wrfsbase rax; mov eax, 0x101008; wrgsbase rax; mov ecx, FS_BASE; rdmsr; mov esi, eax; swapgs;
    // rdgsbase rbx; swapgs; mov ecx, KERNEL_GS_BASE; rdmsr; mov edi, eax; dec ecx; rdmsr; hlt
    let code = b"\xb8\0\x10\x10\0\xf3\x48\x0f\xae\xd0\xb0\x08\xf3\x48\x0f\xae\xd8\xb9\0\x01\0\xc0\x0f\x32\x89\xc6\
        \x0f\x01\xf8\xf3\x48\x0f\xae\xcb\x0f\x01\xf8\xb9\x02\x01\0\xc0\x0f\x32\x89\xc7\xff\xc9\x0f\x32\xf4";
    let (exit, machine) = run(code);
    assert_eq!(exit, Exit::Halted);
    let registers = machine.registers().unwrap();
    assert_eq!((registers.rsi, registers.rbx, registers.rdi, registers.rax), (DATA, 0, 0, DATA + 8));
}

/// If a filter denies close_range(2), the descriptors are closed one by one.
#[test]
fn a_child_has_no_descriptors() {
    let _inherited = nix::unistd::dup(std::io::stdin()).unwrap();
    for close_range in [true, false] {
        let process = Process { close_range, ..Process::open().unwrap() };
        // jmp $
        let machine = guest_on(process, b"\xeb\xfe", &CancelToken::new().unwrap());
        let open = fs::read_dir(format!("/proc/{}/fd", machine.child())).unwrap();
        assert_eq!(open.count(), 0, "{close_range}");
    }
}

#[test]
fn exception_without_handler_is_a_triple_fault() {
    for code in [&b"\x0f\x0b"[..], b"\xcc", b"\x0f\x05", b"\xcd\x80", b"\x31\xc9\xf7\xf1", b"\xa1\0\0\0\0\0\0\0\0"] {
        let (exit, _machine) = run(code);
        let Exit::Fault(Fault { cause: Cause::TripleFault, .. }) = exit else { panic!("{code:x?}: {exit:?}") };
    }
}

#[test]
fn memory_rules_are_enforced() {
    // The guest's page tables leave the protection of code to the mapping underneath.
    let (exit, _machine) = run(b"\xc6\x04\x25\0\0\x10\0\0");
    let cause = Cause::Memory { address: Some(Gpa(CODE)), access: Permissions::WRITE };
    assert!(matches!(&exit, Exit::Fault(fault) if fault.cause == cause), "{exit:?}");
    // These write or jump where the guest's page tables deny it, and have no handler.
    let writes_boot_info = b"\xc6\x04\x25\0\0\x01\0\0";
    let runs_data = b"\xb8\0\x10\x10\0\xff\xe0";
    for code in [&writes_boot_info[..], runs_data] {
        let (exit, _machine) = run(code);
        assert!(matches!(exit, Exit::Fault(Fault { cause: Cause::TripleFault, .. })), "{code:x?}: {exit:?}");
    }
}

#[test]
fn guest_that_attacks_stub_and_exchange_harms_itself_alone() {
    // mov rax, STUB; jmp rax: runs the whole set-up again without the necessary privileges.
    let mut jumps = b"\x48\xb8".to_vec();
    jumps.extend(protocol::STUB_ADDRESS.to_le_bytes());
    jumps.extend(b"\xff\xe0");
    // mov rdi, EXCHANGE; mov ecx, 4096; mov al, 0xaa; rep stosb; hlt
    let mut overwrites = b"\x48\xbf".to_vec();
    overwrites.extend(protocol::EXCHANGE_ADDRESS.to_le_bytes());
    overwrites.extend(b"\xb9\0\x10\0\0\xb0\xaa\xf3\xaa\xf4");
    // The same, but including the signal stack, so that only the next signal overwrites the
    // kernel's frame.
    let mut zeroes = b"\x48\xbf".to_vec();
    zeroes.extend(protocol::EXCHANGE_ADDRESS.to_le_bytes());
    zeroes.extend(b"\xb9\0\x10\0\0\x31\xc0\xf3\xaa\xeb\xfe");
    for code in [jumps, overwrites] {
        let (exit, _machine) = run(&code);
        assert!(matches!(exit, Exit::Fault(_) | Exit::Halted), "{exit:?}");
    }
    // Pretends to have handed over, and spins: the tender finds no valid frame at the alleged
    // address.
    let (exit, _machine) = run(&zeroes);
    assert!(matches!(exit, Exit::Fault(Fault { cause: Cause::Killed { .. }, .. })), "{exit:?}");
}

#[test]
fn stop_ends_a_guest_that_spins() {
    // The tender first spins and then sleeps. A stop request must reach it at any moment.
    for delay in [0, 5, 20, 100, 2000].map(Duration::from_micros) {
        let stop = CancelToken::new().unwrap();
        let (entered, when_entered) = crossbeam_channel::unbounded();
        let spinning = {
            let stop = stop.clone();
            thread::spawn(move || {
                // out dx, eax (hypercall 1); jmp $
                let mut machine = guest(b"\xba\x01\x05\0\0\xef\xeb\xfe", &stop);
                assert!(matches!(machine.run().unwrap(), Exit::Hypercall { .. }));
                entered.send(()).unwrap();
                machine.run().unwrap()
            })
        };
        when_entered.recv().unwrap();
        thread::sleep(delay);
        stop.request();
        assert_eq!(spinning.join().unwrap(), Exit::Interrupted);
    }
}

#[test]
fn stop_before_the_start_is_not_lost() {
    let stop = CancelToken::new().unwrap();
    stop.request();
    assert_eq!(guest(b"\xeb\xfe", &stop).run().unwrap(), Exit::Interrupted);
}

#[test]
fn killed_child_is_reported() {
    let stop = CancelToken::new().unwrap();
    let mut machine = guest(b"\xba\x01\x05\0\0\xef\xeb\xfe", &stop);
    assert!(matches!(machine.run().unwrap(), Exit::Hypercall { .. }));
    child::send(&machine.child.pidfd(), libc::SIGKILL).unwrap();
    let exit = machine.run().unwrap();
    let Exit::Fault(Fault { cause: Cause::Killed { what }, .. }) = exit else { panic!("{exit:?}") };
    assert!(what.contains("SIGKILL"), "{what}");
}

#[test]
fn dropping_the_machine_leaves_no_process() {
    let (_, machine) = run(b"\xba\x01\x05\0\0\xef");
    let child = machine.child();
    drop(machine);
    assert!(!fs::exists(format!("/proc/{child}")).unwrap());
}

#[test]
fn reading_the_tsc_traps_where_another_counter_is_given() {
    use crate::backend::CycleCounter;

    let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
    let memory_map = MemoryMap::new([
        region(CODE, DATA, Permissions::EXECUTE),
        region(DATA, SIZE, Permissions::READ | Permissions::WRITE),
    ]);
    let process = Process::open().unwrap().with_cycle_counter(CycleCounter::new(|| 0x1_0000_0042));
    let memory = process.memory(SIZE).unwrap();
    // rdtsc; mov ebx, eax; mov esi, edx; rdtscp; hlt
    memory.write(Gpa(CODE), b"\x0f\x31\x89\xc3\x89\xd6\x0f\x01\xf9\xf4").unwrap();
    let stop = CancelToken::new().unwrap();
    let mut machine = process.start(memory, memory_map.unwrap(), &EntryState::new(SIZE, Gpa(CODE)), &stop).unwrap();
    assert_eq!(machine.run().unwrap(), Exit::Halted);
    let registers = machine.registers().unwrap();
    assert_eq!((registers.rbx, registers.rsi), (0x42, 1));
    assert_eq!((registers.rax, registers.rdx, registers.rcx), (0x42, 1, 0));
}

/// Hypercalls without a signal.
mod direct;

/// Debugger conformance tests of every backend.
mod debugger {
    use super::*;
    use crate::backend::debug::conformance::{self, Start};

    /// Segments of the conformance guests: code, then data to the end of memory.
    fn memory_map() -> MemoryMap {
        let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
        let memory_map = MemoryMap::new([
            region(CODE, DATA, Permissions::READ | Permissions::EXECUTE),
            region(DATA, SIZE, Permissions::READ | Permissions::WRITE),
        ]);
        memory_map.unwrap()
    }

    fn start(code: &[u8], stop: &CancelToken) -> Box<dyn Machine> {
        let process = Process::open().unwrap().with_watchpoints();
        let memory = process.memory(SIZE).unwrap();
        memory.write(Gpa(CODE), code).unwrap();
        let entry = EntryState::new(SIZE, Gpa(CODE));
        Box::new(process.start(memory, memory_map(), &entry, stop).unwrap())
    }

    macro_rules! conforms {
        ($($name:ident)+) => {$(
            #[test]
            fn $name() {
                let start: Start<'_> = &start;
                conformance::$name(start);
            }
        )+};
    }

    conforms! {
        steps planted_breakpoints own_instructions_stay_the_guests watched_writes watched_reads steps_meet_watchpoints
        registers_are_read_and_changed pauses what_is_not_mapped
    }

    /// A guest that jumps to the system call in the stub gains no permissions on its memory.
    #[test]
    fn a_guest_gains_no_right_to_its_memory() {
        let stub = stub::page(0, 0);
        // The system call of the set-up script, which is followed by a load of the expected result.
        let call = stub.windows(6).position(|bytes| bytes == b"\x0f\x05\x49\x8b\x4c\x24").unwrap();
        let attack = |protection: u32| {
            // A step that ends the script, for the stub to find: mov qword [DATA], -1
            let mut code = b"\x48\xc7\x04\x25\0\x10\x10\0\xff\xff\xff\xff".to_vec();
            // mov r12d, DATA - 64 (the next step is the one above); mov rbx, EXCHANGE
            code.extend(b"\x41\xbc");
            code.extend((DATA as u32).to_le_bytes());
            code.extend(b"\x49\x83\xec\x40\x48\xbb");
            code.extend(protocol::EXCHANGE_ADDRESS.to_le_bytes());
            // mov edi, CODE; mov esi, 4096; mov edx, protection; mov eax, SYS_mprotect
            for (register, value) in
                [(0xbf, CODE as u32), (0xbe, 0x1000), (0xba, protection), (0xb8, libc::SYS_mprotect as u32)]
            {
                code.push(register);
                code.extend(value.to_le_bytes());
            }
            // mov r9, the stub's system call; jmp r9
            code.extend(b"\x49\xb9");
            code.extend((protocol::STUB_ADDRESS + call as u64).to_le_bytes());
            code.extend(b"\x41\xff\xe1");
            let mut machine = start(&code, &CancelToken::new().unwrap());
            match machine.run().unwrap() {
                Exit::Fault(Fault { cause: Cause::TripleFault, registers: Some(registers) }) => registers.rip,
                exit => panic!("{exit:?}"),
            }
        };
        let at_call = protocol::STUB_ADDRESS + call as u64;
        let (read, write, execute) = (libc::PROT_READ as u32, libc::PROT_WRITE as u32, libc::PROT_EXEC as u32);
        assert_eq!(attack(read | write | execute), at_call, "the call is made");
        assert_eq!(attack(read | write), at_call, "the call is made");
        // The existing permissions may be set again: the guest reaches the stub's `hlt`.
        assert!(attack(read | execute) > at_call);
    }

    #[test]
    fn there_are_no_hardware_breakpoints_and_no_watchpoints_unasked() {
        use crate::backend::debug::{Traps, Watch};
        let mut machine = guest(b"\xeb\xfe", &CancelToken::new().unwrap());
        let target = machine.debug().unwrap();
        let executed = Traps { executed: vec![CODE], ..Traps::default() };
        let watched = Traps { watched: vec![Watch { start: DATA, len: 1, reads: false }], ..Traps::default() };
        assert!(!target.set_traps(&executed).unwrap() && !target.set_traps(&watched).unwrap());
    }
}
