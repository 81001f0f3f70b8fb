//! Implementation of [`VendorVcpu`] for VMX.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use hvt_abi::{
    kernel::{Exit, Io, VcpuState},
    x86_64::Registers,
};

use super::{
    exit::Running,
    fields,
    reason::failed_instruction,
    vcpu::VmxVcpu,
    vmcs::{Fields, Vmcs},
};
use crate::{
    arch::{Binding, ExitResult, FpuOwner},
    host::Host,
    memory::ReadMemory,
    x86_64::{context::Context, cpu::CpuState, error::BindError, vendor::VendorVcpu},
};

impl<H: Host> VendorVcpu<H> for VmxVcpu<H> {
    unsafe fn bind(&mut self, cpu: &mut CpuState<H>, binding: &Binding) -> Result<(), BindError> {
        // SAFETY: guaranteed by the caller.
        unsafe { self.tie(cpu, binding) }
    }

    unsafe fn unbind(&mut self) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.untie() };
    }

    #[inline]
    unsafe fn step(
        &mut self,
        _cpu: &mut CpuState<H>,
        _memory: &dyn ReadMemory,
        fpu: FpuOwner,
    ) -> Result<Io, ExitResult> {
        // SAFETY: guaranteed by the caller.
        let mut vmcs = unsafe { Vmcs::current() };
        if self.unchecked {
            if let Err(failure) = self.check() {
                return Err(ExitResult::Exit(Exit::EntryFailure(failure)));
            }
            vmcs.write(fields::GUEST_RSP, self.context.registers.rsp);
            vmcs.write(fields::GUEST_RFLAGS, self.context.registers.rflags);
            // Pending events belonged to the previous registers.
            vmcs.write(fields::ENTRY_INTERRUPTION_INFORMATION, 0);
            vmcs.write(fields::GUEST_INTERRUPTIBILITY_STATE, 0);
            self.unchecked = false;
        }
        if self.rip_moved {
            vmcs.write(fields::GUEST_RIP, self.context.registers.rip);
            self.rip_moved = false;
        }
        // SAFETY: the state has been checked, or comes from the CPU and from emulation, which
        // produces only valid state. The caller guarantees the other requirements.
        unsafe { self.enter(&mut vmcs, fpu) };
        if self.context.entry_failed != 0 {
            self.context.entry_failed = 0;
            return Err(ExitResult::Exit(failed_instruction(&vmcs)));
        }
        let registers = &mut self.context.registers;
        registers.rip = vmcs.read(fields::GUEST_RIP);
        registers.rsp = vmcs.read(fields::GUEST_RSP);
        registers.rflags = vmcs.read(fields::GUEST_RFLAGS);
        let mut running = Running { vcpu: self, vmcs };
        running.port_access().ok_or_else(|| running.handle())
    }

    fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    fn registers(&self) -> Registers {
        self.context.registers
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.set_general_registers(registers);
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.write_state(state);
    }

    unsafe fn state(&self) -> VcpuState {
        // SAFETY: guaranteed by the caller.
        unsafe { self.read_state() }
    }
}
