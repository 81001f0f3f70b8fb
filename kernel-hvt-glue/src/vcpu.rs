//! Virtual CPUs, and the two ways to run them.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use alloc::sync::Arc;
use core::fmt;

use hvt_abi::kernel::{Exit, Io};

use crate::{
    arch::{Arch, Binding, ExitResult, FpuOwner},
    host::{Host, OutOfMemory},
    hypervisor::{Cpu, Shared},
    native,
    vm::Vm,
};

/// Error of binding a virtual CPU. The guest was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError<E = native::BindError> {
    /// The [`Cpu`] belongs to another CPU than the current one.
    #[error("wrong CPU: running on CPU {current}, but the handle belongs to CPU {enabled}")]
    WrongCpu {
        /// Number of the current CPU.
        current: u32,
        /// Number of the CPU to which the [`Cpu`] belongs.
        enabled: u32,
    },
    /// The [`Cpu`] was enabled by another [`Hypervisor`](crate::Hypervisor).
    #[error("the CPU was enabled through another hypervisor")]
    OtherHypervisor,
    /// The [`Vm`] is not the one that created the virtual CPU.
    #[error("the virtual CPU belongs to another VM")]
    WrongVm,
    /// The virtualization extension reported an error.
    #[error(transparent)]
    Machine(E),
}

/// Enters a guest with `step` until the monitor must handle an exit, or until interrupts must be
/// taken. The second result of `step` is `true` if interrupts were enabled when it returned.
#[inline(always)]
fn enter_repeatedly(mut step: impl FnMut() -> (Result<Io, ExitResult>, bool)) -> Exit {
    loop {
        let (result, takes_interrupts) = step();
        match result {
            Ok(io) => return Exit::Io(io),
            Err(ExitResult::Again) => {}
            Err(ExitResult::Interrupted) if takes_interrupts => {}
            Err(ExitResult::Interrupted) => return Exit::Interrupted,
            Err(ExitResult::Exit(exit)) => return exit,
        }
    }
}

/// Virtual CPU: the guest's registers, and the control structure for entering the guest. While it
/// is not bound, it is not tied to a CPU, and each binding may use another CPU.
///
/// A virtual CPU is *runnable* until it exits with a final reason ([`Exit::is_final`]). After that
/// it has *ended*: every further run returns the same exit without entering the guest.
pub struct Vcpu<H: Host, A: Arch<H> = native::Machine<H>> {
    shared: Arc<Shared<H, A>>,
    vm: u64,
    state: A::Vcpu,
    ended: Option<Exit>,
}

impl<H: Host, A: Arch<H>> Vm<H, A> {
    /// Creates a virtual CPU that starts in `state`: a [`VcpuState`](hvt_abi::kernel::VcpuState),
    /// or the entry state of a unikernel ([`EntryState`](hvt_abi::native::EntryState)).
    ///
    /// # Errors
    /// Returns [`OutOfMemory`] if the kernel has no frame for the control structure.
    pub fn create_vcpu(&self, state: impl Into<A::State>) -> Result<Vcpu<H, A>, OutOfMemory> {
        let Shared { host, arch } = &*self.shared;
        let state = arch.new_vcpu(host, self.root(), &state.into())?;
        Ok(Vcpu { shared: self.shared.clone(), vm: self.id(), state, ended: None })
    }
}

impl<H: Host, A: Arch<H>> Vcpu<H, A> {
    /// Runs the guest until it exits: [`bind`](Self::bind) followed by [`Bound::run`].
    ///
    /// # Errors
    /// Returns [`BindError`] if the virtual CPU cannot run on this CPU.
    pub fn run(&mut self, cpu: &mut Cpu<H, A>, vm: &Vm<H, A>) -> Result<Exit, BindError<A::BindError>> {
        Ok(self.bind(cpu, vm)?.run())
    }

    /// Prepares this CPU for many runs in a row. This method is correct in every kernel: it swaps
    /// the FPU state of the current thread for the guest's at every entry, and back at every exit,
    /// whether or not the kernel's own code uses those registers.
    ///
    /// While the [`Bound`] exists, the kernel may take interrupts, but must not run another thread
    /// on this CPU. [`Host::wants_cpu`] is the means to end the run for a thread switch.
    ///
    /// # Errors
    /// Returns [`BindError`] if the virtual CPU cannot run on this CPU.
    pub fn bind<'a>(
        &'a mut self,
        cpu: &'a mut Cpu<H, A>,
        vm: &'a Vm<H, A>,
    ) -> Result<Bound<'a, H, A>, BindError<A::BindError>> {
        self.check(cpu, vm)?;
        // SAFETY: a `Cpu` exists only while the extension is enabled, and `check` requires the
        // current CPU; the FPU state is swapped at every entry.
        unsafe { self.bind_to(cpu, vm, FpuOwner::Kernel) }
    }

    /// Prepares this CPU for many runs, in a kernel that does not use the FPU. The guest's FPU
    /// state stays in the registers until the [`Bound`] is dropped. Dropping it restores the
    /// previous state, for example a user process's.
    ///
    /// # Errors
    /// Returns [`BindError`] if the virtual CPU cannot run on this CPU.
    ///
    /// # Safety
    /// The caller must drop the `Bound` and must not leak it. Until then, no code on this CPU may
    /// use floating-point or vector registers. A kernel that is compiled without them meets this
    /// requirement; an interrupt handler that uses them must save and restore them.
    #[inline]
    pub unsafe fn bind_keeping_fpu<'a>(
        &'a mut self,
        cpu: &'a mut Cpu<H, A>,
        vm: &'a Vm<H, A>,
    ) -> Result<Bound<'a, H, A>, BindError<A::BindError>> {
        self.check(cpu, vm)?;
        // SAFETY: as in `bind`; the caller guarantees the requirements for the FPU.
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

    /// Always inlined: if every exit leads back to the monitor, the `Bound` is dropped at once.
    ///
    /// # Safety
    /// `check` must have passed. With [`FpuOwner::Guest`], the requirements of
    /// [`bind_keeping_fpu`](Self::bind_keeping_fpu) apply.
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

    /// Returns the guest's general registers, with instruction pointer and flags.
    #[must_use]
    pub fn registers(&self) -> A::Registers {
        A::registers(&self.state)
    }

    /// Sets the guest's general registers, instruction pointer and flags. The next entry checks
    /// them. A pending exception of the guest is discarded.
    pub fn set_registers(&mut self, registers: &A::Registers) {
        A::set_registers(&mut self.state, registers);
    }

    /// Sets all of the guest's registers except FPU and debug registers. The next entry checks
    /// them. A pending exception of the guest is discarded.
    pub fn set_state(&mut self, state: &A::State) {
        A::set_state(&mut self.state, state);
    }

    /// Completes a read exit: writes `size` bytes of `value` to the guest's registers.
    pub(crate) fn complete_read(&mut self, size: u8, value: u32) {
        let mut registers = self.registers();
        A::complete_read(&mut registers, size, value);
        self.set_registers(&registers);
    }

    /// Records the end of the virtual CPU if `exit` is final, as [`Bound::run`] does.
    #[cfg(test)]
    pub(crate) fn end_with(&mut self, exit: Exit) {
        self.ended = self.ended.or(exit.is_final().then_some(exit));
    }

    /// Returns the exit that ended the guest, if any.
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

/// A virtual CPU that is bound to the current CPU. See [`Vcpu::bind`].
pub struct Bound<'a, H: Host, A: Arch<H> = native::Machine<H>> {
    vcpu: &'a mut Vcpu<H, A>,
    cpu: &'a mut Cpu<H, A>,
    vm: &'a Vm<H, A>,
    binding: Binding,
}

impl<H: Host, A: Arch<H>> Bound<'_, H, A> {
    /// Runs the guest until it exits.
    ///
    /// Exits that do not concern the monitor are handled internally, and the guest continues until
    /// the kernel reclaims the CPU ([`Host::wants_cpu`]). If the caller has interrupts enabled,
    /// interrupts are taken in between; if not, an interrupt ends the run.
    #[inline]
    pub fn run(&mut self) -> Exit {
        if let Some(exit) = self.vcpu.ended {
            return exit;
        }
        let Self { vcpu, cpu, vm, binding } = self;
        let Shared { host, arch } = &*vcpu.shared;
        let state = &mut vcpu.state;
        // SAFETY: bound to this CPU, and the caller has not left it since; `vm` has been checked.
        let exit = enter_repeatedly(|| unsafe { arch.step(state, &mut cpu.state, binding, host, *vm) });
        if exit.is_final() {
            self.vcpu.ended = Some(exit);
        }
        exit
    }

    /// See [`Vcpu::registers`].
    #[must_use]
    pub fn registers(&self) -> A::Registers {
        self.vcpu.registers()
    }

    /// Returns all of the guest's registers except FPU and debug registers.
    #[must_use]
    pub fn state(&self) -> A::State {
        // SAFETY: bound to this CPU, and the caller has not left it since.
        unsafe { A::state(&self.vcpu.state) }
    }

    /// See [`Vcpu::set_registers`].
    pub fn set_registers(&mut self, registers: &A::Registers) {
        self.vcpu.set_registers(registers);
    }
}

impl<H: Host, A: Arch<H>> Drop for Bound<'_, H, A> {
    #[inline]
    fn drop(&mut self) {
        let Self { vcpu, cpu, binding, .. } = self;
        // SAFETY: bound to this CPU, and the caller has not left it since.
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
