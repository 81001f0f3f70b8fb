//! Stub of the process backend on other architectures: the backend emulates x86_64 instructions.

use std::convert::Infallible;

use hvt_abi::native::{EntryState, Registers};

use super::{BackendError, CancelToken, CycleCounter, Machine, Unavailable};
use crate::Vcpu;
use crate::exit::Exit;
use crate::memory::{GuestMemory, MapError, MappedMemory, MemoryMap};

/// True if a guest can run without hardware virtualization on CPUs of this architecture.
pub(crate) const EXISTS: bool = false;

/// Process backend; cannot be constructed here.
#[derive(Debug)]
pub struct Process(Infallible);

impl Process {
    /// Always fails.
    ///
    /// # Errors
    /// Returns [`Unavailable`].
    pub fn open() -> Result<Self, Unavailable> {
        Err(Unavailable { backend: "process", reason: "it supports only x86_64; use kvm".into() })
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

/// Guest of the process backend; cannot be constructed here.
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
