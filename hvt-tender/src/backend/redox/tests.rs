use super::*;
use crate::error_chain::ErrorChain;

use hvt_abi::kernel::{Direction, Exit as KernelExit, Io};
use hvt_abi::{Gpa, kernel};

use crate::memory::MappedMemory;
use hvt_core::kernel::fake::{Asked, FakeKernel};

fn start(kernel: &FakeKernel, stop: &CancelToken) -> RedoxMachine<FakeKernel, MappedMemory> {
    let memory = MappedMemory::anonymous(0x20_0000).unwrap();
    let (memory_map, entry) = (MemoryMap::new([]).unwrap(), EntryState::new(0x20_0000, Gpa(0x10_0000)));
    Redox::open(kernel.clone()).unwrap().start(memory, &memory_map, &entry, stop).unwrap()
}

fn walltime() -> KernelExit {
    KernelExit::Io(Io { port: 0x501, size: 4, direction: Direction::Out, string: false, value: 0x1000 })
}

#[test]
fn what_the_host_needed_the_cpu_for_is_no_exit() {
    let kernel = FakeKernel::new();
    let mut machine = start(&kernel, &CancelToken::new().unwrap());
    kernel.exits_with([KernelExit::Interrupted, KernelExit::Interrupted, walltime()]);
    assert_eq!(machine.run().unwrap(), Exit::Hypercall { number: 1, argument: Gpa(0x1000) });
    assert_eq!(machine.registers().unwrap().rip, 0x10_0000);
}

#[test]
fn a_stop_interrupts_the_guest_whenever_it_comes() {
    let kernel = FakeKernel::new();
    let stop = CancelToken::new().unwrap();
    let mut machine = start(&kernel, &stop);
    stop.request();
    assert_eq!(kernel.interrupts(), 1);
    kernel.exits_with([KernelExit::Interrupted]);
    assert_eq!(machine.run().unwrap(), Exit::Interrupted);
    // A stop that came first.
    drop(machine);
    let stop = CancelToken::new().unwrap();
    stop.request();
    let _machine = start(&kernel, &stop);
    assert_eq!(kernel.interrupts(), 2);
}

#[test]
fn missing_prerequisites_are_reported() {
    for (errno, words) in [
        (Errno(2), "this kernel has no hypervisor"),
        (Errno(kernel::redox::errno(KernelError::NotPermitted)), "as root"),
        (Errno(24), "opening the hypervisor"),
    ] {
        let kernel = FakeKernel::new();
        kernel.fail(Asked::Object(kernel::redox::PATH_IN_SYS), errno);
        let Err(unavailable) = Redox::open(kernel) else { panic!("{words}") };
        let text = ErrorChain::of(&unavailable).to_string();
        assert!(text.contains(words), "{text}");
    }
}
