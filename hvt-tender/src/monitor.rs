//! The loop: the guest runs until it wants something, and gets it.

use std::fmt;

use hvt_abi::Gpa;
use hvt_abi::native::Registers;

use crate::backend::{self, Machine};
use crate::device::Devices;
use crate::exit::{Cause, Exit, Fault};
use crate::hypercall::{self, Flow, serve};
use crate::memory::{GuestSpace, Layout};

/// How a guest's run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest ended by itself.
    Exited {
        /// Its exit status.
        status: i32,
        /// Where in its memory it left a description of its registers, if it did.
        cookie: Option<Gpa>,
    },
    /// The guest did something after which it cannot go on.
    Failed(Failure),
    /// Somebody asked the run to end.
    Interrupted,
}

/// Runs a guest to its end.
///
/// # Errors
/// When the backend fails; nothing a guest does causes that.
pub fn run(machine: &mut dyn Machine, layout: &Layout, devices: &mut Devices) -> Result<Outcome, backend::Error> {
    loop {
        let (reason, registers) = match machine.run()? {
            Exit::Hypercall { number, argument } => {
                match serve(number, argument, &GuestSpace::new(machine.memory(), layout), devices) {
                    Ok(Flow::Continue) => continue,
                    Ok(Flow::Halt { status, cookie }) => return Ok(Outcome::Exited { status, cookie }),
                    Ok(Flow::Interrupted) => return Ok(Outcome::Interrupted),
                    Err(error) => (Reason::Hypercall(error), machine.registers().ok()),
                }
            }
            Exit::RingKick { ring } => (Reason::RingKick(ring), machine.registers().ok()),
            Exit::Halted => (Reason::Halted, machine.registers().ok()),
            Exit::Interrupted => return Ok(Outcome::Interrupted),
            Exit::Fault(Fault { cause, registers }) => (Reason::Fault(cause), registers),
        };
        return Ok(Outcome::Failed(Failure { reason, registers }));
    }
}

/// What a guest did before it was stopped, and where. Its message is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it did.
    pub reason: Reason,
    /// Its registers at that moment, where they are known.
    pub registers: Option<Registers>,
}

/// What a guest did that it may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Something that its machine does not allow.
    Fault(Cause),
    /// A hypercall that does not exist, or with pointers to what is not the guest's.
    Hypercall(hypercall::Error),
    /// It kicked a ring of this number, where none is offered.
    RingKick(u32),
    /// It waits for an interrupt, and there are none.
    Halted,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(cause) => cause.fmt(f),
            Self::Hypercall(error) => write!(f, "the guest made an invalid hypercall: {error}"),
            Self::RingKick(ring) => write!(f, "the guest kicked ring {ring}, which it was not offered"),
            Self::Halted => f.write_str("the guest waits for an interrupt (hlt), but there are none"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        match &self.registers {
            Some(registers) => write!(f, " (rip={:#x})", registers.rip),
            None => Ok(()),
        }
    }
}
