//! Implementation of [`VendorVcpu`] for SVM.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use hvt_abi::{
    kernel::{Exit, Io, VcpuState},
    x86_64::Registers,
};

use super::{
    check::check,
    vcpu::SvmVcpu,
    vmcb::{Clean, event, tlb_control},
};
use crate::{
    arch::{Binding, ExitResult, FpuOwner},
    host::Host,
    memory::ReadMemory,
    x86_64::{context::Context, cpu::CpuState, error::BindError, vendor::VendorVcpu},
};

impl<H: Host> VendorVcpu<H> for SvmVcpu<H> {
    #[inline]
    unsafe fn bind(&mut self, cpu: &mut CpuState<H>, binding: &Binding) -> Result<(), BindError> {
        // SAFETY: guaranteed by the caller.
        unsafe { self.prepare(cpu, binding) };
        Ok(())
    }

    /// The last exit has restored all state.
    #[inline]
    unsafe fn unbind(&mut self) {}

    #[inline]
    unsafe fn step(&mut self, cpu: &mut CpuState<H>, memory: &dyn ReadMemory, fpu: FpuOwner) -> Result<Io, ExitResult> {
        if self.unchecked {
            if let Err(failure) = check(self.vmcb(), self.offer.cr4, self.capabilities.physical_address_bits) {
                return Err(ExitResult::Exit(Exit::EntryFailure(failure)));
            }
            self.unchecked = false;
        }
        // SAFETY: the state has been checked, or comes from the CPU and from emulation, which
        // produces only valid state. The caller guarantees the other requirements.
        unsafe { self.enter(fpu) };
        let control = &mut self.vmcb_mut().control;
        if control.tlb_control == tlb_control::FLUSH_ALL {
            control.tlb_control = tlb_control::NOTHING;
            cpu.tags.flushed();
        }
        control.event_injection = interrupted_delivery(control.exit_int_info);
        if self.capabilities.clean_bits {
            self.vmcb_mut().control.clean = Clean::all().bits();
        }
        self.port_access().ok_or_else(|| self.handle(memory))
    }

    fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    fn registers(&self) -> Registers {
        self.general_registers()
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.set_general_registers(registers);
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.write_state(state);
    }

    unsafe fn state(&self) -> VcpuState {
        self.read_state()
    }
}

/// Returns the event whose delivery the exit interrupted, for injection at the next entry. The
/// software exceptions `int`, `int3` and `into` are not injected, because their instruction
/// executes again (APM volume 2, 15.7.2).
#[inline]
fn interrupted_delivery(exit_int_info: u64) -> u64 {
    const BREAKPOINT: u64 = 3;
    const OVERFLOW: u64 = 4;
    if exit_int_info & event::VALID == 0 {
        return 0;
    }
    let again = match exit_int_info & event::TYPE {
        event::NMI => true,
        event::EXCEPTION => !matches!(exit_int_info & event::VECTOR, BREAKPOINT | OVERFLOW),
        _ => false,
    };
    if again { exit_int_info } else { 0 }
}
