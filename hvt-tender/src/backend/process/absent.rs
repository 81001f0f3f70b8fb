//! The process backend where there is none: it emulates instructions of x86_64.

use std::convert::Infallible;

use hvt_abi::native::{EntryState, Registers};

use super::{BackendError, CancelToken, CycleCounter, Machine, Unavailable};
use crate::Vcpu;
use crate::exit::Exit;
use crate::memory::{GuestMemory, MapError, MappedMemory, MemoryMap};

/// Whether a guest can run without hardware virtualization on CPUs of this architecture.
pub(crate) const EXISTS: bool = false;

/// There is none.
#[derive(Debug)]
pub struct Process(Infallible);

impl Process {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn open() -> Result<Self, Unavailable> {
        Err(Unavailable { backend: "process", reason: "it is for guests of x86_64; use kvm".into() })
    }

    pub(super) fn with_cycle_counter(self, _: CycleCounter) -> Self {
        self
    }

    pub(super) fn with_watchpoints(self) -> Self {
        self
    }

    pub(super) fn memory(&self, _: u64) -> Result<MappedMemory, MapError> {
        match self.0 {}
    }

    pub(super) fn start(
        self,
        _: MappedMemory,
        _: MemoryMap,
        _: &EntryState,
        _: &CancelToken,
    ) -> Result<ProcessMachine, BackendError> {
        match self.0 {}
    }
}

/// A guest of it: there is none.
#[derive(Debug)]
pub struct ProcessMachine(Infallible);

impl Vcpu for ProcessMachine {
    type Error = BackendError;

    fn run(&mut self) -> Result<Exit, BackendError> {
        match self.0 {}
    }

    fn memory(&self) -> &dyn GuestMemory {
        match self.0 {}
    }

    fn registers(&self) -> Result<Registers, BackendError> {
        match self.0 {}
    }
}

impl Machine for ProcessMachine {}
