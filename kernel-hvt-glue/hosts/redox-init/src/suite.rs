//! Implementation of the conformance table's `Machine` trait for this process.

use alloc::string::String;

use hvt_abi::kernel::Capabilities;
use hvt_core::kernel::{Calls, Hypervisor};
use hvt_harness::suite::{Guest, Machine, Patience, Ran};
use raw_cpuid::{CpuId, Hypervisor as Above};
use test_suite::Ability;

use crate::{
    fd,
    hypervisor::{self, Kernel},
    memory::PAGE_SIZE,
    unikernel::{Setup, Unikernel},
};

/// Nanoseconds after which a guest that should exit times out: five minutes.
pub(crate) const LIMIT: u64 = 300_000_000_000;
/// Timeout of a guest that should not exit: half a second.
const ENDLESS: u64 = 500_000_000;
/// Guest memory in bytes that only a machine with [`Ability::FourGib`] has.
const FOUR_GIB: u64 = 4 << 30;

/// Runner of unikernels.
pub(crate) struct Runner<C: Calls = Kernel> {
    pub(crate) hypervisor: Hypervisor<C>,
    pub(crate) capabilities: Capabilities,
}

impl Runner {
    /// Opens the hypervisor.
    ///
    /// # Errors
    /// Returns the reason that it cannot run guests.
    pub(crate) fn new() -> Result<Self, String> {
        Self::with(Kernel)
    }
}

impl<C: Calls> Runner<C> {
    /// Opens the hypervisor with the given calls.
    ///
    /// # Errors
    /// Returns the reason that it cannot run guests.
    pub(crate) fn with(calls: C) -> Result<Self, String> {
        let hypervisor = hypervisor::open_with(calls)?;
        let capabilities = hypervisor.capabilities().map_err(|error| alloc::format!("{error}"))?;
        Ok(Self { hypervisor, capabilities })
    }
}

impl<C: Calls + Clone> Machine for Runner<C> {
    fn can(&self, ability: Ability) -> bool {
        match ability {
            Ability::ExecuteOnly => self.capabilities.execute_only != 0,
            Ability::FourGib => {
                let free = fd::free_frames().unwrap_or(0) * PAGE_SIZE as u64;
                free > FOUR_GIB + (64 << 20) && self.capabilities.pinned_limit >= FOUR_GIB
            }
            Ability::ExactExceptions => {
                !CpuId::new().get_hypervisor_info().is_some_and(|info| info.identify() == Above::QEMU)
            }
            Ability::AnsweredCpuid | Ability::InterceptedHypervisorCalls => true,
        }
    }

    fn run(&mut self, file: &[u8], guest: Guest<'_>) -> Result<Ran, String> {
        let Guest { memory, arguments, slots, wires, patience } = guest;
        let limit = if patience == Patience::Short { ENDLESS } else { LIMIT };
        let mut unikernel = Unikernel::load(&self.hypervisor, file, Setup { memory, arguments, slots, wires, limit })?;
        let outcome = unikernel.run()?;
        Ok(Ran { outcome, transcript: unikernel.transcript(), counts: unikernel.counts() })
    }
}
