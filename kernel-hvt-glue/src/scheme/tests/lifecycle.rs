//! Tests of single rules.

use hvt_abi::{
    kernel::{Direction, Io, Obstacle, Request, Technology, VERSION},
    native::Registers,
};

use super::*;

const OUT: Exit = Exit::Io(Io { port: 0x501, size: 4, direction: Direction::Out, string: false, value: 0x1234 });

fn monitor() -> Monitor {
    Monitor::on(&FakeKernel::new(256), 32)
}

#[test]
fn only_the_superuser_gets_in() {
    let mut monitor = monitor();
    monitor.process.user = 1000;
    assert_eq!(Handle::open(&mut monitor.process).err(), Some(KernelError::NotPermitted));
}

#[test]
fn capabilities_tell_limits_and_use() {
    let mut monitor = monitor();
    let (vm, _vcpu) = monitor.guest();
    monitor.map(&vm, 0, 0, 4, RW).unwrap();
    let capabilities = monitor.capabilities();
    assert_eq!((capabilities.version, capabilities.technology), (VERSION, Technology::Svm as u32));
    assert_eq!((capabilities.address_bits, capabilities.obstacle), (40, Obstacle::None as u32));
    assert_eq!((capabilities.pinned, capabilities.vms), (4 * PAGE, 1));
    assert_eq!((capabilities.pinned_limit, capabilities.vm_limit, capabilities.vcpu_limit), (48 * PAGE, 3, 2));
    assert_eq!(capabilities.execute_only, 0, "nested paging of AMD's cannot");
}

#[test]
fn a_machine_without_virtualization_says_so() {
    let kernel = FakeKernel::new(8);
    let scheme = Rc::new(Scheme::assemble(kernel.clone(), Err(Unsupported::NoExtension), LIMITS));
    let mut monitor = Monitor { scheme, process: Process::new(&kernel, 0) };
    let hypervisor = monitor.open();
    assert_eq!(monitor.create(&hypervisor, Kind::Vm).err(), Some(KernelError::Unsupported));
    let capabilities = monitor.capabilities();
    assert_eq!((capabilities.technology, capabilities.obstacle), (0, Obstacle::NoExtension as u32));
}

#[test]
fn objects_know_their_own_operations_only() {
    let mut monitor = monitor();
    let hypervisor = monitor.open();
    let (vm, vcpu) = monitor.guest();
    for (handle, operation) in [
        (&hypervisor, Operation::Run),
        (&hypervisor, Operation::Map),
        (&vm, Operation::Run),
        (&vm, Operation::GetCapabilities),
        (&vcpu, Operation::Pause),
        (&vcpu, Operation::Map),
    ] {
        assert_eq!(monitor.ask(handle, operation), Err(KernelError::UnknownOperation), "{handle:?} {operation:?}");
    }
    assert_eq!(vm.call(&monitor.scheme, 99, &mut monitor.process), Err(KernelError::UnknownOperation));
    assert_eq!(monitor.create(&vcpu, Kind::Vcpu).err(), Some(KernelError::UnknownOperation));
    assert_eq!(monitor.create(&vm, Kind::Vm).err(), Some(KernelError::UnknownOperation));
    assert_eq!(monitor.create(&hypervisor, Kind::Vcpu).err(), Some(KernelError::UnknownOperation));
    assert_eq!(vm.run_page(), Err(KernelError::UnknownOperation));
}

#[test]
fn structures_have_their_size_and_lie_in_the_callers_memory() {
    let mut monitor = monitor();
    let (vm, vcpu) = monitor.guest();
    for (handle, operation, len) in [
        (&vm, Operation::Map, size_of::<MemoryMapping>() - 1),
        (&vm, Operation::Unmap, size_of::<MemoryRange>() + 1),
        (&vm, Operation::Pause, 1),
        (&vcpu, Operation::Run, 8),
        (&vcpu, Operation::SetState, 0),
    ] {
        assert_eq!(monitor.call(handle, operation, &[0; 64][..len]), Err(KernelError::BadArgument), "{operation:?}");
    }
    monitor.process.faulty = true;
    assert_eq!(monitor.map(&vm, 0, 0, 1, RW), Err(KernelError::BadAddress));
    assert_eq!(monitor.start(&vcpu), Err(KernelError::BadAddress));
    assert_eq!(monitor.ask(&vcpu, Operation::Run), Err(KernelError::NoState));
}

#[test]
fn ranges_are_checked() {
    let mut monitor = monitor();
    let (vm, _vcpu) = monitor.guest();
    let good = MemoryMapping { gpa: Gpa(0), address: USER, len: PAGE, permissions: RW, reserved: 0 };
    for (error, bad) in [
        (KernelError::BadArgument, MemoryMapping { gpa: Gpa(1), ..good }),
        (KernelError::BadArgument, MemoryMapping { address: USER + 1, ..good }),
        (KernelError::BadArgument, MemoryMapping { len: PAGE + 1, ..good }),
        (KernelError::BadArgument, MemoryMapping { len: 0, ..good }),
        (KernelError::BadArgument, MemoryMapping { gpa: Gpa(0u64.wrapping_sub(PAGE)), len: 2 * PAGE, ..good }),
        (KernelError::BadArgument, MemoryMapping { address: 0u64.wrapping_sub(PAGE), len: 2 * PAGE, ..good }),
        (KernelError::BadArgument, MemoryMapping { permissions: 0, ..good }),
        (KernelError::BadArgument, MemoryMapping { permissions: 1 << 3 | RW, ..good }),
        (KernelError::BadArgument, MemoryMapping { reserved: 1, ..good }),
        (KernelError::WriteAndExecute, MemoryMapping { permissions: RW | RX, ..good }),
        (KernelError::OutOfRange, MemoryMapping { gpa: Gpa(1 << 40), ..good }),
        (KernelError::NotOwnMemory, MemoryMapping { address: USER + 32 * PAGE, ..good }),
        (KernelError::NotOwnMemory, MemoryMapping { address: 0, ..good }),
    ] {
        assert_eq!(monitor.call(&vm, Operation::Map, bad.as_bytes()), Err(error), "{bad:?}");
    }
    assert_eq!(monitor.map(&vm, 0, 0, 1, RW), Ok(PAGE));
    assert_eq!(monitor.map(&vm, 0, 1, 1, RW), Err(KernelError::AlreadyMapped));
    assert_eq!(monitor.change(&vm, Operation::Protect, PAGE, 1, RX), Err(KernelError::NotMapped));
    assert_eq!(monitor.change(&vm, Operation::Protect, 0, 1, RW | RX), Err(KernelError::WriteAndExecute));
    assert_eq!(monitor.change(&vm, Operation::Unmap, 0, 1, RW), Err(KernelError::BadArgument));
    assert_eq!(monitor.capabilities().pinned, PAGE);
}

#[test]
fn what_is_mapped_stays_when_the_process_gives_it_up() {
    let mut monitor = monitor();
    let kernel = monitor.process.kernel.clone();
    let (vm, _vcpu) = monitor.guest();
    let UserPage::Own(frame) = monitor.process.page(USER) else { panic!("not its own") };
    assert_eq!(monitor.map(&vm, 0x4000, 0, 1, RW), Ok(PAGE));
    assert_eq!(monitor.map(&vm, 0x8000, 0, 1, RX), Ok(PAGE));
    assert_eq!(kernel.references_to(frame), 3);
    monitor.process.give_up(0);
    assert_eq!(kernel.references_to(frame), 2);
    assert_eq!(monitor.change(&vm, Operation::Unmap, 0, 16, 0), Ok(16 * PAGE));
    assert_eq!(kernel.references_to(frame), 0);
}

#[test]
fn mapping_goes_as_far_as_it_can() {
    let mut monitor = monitor();
    let (vm, _vcpu) = monitor.guest();
    assert_eq!(monitor.map(&vm, 0, 28, 8, RW), Ok(4 * PAGE), "the process has 32 pages");
    assert_eq!(monitor.map(&vm, 0x10_0000, 0, 32, RW), Ok(32 * PAGE));
    assert_eq!(monitor.map(&vm, 0x20_0000, 0, 32, RW), Ok(12 * PAGE), "the limit is 48 pages");
    assert_eq!(monitor.map(&vm, 0x30_0000, 0, 1, RW), Err(KernelError::LimitReached));
    assert_eq!(monitor.ask(&vm, Operation::Destroy), Ok(0));
    assert_eq!(monitor.capabilities().pinned, 0);
}

#[test]
fn limits_hold_for_vms_and_vcpus() {
    let mut monitor = monitor();
    let hypervisor = monitor.open();
    let vms: Vec<_> = (0..3).map(|_| monitor.create(&hypervisor, Kind::Vm).unwrap()).collect();
    assert_eq!(monitor.create(&hypervisor, Kind::Vm).err(), Some(KernelError::LimitReached));
    let first = monitor.create(&vms[0], Kind::Vcpu).unwrap();
    let second = monitor.create(&vms[0], Kind::Vcpu).unwrap();
    assert_eq!(monitor.create(&vms[0], Kind::Vcpu).err(), Some(KernelError::LimitReached));
    drop(second);
    monitor.create(&vms[0], Kind::Vcpu).unwrap();
    drop(vms);
    assert_eq!(monitor.scheme.accounts.used(0).1, 1, "a vCPU keeps its VM");
    drop(first);
    monitor.create(&hypervisor, Kind::Vm).unwrap();
}

#[test]
fn a_vcpu_is_new_then_ready_then_ended() {
    let mut monitor = monitor();
    let (_vm, vcpu) = monitor.guest();
    let mut state = VcpuState::new_zeroed();
    assert_eq!(monitor.ask(&vcpu, Operation::Run), Err(KernelError::NoState));
    assert_eq!(monitor.call(&vcpu, Operation::GetState, state.as_bytes()), Err(KernelError::NoState));
    state.reserved[0] = 1;
    assert_eq!(monitor.call(&vcpu, Operation::SetState, state.as_bytes()), Err(KernelError::BadArgument));
    assert_eq!(monitor.start(&vcpu), Ok(0));
    assert_eq!(monitor.run(&vcpu, OUT), Ok(OUT));
    assert_eq!(monitor.call(&vcpu, Operation::GetState, state.as_bytes()), Ok(0));
    let state = VcpuState::read_from_bytes(&monitor.process.payload).unwrap();
    assert_eq!(state.general.rip, 0x10_0000);
    assert_eq!(monitor.start(&vcpu), Ok(0));
    assert_eq!(monitor.run(&vcpu, Exit::TripleFault), Ok(Exit::TripleFault));
    assert_eq!(monitor.run(&vcpu, OUT), Ok(Exit::TripleFault));
    assert_eq!(monitor.start(&vcpu), Err(KernelError::Ended));
}

#[test]
fn an_interrupt_is_never_missed() {
    let mut monitor = monitor();
    let (_vm, vcpu) = monitor.guest();
    monitor.start(&vcpu).unwrap();
    monitor.ask(&vcpu, Operation::Interrupt).unwrap();
    monitor.ask(&vcpu, Operation::Interrupt).unwrap();
    assert_eq!(monitor.run(&vcpu, OUT), Ok(Exit::Interrupted));
    assert_eq!(monitor.run(&vcpu, OUT), Ok(OUT));
    assert_eq!(monitor.process.kernel.kicked.load(Ordering::Relaxed), 0, "it did not run");
    monitor.run(&vcpu, Exit::TripleFault).unwrap();
    monitor.ask(&vcpu, Operation::Interrupt).unwrap();
    assert_eq!(monitor.run(&vcpu, OUT), Ok(Exit::TripleFault));
}

#[test]
fn a_paused_vm_does_not_run_and_a_destroyed_one_does_nothing() {
    let mut monitor = monitor();
    let (vm, vcpu) = monitor.guest();
    monitor.start(&vcpu).unwrap();
    for _ in 0..2 {
        assert_eq!(monitor.ask(&vm, Operation::Pause), Ok(0));
        assert_eq!(monitor.run(&vcpu, OUT), Err(KernelError::Paused));
    }
    assert_eq!(monitor.map(&vm, 0, 0, 1, RW), Ok(PAGE), "memory may change");
    assert_eq!(monitor.ask(&vm, Operation::Resume), Ok(0));
    assert_eq!(monitor.run(&vcpu, OUT), Ok(OUT));
    assert_eq!(monitor.ask(&vm, Operation::Destroy), Ok(0));
    for operation in [Operation::Pause, Operation::Resume, Operation::Destroy] {
        assert_eq!(monitor.ask(&vm, operation), Err(KernelError::Destroyed));
    }
    assert_eq!(monitor.map(&vm, 0, 0, 1, RW), Err(KernelError::Destroyed));
    assert_eq!(monitor.change(&vm, Operation::Unmap, 0, 1, 0), Err(KernelError::Destroyed));
    assert_eq!(monitor.run(&vcpu, OUT), Err(KernelError::Destroyed));
    assert_eq!(monitor.start(&vcpu), Err(KernelError::Destroyed));
    assert_eq!(monitor.create(&vm, Kind::Vcpu).err(), Some(KernelError::Destroyed));
}

/// A monitor with a VM and a vCPU.
type Party = (Monitor, Handle<FakeKernel>, Handle<FakeKernel>);

std::thread_local! {
    /// Objects of the other thread in the next test.
    static OTHER: RefCell<Option<Party>> = const { RefCell::new(None) };
}

#[test]
fn a_running_vcpu_can_be_interrupted_and_nothing_else() {
    let kernel = FakeKernel::new(256);
    let mut monitor = Monitor::on(&kernel, 4);
    let (vm, vcpu) = monitor.guest();
    monitor.start(&vcpu).unwrap();
    let scheme = monitor.scheme.clone();
    let other = Monitor { scheme, process: Process::new(&kernel, 4) };
    OTHER.set(Some((other, vm.clone(), vcpu.clone())));
    monitor.process.meanwhile = Some(|| {
        OTHER.with_borrow_mut(|other| {
            let (other, vm, vcpu) = other.as_mut().unwrap();
            assert_eq!(other.ask(vcpu, Operation::Run), Err(KernelError::Busy));
            assert_eq!(other.start(vcpu), Err(KernelError::Busy));
            let room = VcpuState::new_zeroed();
            assert_eq!(other.call(vcpu, Operation::GetState, room.as_bytes()), Err(KernelError::Busy));
            assert_eq!(other.map(vm, 0, 0, 1, RW), Err(KernelError::Busy));
            assert_eq!(other.change(vm, Operation::Unmap, 0, 1, 0), Err(KernelError::Busy));
            assert_eq!(other.change(vm, Operation::Protect, 0, 1, RX), Err(KernelError::Busy));
            assert_eq!(other.ask(vm, Operation::Destroy), Err(KernelError::Busy));
            assert_eq!(other.ask(vm, Operation::Pause), Ok(1), "one has not left yet");
            assert_eq!(other.ask(vcpu, Operation::Interrupt), Ok(0));
            assert_eq!(other.process.kernel.kicked.load(Ordering::Relaxed), 7, "the CPU it runs on");
            assert_eq!(other.ask(vm, Operation::Resume), Ok(0));
        });
    });
    assert_eq!(monitor.run(&vcpu, OUT), Ok(OUT), "it left for a reason of its own");
    monitor.process.meanwhile = None;
    assert_eq!(monitor.run(&vcpu, OUT), Ok(Exit::Interrupted), "the interrupt is kept");
    OTHER.take();
}

#[test]
fn the_run_page_carries_registers_and_input() {
    let mut monitor = monitor();
    let (_vm, vcpu) = monitor.guest();
    monitor.start(&vcpu).unwrap();
    let registers = Registers { rax: 0x1111_2222_3333_4444, rip: 0x10_0040, rflags: 2, ..Registers::default() };
    monitor.set_page(&vcpu, |page| {
        page.registers = registers;
        page.request = (Request::SET_REGISTERS | Request::GET_REGISTERS).bits();
    });
    let input = |size| Exit::Io(Io { port: 1, size, direction: Direction::In, string: false, value: 0 });
    assert_eq!(monitor.run(&vcpu, input(1)), Ok(input(1)));
    assert_eq!((monitor.page(&vcpu).registers, monitor.page(&vcpu).request), (registers, 0));

    // Inputs of one byte, two bytes and four.
    for (next, rax) in [(2, 0x1111_2222_3333_44dd), (4, 0x1111_2222_3333_ccdd), (4, 0xaabb_ccdd)] {
        monitor.set_page(&vcpu, |page| {
            page.input = 0xaabb_ccdd;
            page.request = (Request::INPUT | Request::GET_REGISTERS).bits();
        });
        assert_eq!(monitor.run(&vcpu, input(next)), Ok(input(next)));
        assert_eq!(monitor.page(&vcpu).registers.rax, rax);
    }

    // An input without a preceding read.
    monitor.run(&vcpu, OUT).unwrap();
    monitor.set_page(&vcpu, |page| {
        page.input = 1;
        page.request = (Request::INPUT | Request::GET_REGISTERS).bits();
    });
    monitor.run(&vcpu, OUT).unwrap();
    assert_eq!(monitor.page(&vcpu).registers.rax, 0xaabb_ccdd);

    for bad in [Request::INPUT | Request::SET_REGISTERS, Request::from_bits_retain(1 << 31)] {
        monitor.set_page(&vcpu, |page| page.request = bad.bits());
        assert_eq!(monitor.ask(&vcpu, Operation::Run), Err(KernelError::BadArgument));
        assert_eq!(monitor.page(&vcpu).request, 0);
    }
}

#[test]
fn exits_leave_nothing_of_the_one_before() {
    let mut monitor = monitor();
    let (_vm, vcpu) = monitor.guest();
    monitor.start(&vcpu).unwrap();
    assert_eq!(monitor.run(&vcpu, OUT), Ok(OUT));
    assert_eq!(monitor.run(&vcpu, Exit::Halt), Ok(Exit::Halt));
    assert_eq!(monitor.run(&vcpu, Exit::TripleFault), Ok(Exit::TripleFault));
}
