//! The virtual CPU that the [monitor](crate::monitor) runs.

use hvt_abi::native::Registers;

use crate::exit::Exit;
use crate::memory::GuestMemory;

/// Guest on one virtual CPU of a backend, of an in-kernel hypervisor, or of a test.
///
/// The monitor is compiled for each type that implements this trait, so that `run` is inlined into its loop.
pub trait Vcpu {
    /// Failure of the virtual CPU itself, never caused by the guest.
    type Error;

    /// Runs the guest until it exits. After [`Exit::Fault`] the guest must not be run again.
    ///
    /// # Errors
    /// Returns [`Self::Error`] if the virtual CPU itself fails.
    fn run(&mut self) -> Result<Exit, Self::Error>;

    /// Called after a hypercall was [interrupted](crate::hypercall::Flow::Interrupted) before it was served. Returns true
    /// if the hypercall must be served again, from its beginning; false ends the run.
    ///
    /// # Errors
    /// Returns [`Self::Error`] if the virtual CPU itself fails.
    fn serve_again(&mut self) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// The guest's memory.
    fn memory(&self) -> &dyn GuestMemory;

    /// The guest's registers, between two runs.
    ///
    /// # Errors
    /// Returns [`Self::Error`] if the virtual CPU cannot report them.
    fn registers(&self) -> Result<Registers, Self::Error>;
}
