//! A backend before it has a guest, as the rooms above see it.

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

/// A kind of backend that this program has.
pub(crate) struct Kind {
    /// Choice of the user that means this kind.
    pub(crate) choice: BackendChoice,
    /// Whether the machine runs its guests at full speed. If not, `auto` prefers the next kind.
    pub(crate) is_fast: fn() -> bool,
    /// Whether a guest can read another cycle counter than the CPU's.
    pub(crate) counts_cycles: bool,
    /// Opens the backend.
    pub(crate) open: fn() -> Result<Box<dyn Opened>, Unavailable>,
}

/// A backend of this host, open.
pub(crate) trait Opened {
    /// Its name, as in `--backend`.
    fn name(&self) -> &'static str;

    /// Makes the guest read `counter` wherever it reads its cycle counter; `None` if the backend cannot.
    fn with_cycle_counter(self: Box<Self>, _counter: CycleCounter) -> Option<Box<dyn Opened>> {
        None
    }

    /// Prepares for a guest that is debugged.
    fn for_debugger(self: Box<Self>) -> Box<dyn Opened>;

    /// Frequency of the guest's cycle counter, from a backend that knows the frequency at once. For other backends, a
    /// [search](super::frequency::Search) finds it.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the host's counter is of no use.
    fn cycle_frequency(&self) -> Option<Result<Frequency, BackendError>> {
        None
    }

    /// Lets the guest's kicks of its network ring set the event `doorbell` without ending a run, if the backend can. If
    /// not, kicks are exits.
    ///
    /// # Errors
    /// The error of the host.
    fn kick_rings(&self, _doorbell: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Whether a guest that has a CPU to itself sends frames through a ring faster than by hypercalls. A kick of a virtual
    /// machine wakes the ring's thread without an exit. A process kicks by a hand-over to the tender, which costs as much
    /// as a hypercall, and its guest and its tender keep two CPUs busy already.
    fn gains_by_rings(&self) -> bool {
        false
    }

    /// Guest memory of `size` bytes in the form that this backend needs.
    ///
    /// # Errors
    /// Returns [`MapError`] if the host refuses.
    fn memory(&self, size: u64) -> Result<MappedMemory, MapError>;

    /// A guest of this memory, ready to run from its entry point, on the calling thread.
    ///
    /// Until the first run the tender can still write memory that is read-only for the guest, unless the backend knows
    /// the [frequency](Self::cycle_frequency).
    ///
    /// # Errors
    /// Returns [`BackendError`] if the host refuses.
    fn start(
        self: Box<Self>,
        memory: MappedMemory,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<Box<dyn Running>, BackendError>;
}

/// A machine together with the monitor's loop, which is compiled for each type of machine.
pub(crate) trait Running: Machine {
    /// Runs the guest to its end, as [`run_observed`]. `counter` and `trace` see its hypercalls.
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
        // Loops of their own, which look for no observer that is not there.
        match (counter, trace) {
            (None, None) => run_observed(self, memory_map, devices, doorbell, &mut ()),
            (Some(counter), None) => run_observed(self, memory_map, devices, doorbell, counter),
            (counter, trace) => run_observed(self, memory_map, devices, doorbell, &mut (counter, trace)),
        }
    }
}
