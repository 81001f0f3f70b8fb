//! The Redox kernel's hypervisor: the guest runs on the CPU's own virtualization. The kernel is asked through
//! [`hvt_core::kernel`].

#![expect(unsafe_code, reason = "memory that the guest changes at any time")]

use std::io;

use hvt_abi::kernel::KernelError;
use hvt_abi::native::{EntryState, Registers};

use crate::Vcpu;
use crate::backend::{BackendError, CancelToken, Kick, Machine, Unavailable, UnavailableReason};
use crate::exit::Exit;
use crate::memory::{GuestMemory, HostMemory, MemoryMap};
pub(crate) use hvt_core::kernel::{Calls, Errno, Guest, Hypervisor, Interrupter, Refused};

/// Redox kernel's hypervisor on a machine that can run guests.
pub(crate) struct Redox<C: Calls>(Hypervisor<C>);

impl<C: Calls + Clone + Send + Sync + 'static> Redox<C>
where
    C::Handle: Send + Sync,
{
    /// Opens the hypervisor.
    ///
    /// # Errors
    /// Returns [`Unavailable`] if the kernel has no hypervisor, the user is not the superuser, or
    /// the machine cannot run guests.
    pub(crate) fn open(calls: C) -> Result<Self, Unavailable> {
        let unavailable = |reason| Unavailable { backend: "redox", reason };
        let hypervisor = Hypervisor::open(calls).map_err(|refused| unavailable(advice(refused)))?;
        match hypervisor.obstacle().map_err(|refused| unavailable(UnavailableReason::Refused(refused)))? {
            None => Ok(Self(hypervisor)),
            Some(obstacle) => Err(unavailable(UnavailableReason::Obstacle(obstacle))),
        }
    }

    /// Creates a guest of this memory at its entry point. `stop` ends its run.
    ///
    /// # Errors
    /// Returns [`BackendError`] if a kernel call fails.
    pub(crate) fn start<M: HostMemory>(
        self,
        memory: M,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<RedoxMachine<C, M>, BackendError> {
        // SAFETY: the machine owns the memory from now on, keeps it longer than the guest, and
        // accesses it only through chunks.
        let guest = unsafe { Guest::start(&self.0, memory.host_address(), memory.size(), memory_map, entry) };
        let guest = guest.map_err(error)?;
        let kick = Interrupt(guest.interrupter());
        if stop.requested() {
            // The request came before the kick was set.
            kick.kick();
        }
        stop.set_kick(Box::new(kick));
        Ok(RedoxMachine { guest, memory, stop: stop.clone() })
    }
}

/// Guest that runs on the Redox kernel's hypervisor.
pub(crate) struct RedoxMachine<C: Calls, M> {
    // Dropped first, because the guest changes the memory.
    guest: Guest<C>,
    memory: M,
    stop: CancelToken,
}

impl<C: Calls, M: HostMemory> Vcpu for RedoxMachine<C, M> {
    type Error = BackendError;

    fn run(&mut self) -> Result<Exit, BackendError> {
        loop {
            match self.guest.run().map_err(error)? {
                // The host needed the CPU for a moment.
                Exit::Interrupted if !self.stop.interrupts() => {}
                exit => return Ok(exit),
            }
        }
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn registers(&self) -> Result<Registers, BackendError> {
        self.guest.registers().map_err(error)
    }
}

impl<C: Calls, M: HostMemory> Machine for RedoxMachine<C, M> {}

struct Interrupt<C: Calls>(Interrupter<C>);

impl<C: Calls + Send + Sync> Kick for Interrupt<C>
where
    C::Handle: Send + Sync,
{
    fn kick(&self) {
        // Fails for a guest that has ended, which needs no interrupt.
        let _ = self.0.interrupt();
    }
}

fn error(refused: Refused) -> BackendError {
    let source = match refused.errno.meaning() {
        Some(meaning) => io::Error::other(meaning),
        None => io::Error::from_raw_os_error(refused.errno.0),
    };
    BackendError { what: refused.what, source }
}

/// Reason with the remedy, if there is one.
fn advice(refused: Refused) -> UnavailableReason {
    /// `ENOENT` and `ENODEV`: the scheme does not exist.
    const ABSENT: [Errno; 2] = [Errno(2), Errno(19)];
    match refused.errno {
        errno if ABSENT.contains(&errno) => UnavailableReason::NoHypervisor,
        errno if errno.meaning() == Some(KernelError::NotPermitted) => UnavailableReason::NotPermitted { refused },
        _ => UnavailableReason::Refused(refused),
    }
}

#[cfg(test)]
mod tests;
