//! A guest on the Redox kernel's hypervisor, for tenders that have an operating system's library.

use std::io;

use hvt_abi::kernel::Error as KernelError;
use hvt_abi::native::{EntryState, Registers};

use crate::Vcpu;
use crate::backend::{BackendError, CancelToken, Kick, Machine, Unavailable};
use crate::exit::Exit;
use crate::memory::{GuestMemory, HostMemory, MemoryMap};
use hvt_core::kernel::{Calls, Errno, Guest, Hypervisor, Interrupter, Refused};

/// The Redox kernel's hypervisor, on a machine that can run guests.
pub struct Redox<C: Calls>(Hypervisor<C>);

impl<C: Calls + Clone + Send + Sync + 'static> Redox<C>
where
    C::Handle: Send + Sync,
{
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has none, the user is not the superuser, or the machine cannot run guests.
    pub fn open(calls: C) -> Result<Self, Unavailable> {
        let unavailable = |reason: String| Unavailable { backend: "redox", reason };
        let hypervisor = Hypervisor::open(calls).map_err(|refused| unavailable(advice(refused)))?;
        match hypervisor.obstacle().map_err(|refused| unavailable(refused.to_string()))? {
            None => Ok(Self(hypervisor)),
            Some(obstacle) => Err(unavailable(obstacle.into())),
        }
    }

    /// Makes a guest of this memory, at its entry point. `stop` ends its run.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start<M: HostMemory>(
        self,
        memory: M,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<RedoxMachine<C, M>, BackendError> {
        // SAFETY: the memory is the machine's own from now on, which keeps it for longer than the guest, and is reached
        // through chunks alone.
        let guest = unsafe { Guest::start(&self.0, memory.host_address(), memory.size(), memory_map, entry) };
        let guest = guest.map_err(error)?;
        let kick = Interrupt(guest.interrupter());
        if stop.requested() {
            // It has found nothing to kick.
            kick.kick();
        }
        stop.set_kick(Box::new(kick));
        Ok(RedoxMachine { guest, memory, stop: stop.clone() })
    }
}

/// A guest that runs on the Redox kernel's hypervisor.
pub struct RedoxMachine<C: Calls, M> {
    // Goes first: it changes the memory.
    guest: Guest<C>,
    memory: M,
    stop: CancelToken,
}

impl<C: Calls, M: HostMemory> Vcpu for RedoxMachine<C, M> {
    type Error = BackendError;

    fn run(&mut self) -> Result<Exit, BackendError> {
        loop {
            match self.guest.run().map_err(error)? {
                // The host needed the CPU, and has had it.
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
        // It fails for a guest that has ended, and then there is nothing to interrupt.
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

/// What would help.
fn advice(refused: Refused) -> String {
    /// `ENOENT` and `ENODEV`: there is no such scheme.
    const ABSENT: [Errno; 2] = [Errno(2), Errno(19)];
    match refused.errno {
        errno if ABSENT.contains(&errno) => {
            "this kernel has no hypervisor: it needs one built with scripts/redox-apply".into()
        }
        errno if errno.meaning() == Some(KernelError::NotPermitted) => format!("{refused}: start the tender as root"),
        _ => refused.to_string(),
    }
}

#[cfg(test)]
mod tests;
