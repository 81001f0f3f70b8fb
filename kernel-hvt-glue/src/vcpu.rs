//! A virtual CPU, and the two ways to run it.

use alloc::{boxed::Box, sync::Arc};
use core::fmt;

use hvt_abi::{
    kernel::{Exit, Io, VcpuState},
    x86_64::Registers,
};

use crate::{
    Vm,
    host::{Host, Hpa, OutOfMemory},
    hypervisor::{Cpu, Extension, Shared, Technology},
    x86_64::{fpu, privileged::InterruptFlag, svm::vcpu::SvmVcpu, vmx::vcpu::VmxVcpu},
};

/// Why a virtual CPU cannot run here. It was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The [`Cpu`] is that of another CPU than the caller's.
    #[error("this is CPU {current}, but CPU {enabled} was named")]
    WrongCpu {
        /// The CPU this runs on.
        current: u32,
        /// The CPU named.
        enabled: u32,
    },
    /// The [`Cpu`] was enabled through another [`Hypervisor`](crate::Hypervisor).
    #[error("the CPU was enabled through another hypervisor")]
    OtherHypervisor,
    /// VMX: the virtual CPU was bound to another CPU and the [`Bound`] forgotten instead of dropped.
    #[error("the virtual CPU is still tied to CPU {cpu}")]
    ActiveElsewhere {
        /// That CPU.
        cpu: u32,
    },
    /// VMX: a selector of the kernel that a VM exit cannot load, not of ring 0 or in the LDT. Load a null selector
    /// before.
    #[error("the kernel's {register} is {selector:#x}, which a VM exit cannot load")]
    HostSelector {
        /// The segment register.
        register: &'static str,
        /// What is in it.
        selector: u16,
    },
    /// VMX: the CPU does not take the control structure, an error of this crate or of the kernel's memory.
    #[error("the CPU does not take the VMCS")]
    ControlStructure,
    /// The [`Vm`] is not the one that created the virtual CPU.
    #[error("the virtual CPU belongs to another VM")]
    WrongVm,
}

/// What has become of an exit that was no access to a port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is dealt with: enter the guest again.
    Again,
    /// Interrupts have to be taken before the guest is entered again: one is there, an NMI was and the kernel has handled
    /// it, or an exception was raised again ([`raised_again`](Self::raised_again)).
    Interrupted,
    /// The monitor has to know.
    Exit(Exit),
}

impl Step {
    /// An exception of the guest's has left it and is raised again at the next entry. Its delivery may make the next one
    /// leave before any instruction, and so on for ever (CVE-2015-8104: a data breakpoint where the frame of #DB is
    /// pushed), in which no interrupt would be taken.
    pub(crate) const fn raised_again() -> Self {
        Self::Interrupted
    }
}

/// Enters a guest with `step` until the monitor has to know, or interrupts have to be taken. `step` also tells whether
/// interrupts were enabled when it returned.
#[inline(always)]
fn enter_repeatedly(mut step: impl FnMut() -> (Result<Io, Step>, bool)) -> Exit {
    loop {
        let (result, takes_interrupts) = step();
        match result {
            Ok(io) => return Exit::Io(io),
            Err(Step::Again) => {}
            Err(Step::Interrupted) if takes_interrupts => {}
            Err(Step::Interrupted) => return Exit::Interrupted,
            Err(Step::Exit(exit)) => return exit,
        }
    }
}

/// Whose FPU state is on the CPU when the guest is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FpuOwner {
    /// The kernel's: it has to be swapped at every entry and exit.
    Kernel,
    /// The guest's.
    Guest,
}

/// A virtual CPU: the guest's registers, and the control structure that enters it. It is tied to no CPU while it does
/// not run, and may run on another one each time.
///
/// It is *runnable* until it exits for a reason that [`Exit::is_final`] calls final. From then on it has *ended*:
/// running it again answers the same exit and enters nothing.
pub struct Vcpu<H: Host> {
    shared: Arc<Shared<H>>,
    vm: u64,
    machine: Machine<H>,
    ended: Option<Exit>,
}

/// The vendor's part of a [`Vcpu`].
enum Machine<H: Host> {
    Svm(Box<SvmVcpu<H>>),
    Vmx(Box<VmxVcpu<H>>),
}

impl<H: Host> Vcpu<H> {
    pub(crate) fn new(shared: &Arc<Shared<H>>, vm: u64, root: Hpa, state: &VcpuState) -> Result<Self, OutOfMemory> {
        let machine = match &shared.technology {
            Technology::Svm(svm, maps) => Machine::Svm(Box::new(SvmVcpu::new(shared, *svm, maps, root, state)?)),
            Technology::Vmx(vmx, bitmap) => {
                Machine::Vmx(Box::new(VmxVcpu::new(shared, *vmx, bitmap.base(), root, state)?))
            }
        };
        Ok(Self { shared: shared.clone(), vm, machine, ended: None })
    }

    /// Runs the guest until it exits: [`bind`](Self::bind) and [`Bound::run`] in one.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn run(&mut self, cpu: &mut Cpu<H>, vm: &Vm<H>) -> Result<Exit, BindError> {
        Ok(self.bind(cpu, vm)?.run())
    }

    /// Prepares this CPU for many runs in a row. Right in any kernel: the FPU state of whoever runs the guest is swapped
    /// for the guest's at every entry and back at every exit, whether or not the kernel's own code uses those registers.
    ///
    /// While the [`Bound`] exists, the kernel may take interrupts, but runs no other thread on this CPU: that is what
    /// [`Host::wants_cpu`] is for.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind<'a>(&'a mut self, cpu: &'a mut Cpu<H>, vm: &'a Vm<H>) -> Result<Bound<'a, H>, BindError> {
        self.check(cpu, vm)?;
        // SAFETY: a `Cpu` exists where its extension is enabled, which is here; the FPU is swapped at every entry.
        unsafe { self.bind_to(cpu, vm, FpuOwner::Kernel) }
    }

    /// The same, for a kernel that leaves the FPU alone: the guest's state stays in the registers until the [`Bound`] is
    /// dropped, which brings back what was there before (that of a user process, say).
    ///
    /// # Errors
    /// [`BindError`].
    ///
    /// # Safety
    /// Until the `Bound` is dropped, which must not be forgotten, no code on this CPU uses floating-point or vector
    /// registers as its own. That holds where the kernel is compiled without them; an interrupt handler that does use
    /// them saves and restores them.
    #[inline]
    pub unsafe fn bind_keeping_fpu<'a>(
        &'a mut self,
        cpu: &'a mut Cpu<H>,
        vm: &'a Vm<H>,
    ) -> Result<Bound<'a, H>, BindError> {
        self.check(cpu, vm)?;
        // SAFETY: as in `bind`; for the FPU, the caller's promise.
        unsafe { self.bind_to(cpu, vm, FpuOwner::Guest) }
    }

    #[inline]
    fn check(&self, cpu: &Cpu<H>, vm: &Vm<H>) -> Result<(), BindError> {
        let current = self.shared.host.cpu_index();
        if current != cpu.index() {
            return Err(BindError::WrongCpu { current, enabled: cpu.index() });
        }
        if !Arc::ptr_eq(&self.shared, &cpu.shared) {
            return Err(BindError::OtherHypervisor);
        }
        if vm.id() != self.vm {
            return Err(BindError::WrongVm);
        }
        Ok(())
    }

    /// Always in line: what it makes is taken apart again at once where every exit leads back to the monitor.
    ///
    /// # Safety
    /// `check` has passed; with [`FpuOwner::Guest`], as for [`bind_keeping_fpu`](Self::bind_keeping_fpu).
    #[inline(always)]
    unsafe fn bind_to<'a>(
        &'a mut self,
        cpu: &'a mut Cpu<H>,
        vm: &'a Vm<H>,
        fpu: FpuOwner,
    ) -> Result<Bound<'a, H>, BindError> {
        // SAFETY: `check` has passed.
        unsafe {
            let binding = cpu.admit(vm);
            let tags = &mut cpu.tags;
            match (&mut self.machine, &*cpu.extension) {
                (Machine::Svm(svm), Extension::Svm(cpu)) => svm.bind(cpu, tags, &binding),
                (Machine::Vmx(vmx), Extension::Vmx(cpu)) => vmx.bind(cpu, tags, &binding)?,
                _ => return Err(BindError::OtherHypervisor),
            }
            if fpu == FpuOwner::Guest {
                fpu::load_with_interrupts_off(self.context());
            }
        }
        Ok(Bound { vcpu: self, cpu, vm, fpu })
    }

    #[inline]
    fn context(&mut self) -> &mut crate::x86_64::context::Context {
        match &mut self.machine {
            Machine::Svm(svm) => svm.context(),
            Machine::Vmx(vmx) => vmx.context(),
        }
    }

    /// The guest's general registers, RIP and RFLAGS.
    #[must_use]
    pub fn registers(&self) -> Registers {
        match &self.machine {
            Machine::Svm(svm) => svm.registers(),
            Machine::Vmx(vmx) => vmx.registers(),
        }
    }

    /// Sets the guest's general registers, RIP and RFLAGS. They are checked when the guest is next entered, and an
    /// exception that the guest was about to get is forgotten.
    pub fn set_registers(&mut self, registers: &Registers) {
        match &mut self.machine {
            Machine::Svm(svm) => svm.set_registers(registers),
            Machine::Vmx(vmx) => vmx.set_registers(registers),
        }
    }

    /// Sets all of the guest's registers but FPU, debug registers and XCR0. They are checked when the guest is next
    /// entered, and an exception that the guest was about to get is forgotten.
    pub fn set_state(&mut self, state: &VcpuState) {
        match &mut self.machine {
            Machine::Svm(svm) => svm.set_state(state),
            Machine::Vmx(vmx) => vmx.set_state(state),
        }
    }

    /// Ends it, if the exit does, as [`Bound::run`] would.
    #[cfg(test)]
    pub(crate) fn end_with(&mut self, exit: Exit) {
        self.ended = self.ended.or(exit.is_final().then_some(exit));
    }

    /// The exit that ended the guest, if one has.
    #[must_use]
    pub fn ended(&self) -> Option<Exit> {
        self.ended
    }
}

impl<H: Host> fmt::Debug for Vcpu<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("vm", &self.vm).field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// A virtual CPU that is ready to run on this CPU. See [`Vcpu::bind`].
pub struct Bound<'a, H: Host> {
    vcpu: &'a mut Vcpu<H>,
    cpu: &'a mut Cpu<H>,
    vm: &'a Vm<H>,
    fpu: FpuOwner,
}

impl<H: Host> Bound<'_, H> {
    /// Runs the guest until it exits.
    ///
    /// Exits of which the monitor need not know are dealt with here, and the guest goes on until the kernel wants the CPU
    /// back ([`Host::wants_cpu`]). Interrupts that come meanwhile are taken if the caller has them enabled, and end the
    /// run if not.
    #[inline]
    pub fn run(&mut self) -> Exit {
        if let Some(exit) = self.vcpu.ended {
            return exit;
        }
        let Self { vm, fpu, .. } = *self;
        let exit = enter_repeatedly(|| {
            // SAFETY: bound to this CPU, which the caller has not left since; `vm` has been checked. Interrupts are off
            // from the kernel's last word to the entry, and back to what they were when the exit has been dealt with:
            // there, those that made the guest exit are taken.
            unsafe {
                let interrupts = InterruptFlag::clear();
                let result = match &mut self.vcpu.machine {
                    _ if self.vcpu.shared.host.wants_cpu() => Err(Step::Exit(Exit::Interrupted)),
                    Machine::Svm(svm) => svm.step(&mut self.cpu.tags, vm, fpu),
                    Machine::Vmx(vmx) => vmx.step(fpu),
                };
                (result, interrupts.restore())
            }
        });
        if exit.is_final() {
            self.vcpu.ended = Some(exit);
        }
        exit
    }

    /// [`Vcpu::registers`]
    #[must_use]
    pub fn registers(&self) -> Registers {
        self.vcpu.registers()
    }

    /// All of the guest's registers but FPU, debug registers and XCR0.
    #[must_use]
    pub fn state(&self) -> VcpuState {
        match &self.vcpu.machine {
            Machine::Svm(svm) => svm.state(),
            // SAFETY: bound to this CPU, which the caller has not left since.
            Machine::Vmx(vmx) => unsafe { vmx.state() },
        }
    }

    /// [`Vcpu::set_registers`]
    pub fn set_registers(&mut self, registers: &Registers) {
        self.vcpu.set_registers(registers);
    }
}

impl<H: Host> Drop for Bound<'_, H> {
    #[inline]
    fn drop(&mut self) {
        if self.fpu == FpuOwner::Guest {
            // SAFETY: `bind_keeping_fpu` has loaded it on this CPU.
            unsafe { fpu::unload_with_interrupts_off(self.vcpu.context()) };
        }
        if let Machine::Vmx(vmx) = &mut self.vcpu.machine {
            // SAFETY: it was bound to this CPU, which the caller has not left since.
            unsafe { vmx.unbind() };
        }
        // SAFETY: as above.
        unsafe { self.cpu.dismiss() };
    }
}

impl<H: Host> fmt::Debug for Bound<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vcpu.fmt(f)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Enters a guest whose exits a test makes up, on a CPU that has interrupts disabled.
    pub(crate) fn run_with_interrupts_off(mut handle: impl FnMut() -> Step) -> Exit {
        enter_repeatedly(|| (Err(handle()), false))
    }

    #[test]
    fn interrupts_are_taken_between_entries_or_end_the_run() {
        let steps = || [Step::Again, Step::Interrupted, Step::Exit(Exit::Halt)].into_iter();
        let run = |enabled| {
            let mut steps = steps();
            enter_repeatedly(|| (Err(steps.next().unwrap()), enabled))
        };
        assert_eq!((run(true), run(false)), (Exit::Halt, Exit::Interrupted));
    }

    /// A kernel whose handle may be sent and shared.
    #[derive(Clone)]
    struct Nowhere;

    // SAFETY: it has no frames to give.
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

    /// Whether a type is [`Send`]: the inherent constant wins where it applies.
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
}
