//! The choice between the backends of this host.

use std::io;
use std::os::fd::AsFd;

use hvt_abi::native::{EntryState, Registers};
use nix::time::ClockId;

use super::debug::DebugTarget;
use super::frequency::Frequency;
use super::kvm::{Kvm, KvmMachine};
use super::process::{self, Process, ProcessMachine};
use super::{BackendError, CancelToken, CycleCounter, Machine, Unavailable};
use crate::Vcpu;
use crate::config::BackendChoice;
use crate::exit::Exit;
use crate::memory::{GuestMemory, MapError, MappedMemory, MemoryMap, Usage};
use crate::sandbox::Calls;

/// One of the backends of this host, open.
pub enum Backend {
    /// KVM.
    Kvm(Kvm),
    /// A sandboxed process.
    Process(Process),
}

impl Backend {
    /// Opens the backend that the user chose, or the better one that is to be had.
    ///
    /// `Auto` takes KVM only where the CPU itself can run guests: a `/dev/kvm` without that is software a thousand
    /// times slower than a sandboxed process. Where there is no such process, it takes KVM.
    ///
    /// # Errors
    /// When it is not to be had.
    pub fn open(choice: BackendChoice) -> Result<Self, Unavailable> {
        match choice {
            BackendChoice::Kvm => Kvm::open().map(Self::Kvm),
            BackendChoice::Process => Process::open().map(Self::Process),
            BackendChoice::Redox => {
                Err(Unavailable { backend: "redox", reason: "this is Linux, and its kernel another one".into() })
            }
            BackendChoice::Auto if !process::EXISTS => Kvm::open().map(Self::Kvm),
            BackendChoice::Auto if !Kvm::has_hardware() => {
                log::info!("the CPU offers neither VMX nor SVM: the guest runs in a sandboxed process");
                Process::open().map(Self::Process)
            }
            BackendChoice::Auto => Kvm::open().map(Self::Kvm).or_else(|unavailable| {
                log::info!("{unavailable}; the guest runs in a sandboxed process");
                Process::open().map(Self::Process)
            }),
        }
    }

    /// Its name, as in `--backend`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kvm(_) => "kvm",
            Self::Process(_) => "process",
        }
    }

    /// Makes the guest read `counter` wherever it reads its cycle counter; `None` where the backend cannot.
    #[must_use]
    pub fn with_cycle_counter(self, counter: CycleCounter) -> Option<Self> {
        match self {
            Self::Kvm(_) => None,
            Self::Process(process) => Some(Self::Process(process.with_cycle_counter(counter))),
        }
    }

    /// Prepares for a guest that is debugged.
    #[must_use]
    pub fn for_debugger(self) -> Self {
        match self {
            Self::Kvm(kvm) => Self::Kvm(kvm),
            Self::Process(process) => Self::Process(process.with_watchpoints()),
        }
    }

    /// Frequency of the guest's cycle counter, from a backend that knows it at once. Where none does it must be
    /// [searched for](super::frequency::Search).
    ///
    /// # Errors
    /// When the host's counter is of no use.
    #[must_use]
    pub fn cycle_frequency(&self) -> Option<Result<Frequency, BackendError>> {
        match self {
            Self::Kvm(kvm) => Some(kvm.cycle_frequency()),
            Self::Process(_) => None,
        }
    }

    /// Lets the guest's kicks of its network ring ring `doorbell` without ending a run, where the backend can. Where not, they
    /// are exits.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn kick_rings(&self, doorbell: &impl AsFd) -> io::Result<()> {
        match self {
            Self::Kvm(kvm) => kvm.kick_rings(doorbell.as_fd()),
            Self::Process(_) => Ok(()),
        }
    }

    /// Whether a guest that has a CPU to itself sends frames through a ring faster than by hypercalls. A kick of a virtual
    /// machine wakes the ring's thread without an exit. A process kicks by a hand-over to the tender, which is a hypercall's
    /// price, and its guest and its tender keep two CPUs busy already.
    #[must_use]
    pub fn gains_by_rings(&self) -> bool {
        match self {
            Self::Kvm(_) => true,
            Self::Process(_) => false,
        }
    }

    /// Guest memory of `size` bytes in the form that this backend needs.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn memory(&self, size: u64) -> Result<MappedMemory, MapError> {
        match self {
            Self::Kvm(kvm) => kvm.memory(size),
            Self::Process(process) => process.memory(size),
        }
    }

    /// A guest of this memory, ready to run from its entry point, on the calling thread.
    ///
    /// Until the first run the tender can still write memory that is read-only for the guest, unless the backend knows
    /// the [frequency](Self::cycle_frequency).
    ///
    /// # Errors
    /// When the host refuses.
    pub fn start(
        self,
        memory: MappedMemory,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<HostMachine, BackendError> {
        Ok(match self {
            Self::Kvm(kvm) => HostMachine::Kvm(Box::new(kvm.start(memory, memory_map, entry, stop)?)),
            Self::Process(process) => {
                HostMachine::Process(Box::new(process.start(memory, memory_map.clone(), entry, stop)?))
            }
        })
    }
}

/// A guest on one of the backends of this host.
pub enum HostMachine {
    /// On KVM.
    Kvm(Box<KvmMachine>),
    /// In a sandboxed process.
    Process(Box<ProcessMachine>),
}

/// Calls a method of whichever it is.
macro_rules! either {
    ($guest:expr, $machine:ident => $call:expr) => {
        match $guest {
            HostMachine::Kvm($machine) => $call,
            HostMachine::Process($machine) => $call,
        }
    };
}

impl Vcpu for HostMachine {
    type Error = BackendError;

    // So that the loop which calls it is KVM's own.
    #[inline(always)]
    fn run(&mut self) -> Result<Exit, BackendError> {
        either!(self, machine => machine.run())
    }

    fn serve_again(&mut self) -> Result<bool, BackendError> {
        either!(self, machine => machine.serve_again())
    }

    #[inline]
    fn memory(&self) -> &dyn GuestMemory {
        either!(self, machine => machine.memory())
    }

    fn registers(&self) -> Result<Registers, BackendError> {
        either!(self, machine => machine.registers())
    }
}

impl Machine for HostMachine {
    fn cpu_clock(&self) -> Result<ClockId, BackendError> {
        either!(self, machine => machine.cpu_clock())
    }

    fn debug(&mut self) -> Option<&mut dyn DebugTarget> {
        either!(self, machine => machine.debug())
    }

    fn memory_usage(&self) -> io::Result<Usage> {
        either!(self, machine => machine.memory_usage())
    }

    fn system_calls(&self, calls: &mut Calls) {
        either!(self, machine => Machine::system_calls(machine.as_ref(), calls));
    }
}

/// What runs guests in tests of other rooms: what needs nothing of the machine, where there is that.
#[cfg(test)]
pub(crate) const FOR_TESTS: BackendChoice = if process::EXISTS { BackendChoice::Process } else { BackendChoice::Kvm };
