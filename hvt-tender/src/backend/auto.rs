//! Selection of one of the backends of this host.

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

/// Open backend of this host.
pub enum Backend {
    /// KVM.
    Kvm(Kvm),
    /// A sandboxed process.
    Process(Process),
}

impl Backend {
    /// Opens the backend that the user selected. `Auto` opens the best one available.
    ///
    /// `Auto` selects KVM only if the CPU itself can run guests: without hardware support,
    /// `/dev/kvm` is an emulation that is a thousand times slower than a sandboxed process. If the
    /// process backend is unavailable, `Auto` selects KVM.
    ///
    /// # Errors
    /// Returns [`Unavailable`] if the backend is unavailable on this machine.
    pub fn open(choice: BackendChoice) -> Result<Self, Unavailable> {
        match choice {
            BackendChoice::Kvm => Kvm::open().map(Self::Kvm),
            BackendChoice::Process => Process::open().map(Self::Process),
            BackendChoice::Redox => {
                Err(Unavailable { backend: "redox", reason: "it needs a Redox kernel, and this is Linux".into() })
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

    /// Name of the backend, as in `--backend`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kvm(_) => "kvm",
            Self::Process(_) => "process",
        }
    }

    /// Makes the guest read `counter` instead of its cycle counter. Returns `None` if the backend
    /// cannot do so.
    #[must_use]
    pub fn with_cycle_counter(self, counter: CycleCounter) -> Option<Self> {
        match self {
            Self::Kvm(_) => None,
            Self::Process(process) => Some(Self::Process(process.with_cycle_counter(counter))),
        }
    }

    /// Prepares for a guest under a debugger.
    #[must_use]
    pub fn for_debugger(self) -> Self {
        match self {
            Self::Kvm(kvm) => Self::Kvm(kvm),
            Self::Process(process) => Self::Process(process.with_watchpoints()),
        }
    }

    /// Returns the frequency of the guest's cycle counter, if the backend can report it
    /// immediately. Otherwise it must be [searched for](super::frequency::Search).
    ///
    /// # Errors
    /// Returns [`BackendError`] if the host's counter is unusable.
    #[must_use]
    pub fn cycle_frequency(&self) -> Option<Result<Frequency, BackendError>> {
        match self {
            Self::Kvm(kvm) => Some(kvm.cycle_frequency()),
            Self::Process(_) => None,
        }
    }

    /// Makes the guest's kicks of its network ring ring `doorbell` without ending a run, if the
    /// backend can do so. Otherwise kicks are exits.
    ///
    /// # Errors
    /// Returns the error of the system call.
    pub fn kick_rings(&self, doorbell: &impl AsFd) -> io::Result<()> {
        match self {
            Self::Kvm(kvm) => kvm.kick_rings(doorbell.as_fd()),
            Self::Process(_) => Ok(()),
        }
    }

    /// Returns true if a guest with a dedicated CPU sends frames through a ring faster than by
    /// hypercalls. A kick by a virtual machine wakes the ring's thread without an exit. A kick by a
    /// process is a hand-over to the tender, which costs as much as a hypercall, and guest and
    /// tender occupy two CPUs already.
    #[must_use]
    pub fn gains_by_rings(&self) -> bool {
        match self {
            Self::Kvm(_) => true,
            Self::Process(_) => false,
        }
    }

    /// Creates guest memory of `size` bytes in the form that this backend requires.
    ///
    /// # Errors
    /// Returns [`MapError`] if the memory cannot be mapped.
    pub fn memory(&self, size: u64) -> Result<MappedMemory, MapError> {
        match self {
            Self::Kvm(kvm) => kvm.memory(size),
            Self::Process(process) => process.memory(size),
        }
    }

    /// Creates a guest of this memory, ready to run from its entry point on the calling thread.
    ///
    /// Until the first run, the tender can still write memory that is read-only for the guest,
    /// unless the backend reports the [frequency](Self::cycle_frequency).
    ///
    /// # Errors
    /// Returns [`BackendError`] if a system call fails.
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

/// Guest on one of the backends of this host.
pub enum HostMachine {
    /// On KVM.
    Kvm(Box<KvmMachine>),
    /// In a sandboxed process.
    Process(Box<ProcessMachine>),
}

/// Calls a method of the selected machine.
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

    // Inlined, so that with KVM the monitor loop contains KVM's run path directly.
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

/// Backend for tests of other modules: the process backend where it exists, because it needs
/// nothing of the machine.
#[cfg(test)]
pub(crate) const FOR_TESTS: BackendChoice = if process::EXISTS { BackendChoice::Process } else { BackendChoice::Kvm };
