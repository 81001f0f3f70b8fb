//! A virtual CPU, and the two ways to run it.

use hvt_abi::{kernel::Exit, x86_64::Registers};

use crate::{Vm, host::Host, hypervisor::Cpu};

/// Why a virtual CPU cannot run here.
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
    /// The [`Vm`] is not the one that created the virtual CPU.
    #[error("the virtual CPU belongs to another VM")]
    WrongVm,
}

/// A virtual CPU: the guest's registers and the control structure that enters it. It belongs to no CPU while it does
/// not run, and may run on another one each time.
pub struct Vcpu<H: Host> {
    host: core::marker::PhantomData<H>,
    registers: Registers,
}

impl<H: Host> Vcpu<H> {
    /// Runs the guest until it exits. Works in any kernel: the caller's FPU state is saved and restored each time.
    ///
    /// # Errors
    /// [`BindError`]; the guest was not entered.
    pub fn run(&mut self, cpu: &mut Cpu<H>, vm: &Vm<H>) -> Result<Exit, BindError> {
        let _ = (cpu, vm);
        Err(BindError::WrongVm)
    }

    /// Puts the guest's state on this CPU, for many runs in a row that need not swap it each time: FPU, debug and
    /// system-call registers are the guest's until the [`Bound`] is dropped, which brings the caller's back.
    ///
    /// # Errors
    /// [`BindError`]; nothing was changed.
    ///
    /// # Safety
    /// Until the [`Bound`] is dropped the caller stays on this CPU, and no code that runs on its behalf uses
    /// floating-point or vector registers: the kernel is compiled without them, or its scheduler and interrupt handlers save and
    /// restore them, `XCR0` permitting, like those of a user process. The `Bound` is dropped, not forgotten.
    pub unsafe fn bind<'a>(&'a mut self, cpu: &'a mut Cpu<H>, vm: &'a Vm<H>) -> Result<Bound<'a, H>, BindError> {
        let _ = (self, cpu, vm);
        Err(BindError::WrongVm)
    }

    /// The guest's general registers, RIP and RFLAGS.
    #[must_use]
    pub fn registers(&self) -> Registers {
        self.registers
    }

    /// Sets the guest's general registers, RIP and RFLAGS; checked when the guest is next entered.
    pub fn set_registers(&mut self, registers: &Registers) {
        self.registers = *registers;
    }
}

/// A virtual CPU whose state is on the CPU.
pub struct Bound<'a, H: Host> {
    vcpu: &'a mut Vcpu<H>,
    cpu: &'a mut Cpu<H>,
    vm: &'a Vm<H>,
}

impl<H: Host> Bound<'_, H> {
    /// Runs the guest until it exits.
    pub fn run(&mut self) -> Exit {
        let _ = (&self.cpu, &self.vm);
        Exit::Interrupted
    }

    /// The guest's general registers, RIP and RFLAGS.
    #[must_use]
    pub fn registers(&self) -> Registers {
        self.vcpu.registers()
    }

    /// Sets the guest's general registers, RIP and RFLAGS; checked when the guest is next entered.
    pub fn set_registers(&mut self, registers: &Registers) {
        self.vcpu.set_registers(registers);
    }
}
