//! Tests of virtual CPUs on a fake architecture.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use alloc::{boxed::Box, vec::Vec};

use hvt_abi::{
    Gpa, GuestRange,
    kernel::{Exit, Technology},
};

use super::*;
use crate::{
    arch::Capabilities,
    fake::{self, FakeHost},
    host::Hpa,
    hypervisor::Hypervisor,
    memory::ReadMemory,
    paging::AddressSpace,
};

/// Machine on which every entry ends in the same way.
struct Always {
    /// Returns the end of an entry.
    step: fn() -> Result<Io, ExitResult>,
    /// State of the kernel's interrupt flag.
    takes_interrupts: bool,
}

/// Virtual CPU of [`Always`]: its only register counts entries.
type Entries = u32;

impl Arch<FakeHost> for Always {
    type Registers = Entries;
    type State = Entries;
    type EnableError = OutOfMemory;
    type BindError = OutOfMemory;
    type Cpu = Vec<&'static str>;
    type Vcpu = Entries;

    fn capabilities(&self) -> Capabilities {
        Capabilities { technology: Technology::None, address_bits: 36, execute_only: false }
    }

    fn new_address_space(&self, host: &FakeHost) -> Result<Box<dyn AddressSpace>, OutOfMemory> {
        fake::hypervisor(host, |_| {})?.shared.arch.new_address_space(host)
    }

    fn new_vcpu(&self, _host: &FakeHost, _root: Hpa, state: &Entries) -> Result<Entries, OutOfMemory> {
        Ok(*state)
    }

    unsafe fn enable(&self, _host: &FakeHost) -> Result<Self::Cpu, OutOfMemory> {
        Ok(Vec::new())
    }

    unsafe fn disable(&self, cpu: Self::Cpu) {
        let bound = |what: &&&str| ***what == *"bind";
        let unbound = |what: &&&str| ***what == *"unbind";
        assert_eq!(cpu.iter().filter(bound).count(), cpu.iter().filter(unbound).count());
    }

    fn abandon(&self, _cpu: Self::Cpu) {
        panic!("there is one CPU");
    }

    unsafe fn change_vm(&self, cpu: &mut Self::Cpu) {
        cpu.push("change");
    }

    unsafe fn bind(&self, _vcpu: &mut Entries, cpu: &mut Self::Cpu, _binding: &Binding) -> Result<(), OutOfMemory> {
        cpu.push("bind");
        Ok(())
    }

    unsafe fn unbind(&self, _vcpu: &mut Entries, cpu: &mut Self::Cpu, _binding: &Binding) {
        cpu.push("unbind");
    }

    unsafe fn step(
        &self,
        vcpu: &mut Entries,
        _cpu: &mut Self::Cpu,
        _binding: &Binding,
        _host: &FakeHost,
        _memory: &dyn ReadMemory,
    ) -> (Result<Io, ExitResult>, bool) {
        *vcpu += 1;
        assert!(*vcpu < 100, "the kernel never gets its CPU back");
        ((self.step)(), self.takes_interrupts)
    }

    fn registers(vcpu: &Entries) -> Entries {
        *vcpu
    }

    fn set_registers(vcpu: &mut Entries, registers: &Entries) {
        *vcpu = *registers;
    }

    fn set_state(vcpu: &mut Entries, state: &Entries) {
        *vcpu = *state;
    }

    unsafe fn state(vcpu: &Entries) -> Entries {
        *vcpu
    }

    fn complete_read(registers: &mut Entries, _size: u8, value: u32) {
        *registers = value;
    }
}

/// Runs a guest twice on a machine where every entry ends with `step`. Returns its exits and its
/// number of entries.
fn run_twice(step: fn() -> Result<Io, ExitResult>, takes_interrupts: bool) -> ([Exit; 2], Entries) {
    let hypervisor = Hypervisor::assemble(FakeHost::new(8), Always { step, takes_interrupts });
    // SAFETY: this machine needs no privilege.
    let mut cpu = unsafe { hypervisor.enable().unwrap() };
    let vm = Vm::new(&hypervisor).unwrap();
    let mut vcpu = vm.create_vcpu(0_u32).unwrap();
    let exits = [0; 2].map(|_| vcpu.run(&mut cpu, &vm).unwrap());
    assert_eq!(*cpu.state, ["change", "bind", "unbind", "bind", "unbind"]);
    (exits, vcpu.registers())
}

#[test]
fn exceptions_without_end_give_the_cpu_back() {
    let (exits, entries) = run_twice(|| Err(ExitResult::raised_again()), false);
    assert_eq!((exits, entries), ([Exit::Interrupted; 2], 2));
}

#[test]
fn a_guest_that_has_ended_is_entered_no_more() {
    let (exits, entries) = run_twice(|| Err(ExitResult::Exit(Exit::TripleFault)), true);
    assert_eq!((exits, entries), ([Exit::TripleFault; 2], 1));
    let (exits, entries) = run_twice(|| Err(ExitResult::Exit(Exit::Halt)), true);
    assert_eq!((exits, entries), ([Exit::Halt; 2], 2));
}

#[test]
fn a_virtual_cpu_runs_with_its_own_machine_only() {
    let halt = || Always { step: || Err(ExitResult::Exit(Exit::Halt)), takes_interrupts: true };
    let host = FakeHost::new(16);
    let [hypervisor, other] = [0; 2].map(|_| Hypervisor::assemble(host.clone(), halt()));
    // SAFETY: this machine needs no privilege.
    let [mut cpu, mut others] = unsafe { [hypervisor.enable().unwrap(), other.enable().unwrap()] };
    let [mut vm, another] = [0; 2].map(|_| Vm::new(&hypervisor).unwrap());
    let mut vcpu = vm.create_vcpu(0_u32).unwrap();
    assert_eq!(vcpu.run(&mut others, &vm), Err(BindError::OtherHypervisor));
    assert_eq!(vcpu.run(&mut cpu, &another), Err(BindError::WrongVm));
    assert_eq!(vcpu.registers(), 0, "it was not entered");
    vm.allocate(GuestRange::new(Gpa(0), 0x1000).unwrap(), hvt_abi::Permissions::READ).unwrap();
    assert_eq!(vcpu.run(&mut cpu, &vm), Ok(Exit::Halt));
}

/// Enters a guest whose exits a test supplies, on a CPU with interrupts disabled.
pub(crate) fn run_with_interrupts_off(mut handle: impl FnMut() -> ExitResult) -> Exit {
    enter_repeatedly(|| (Err(handle()), false))
}

#[test]
fn interrupts_are_taken_between_entries_or_end_the_run() {
    let steps = || [ExitResult::Again, ExitResult::Interrupted, ExitResult::Exit(Exit::Halt)].into_iter();
    let run = |enabled| {
        let mut steps = steps();
        enter_repeatedly(|| (Err(steps.next().unwrap()), enabled))
    };
    assert_eq!((run(true), run(false)), (Exit::Halt, Exit::Interrupted));
}

/// Kernel whose handle is `Send` and `Sync`.
#[derive(Clone)]
struct Nowhere;

// SAFETY: the kernel has no frames.
unsafe impl Host for Nowhere {
    fn allocate(&self, _order: u32) -> Option<Hpa> {
        None
    }

    unsafe fn free(&self, _base: Hpa, _order: u32) {}

    fn phys_to_virt(&self, _hpa: Hpa) -> *mut u8 {
        core::ptr::null_mut()
    }

    fn cpu_index(&self) -> u32 {
        0
    }

    fn wants_cpu(&self) -> bool {
        true
    }
}

/// Tests whether a type is [`Send`]: the inherent constant takes precedence if its bound holds.
struct Probe<T>(core::marker::PhantomData<T>);

trait NotSend {
    const SEND: bool = false;
}

impl<T> NotSend for Probe<T> {}

impl<T: Send> Probe<T> {
    const SEND: bool = true;
}

#[test]
fn virtual_cpus_move_and_cpus_do_not() {
    const { assert!(Probe::<Vcpu<Nowhere>>::SEND && Probe::<Vm<Nowhere>>::SEND) };
    const { assert!(Probe::<crate::Hypervisor<Nowhere>>::SEND) };
    const { assert!(!Probe::<Cpu<Nowhere>>::SEND && !Probe::<Bound<'static, Nowhere>>::SEND) };
}
