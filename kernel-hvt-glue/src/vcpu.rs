//! A virtual CPU, and the two ways to run it.

use alloc::sync::Arc;
use core::fmt;

use hvt_abi::kernel::{Exit, Io};

use crate::{
    arch::{Arch, Binding, FpuOwner, Step},
    host::{Host, OutOfMemory},
    hypervisor::{Cpu, Shared},
    native,
    vm::Vm,
};

/// Reason why a virtual CPU cannot run here. It was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError<E = native::BindError> {
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
    /// The [`Vm`] is not the one that created the virtual CPU.
    #[error("the virtual CPU belongs to another VM")]
    WrongVm,
    /// The virtualization extension refuses.
    #[error(transparent)]
    Machine(E),
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

/// A virtual CPU: the guest's registers, and the control structure that enters it. It is tied to no CPU while it does
/// not run, and may run on another one each time.
///
/// It is *runnable* until it exits for a reason that [`Exit::is_final`] calls final. From then on it has *ended*:
/// running it again answers the same exit and enters nothing.
pub struct Vcpu<H: Host, A: Arch<H> = native::Machine<H>> {
    shared: Arc<Shared<H, A>>,
    vm: u64,
    state: A::Vcpu,
    ended: Option<Exit>,
}

impl<H: Host, A: Arch<H>> Vm<H, A> {
    /// A virtual CPU that will start in `state`: a [`VcpuState`](hvt_abi::kernel::VcpuState), or where a unikernel starts
    /// ([`EntryState`](hvt_abi::native::EntryState)).
    ///
    /// # Errors
    /// No frame for its control structure.
    pub fn create_vcpu(&self, state: impl Into<A::State>) -> Result<Vcpu<H, A>, OutOfMemory> {
        let Shared { host, arch } = &*self.shared;
        let state = arch.new_vcpu(host, self.root(), &state.into())?;
        Ok(Vcpu { shared: self.shared.clone(), vm: self.id(), state, ended: None })
    }
}

impl<H: Host, A: Arch<H>> Vcpu<H, A> {
    /// Runs the guest until it exits: [`bind`](Self::bind) and [`Bound::run`] in one.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn run(&mut self, cpu: &mut Cpu<H, A>, vm: &Vm<H, A>) -> Result<Exit, BindError<A::BindError>> {
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
    pub fn bind<'a>(
        &'a mut self,
        cpu: &'a mut Cpu<H, A>,
        vm: &'a Vm<H, A>,
    ) -> Result<Bound<'a, H, A>, BindError<A::BindError>> {
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
        cpu: &'a mut Cpu<H, A>,
        vm: &'a Vm<H, A>,
    ) -> Result<Bound<'a, H, A>, BindError<A::BindError>> {
        self.check(cpu, vm)?;
        // SAFETY: as in `bind`; for the FPU, the caller's promise.
        unsafe { self.bind_to(cpu, vm, FpuOwner::Guest) }
    }

    #[inline]
    fn check(&self, cpu: &Cpu<H, A>, vm: &Vm<H, A>) -> Result<(), BindError<A::BindError>> {
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
        cpu: &'a mut Cpu<H, A>,
        vm: &'a Vm<H, A>,
        fpu: FpuOwner,
    ) -> Result<Bound<'a, H, A>, BindError<A::BindError>> {
        let binding = Binding { cpu: cpu.index(), epoch: vm.epoch(), fpu };
        // SAFETY: `check` has passed.
        unsafe {
            cpu.admit(vm.id());
            self.shared.arch.bind(&mut self.state, &mut cpu.state, &binding).map_err(BindError::Machine)?;
        }
        Ok(Bound { vcpu: self, cpu, vm, binding })
    }

    /// The guest's general registers, with instruction pointer and flags.
    #[must_use]
    pub fn registers(&self) -> A::Registers {
        A::registers(&self.state)
    }

    /// Sets the guest's general registers, instruction pointer and flags. They are checked when the guest is next
    /// entered, and an exception that the guest was about to get is forgotten.
    pub fn set_registers(&mut self, registers: &A::Registers) {
        A::set_registers(&mut self.state, registers);
    }

    /// Sets all of the guest's registers but those of FPU and debugging. They are checked when the guest is next entered,
    /// and an exception that the guest was about to get is forgotten.
    pub fn set_state(&mut self, state: &A::State) {
        A::set_state(&mut self.state, state);
    }

    /// Puts the answer to an access that reads into the guest's registers: `size` bytes of `value`.
    pub(crate) fn complete_read(&mut self, size: u8, value: u32) {
        let mut registers = self.registers();
        A::complete_read(&mut registers, size, value);
        self.set_registers(&registers);
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

impl<H: Host, A: Arch<H>> fmt::Debug for Vcpu<H, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("vm", &self.vm).field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// A virtual CPU that is ready to run on this CPU. See [`Vcpu::bind`].
pub struct Bound<'a, H: Host, A: Arch<H> = native::Machine<H>> {
    vcpu: &'a mut Vcpu<H, A>,
    cpu: &'a mut Cpu<H, A>,
    vm: &'a Vm<H, A>,
    binding: Binding,
}

impl<H: Host, A: Arch<H>> Bound<'_, H, A> {
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
        let Self { vcpu, cpu, vm, binding } = self;
        let Shared { host, arch } = &*vcpu.shared;
        let state = &mut vcpu.state;
        // SAFETY: bound to this CPU, which the caller has not left since; `vm` has been checked.
        let exit = enter_repeatedly(|| unsafe { arch.step(state, &mut cpu.state, binding, host, *vm) });
        if exit.is_final() {
            self.vcpu.ended = Some(exit);
        }
        exit
    }

    /// [`Vcpu::registers`]
    #[must_use]
    pub fn registers(&self) -> A::Registers {
        self.vcpu.registers()
    }

    /// All of the guest's registers but those of FPU and debugging.
    #[must_use]
    pub fn state(&self) -> A::State {
        // SAFETY: bound to this CPU, which the caller has not left since.
        unsafe { A::state(&self.vcpu.state) }
    }

    /// [`Vcpu::set_registers`]
    pub fn set_registers(&mut self, registers: &A::Registers) {
        self.vcpu.set_registers(registers);
    }
}

impl<H: Host, A: Arch<H>> Drop for Bound<'_, H, A> {
    #[inline]
    fn drop(&mut self) {
        let Self { vcpu, cpu, binding, .. } = self;
        // SAFETY: it was bound to this CPU, which the caller has not left since.
        unsafe { vcpu.shared.arch.unbind(&mut vcpu.state, &mut cpu.state, binding) };
    }
}

impl<H: Host, A: Arch<H>> fmt::Debug for Bound<'_, H, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vcpu.fmt(f)
    }
}

#[cfg(test)]
pub(crate) mod tests;
