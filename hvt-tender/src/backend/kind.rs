//! Interface of a backend that has no guest yet, and of its running machine.

use std::io;
use std::os::fd::BorrowedFd;

use hvt_abi::native::EntryState;

use super::frequency::Frequency;
use super::{BackendError, CancelToken, CycleCounter, Machine, Unavailable};
use crate::config::BackendChoice;
use crate::device::{Devices, Doorbell};
use crate::measure::{Counter, Trace};
use crate::memory::{MapError, MappedMemory, MemoryMap};
use crate::monitor::{Outcome, run_observed};

/// Kind of backend that this program contains.
pub(crate) struct Kind {
    /// Choice of the user that selects this kind.
    pub(crate) choice: BackendChoice,
    /// Returns true if the machine runs the kind's guests at full speed. Otherwise `auto` prefers the
    /// next kind.
    pub(crate) is_fast: fn() -> bool,
    /// A guest can read a cycle counter other than the CPU's.
    pub(crate) counts_cycles: bool,
    /// Opens the backend.
    pub(crate) open: fn() -> Result<Box<dyn Opened>, Unavailable>,
}

/// Open backend of this host.
pub(crate) trait Opened {
    /// Returns the name of the backend, as in `--backend`.
    fn name(&self) -> &'static str;

    /// Makes the guest read `counter` instead of the CPU's cycle counter. Returns `None` if the
    /// backend does not support this.
    fn with_cycle_counter(self: Box<Self>, _counter: CycleCounter) -> Option<Box<dyn Opened>> {
        None
    }

    /// Prepares the backend for a guest with a debugger.
    fn for_debugger(self: Box<Self>) -> Box<dyn Opened>;

    /// Returns the frequency of the guest's cycle counter, or `None` if the backend must measure it
    /// by a [search](super::frequency::Search).
    ///
    /// # Errors
    /// Returns [`BackendError`] if the host's counter is unusable.
    fn cycle_frequency(&self) -> Option<Result<Frequency, BackendError>> {
        None
    }

    /// Makes the guest's kicks of its network ring set the event `doorbell` without ending a run, if
    /// the backend supports this. Otherwise kicks are exits.
    ///
    /// # Errors
    /// Returns the error of the host.
    fn kick_rings(&self, _doorbell: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Returns true if a guest with a CPU of its own sends frames through a ring faster than by
    /// hypercalls. A kick of a virtual machine wakes the ring's thread without an exit. A process
    /// kicks by a hand-over to the tender, which costs as much as a hypercall, and guest and tender
    /// already occupy two CPUs.
    fn gains_by_rings(&self) -> bool {
        false
    }

    /// Maps guest memory of `size` bytes in the form that this backend requires.
    ///
    /// # Errors
    /// Returns [`MapError`] if the host rejects the request.
    fn memory(&self, size: u64) -> Result<MappedMemory, MapError>;

    /// Creates a guest of this memory, ready to run from its entry point on the calling thread.
    ///
    /// Until the first run the tender can still write memory that is read-only for the guest, unless
    /// the backend returns a [frequency](Self::cycle_frequency).
    ///
    /// # Errors
    /// Returns [`BackendError`] if the host rejects the request.
    fn start(
        self: Box<Self>,
        memory: MappedMemory,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<Box<dyn Running>, BackendError>;
}

/// Machine with the monitor's loop, which is compiled for each type of machine.
pub(crate) trait Running: Machine {
    /// Runs the guest to its end, as [`run_observed`] does. `counter` and `trace` record the guest's
    /// hypercalls.
    fn serve(
        &mut self,
        memory_map: &MemoryMap,
        devices: &mut Devices,
        doorbell: Option<&dyn Doorbell>,
        counter: Option<&mut Counter>,
        trace: Option<&mut Trace>,
    ) -> Result<Outcome, BackendError>;
}

impl<M: Machine> Running for M {
    fn serve(
        &mut self,
        memory_map: &MemoryMap,
        devices: &mut Devices,
        doorbell: Option<&dyn Doorbell>,
        counter: Option<&mut Counter>,
        trace: Option<&mut Trace>,
    ) -> Result<Outcome, BackendError> {
        // Separate loops: a loop without an observer has no check for one.
        match (counter, trace) {
            (None, None) => run_observed(self, memory_map, devices, doorbell, &mut ()),
            (Some(counter), None) => run_observed(self, memory_map, devices, doorbell, counter),
            (counter, trace) => run_observed(self, memory_map, devices, doorbell, &mut (counter, trace)),
        }
    }
}
