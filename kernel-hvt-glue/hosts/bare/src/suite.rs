//! Implementation of the conformance table's `Machine` trait for this kernel.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::{boxed::Box, string::String};

use hvt_harness::{
    monitor,
    suite::{Guest, Machine, Patience, Ran},
};
use raw_cpuid::{CpuId, Hypervisor};
use test_suite::Ability;
use x86_64::registers::model_specific::Msr;

use crate::{
    clock,
    host::Context,
    interrupts::{self, TIMER_HZ},
    memory::Usage,
    sleep::Sleeper,
    unikernel::Unikernel,
};

/// Timer ticks after which a guest that should exit times out: five minutes.
const LIMIT: u64 = 300 * TIMER_HZ as u64;
/// Timer ticks for a guest that should not exit: one second.
const ENDLESS: u64 = TIMER_HZ as u64;
/// Guest memory in bytes that only a machine with [`Ability::FourGib`] has.
const FOUR_GIB: u64 = 4 << 30;

impl Machine for Context<'_> {
    fn can(&self, ability: Ability) -> bool {
        /// IA32_VMX_EPT_VPID_CAP; bit 0 reports support for execute-only translations (SDM A.10).
        const VMX_EPT_VPID_CAP: u32 = 0x48c;
        let cpuid = CpuId::new();
        match ability {
            Ability::ExecuteOnly => {
                let vmx = cpuid.get_feature_info().is_some_and(|features| features.has_vmx());
                // SAFETY: every CPU that has VMX and runs guests here has EPT, and therefore this
                // MSR.
                vmx && unsafe { Msr::new(VMX_EPT_VPID_CAP).read() } & 1 != 0
            }
            Ability::FourGib => Usage::now().free_frames as u64 * hvt_bare::frames::FRAME_SIZE > FOUR_GIB + (64 << 20),
            Ability::ExactExceptions => {
                !cpuid.get_hypervisor_info().is_some_and(|info| info.identify() == Hypervisor::QEMU)
            }
            Ability::AnsweredCpuid | Ability::InterceptedHypervisorCalls => true,
        }
    }

    fn run(&mut self, file: &[u8], guest: Guest<'_>) -> Result<Ran, String> {
        let ticks = if guest.patience == Patience::Short { ENDLESS } else { LIMIT };
        let deadline = interrupts::ticks() + ticks;
        let config = monitor::Config {
            arguments: guest.arguments,
            slots: guest.slots,
            clock: Box::new(clock::get()),
            poller: Box::new(Sleeper::new(guest.wires, deadline)),
            cycle_frequency: clock::get().frequency(),
        };
        let mut unikernel = Unikernel::load(self.hypervisor, file, guest.memory, config, deadline)?;
        let outcome = unikernel.run(self.cpu)?;
        Ok(Ran { outcome, transcript: unikernel.transcript(), counts: unikernel.counts() })
    }
}
