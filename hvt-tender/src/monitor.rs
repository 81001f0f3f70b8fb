//! The loop: the guest runs until it wants something, and gets it.

mod limit;

use std::fmt;

use hvt_abi::Gpa;
use hvt_abi::native::Registers;
use hvt_abi::ring::NET_RING;

use crate::backend::{self, Machine};
use crate::device::Devices;
use crate::exit::{Cause, Exit, Fault};
use crate::hypercall::{self, Flow, serve};
use crate::memory::{GuestSpace, Layout};
use crate::registers::Named;
use crate::ring::{self, Bell};

pub use limit::Limit;

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
    /// The guest has used more than it may.
    Exceeded(Limit),
}

/// Sees every hypercall of a guest.
pub trait Observer {
    /// The guest has made a hypercall, which is served next. Number and argument are allegations.
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>);
    /// The hypercall has been served, with this result.
    fn served(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>, result: &Result<Flow, hypercall::Error>);
}

/// Sees nothing, at no cost.
impl Observer for () {
    fn called(&mut self, _: u32, _: Gpa, _: &GuestSpace<'_>) {}
    fn served(&mut self, _: u32, _: Gpa, _: &GuestSpace<'_>, _: &Result<Flow, hypercall::Error>) {}
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>) {
        self.0.called(number, argument, guest);
        self.1.called(number, argument, guest);
    }

    fn served(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>, result: &Result<Flow, hypercall::Error>) {
        self.0.served(number, argument, guest, result);
        self.1.served(number, argument, guest, result);
    }
}

impl<O: Observer> Observer for &mut O {
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>) {
        (**self).called(number, argument, guest);
    }

    fn served(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>, result: &Result<Flow, hypercall::Error>) {
        (**self).served(number, argument, guest, result);
    }
}

impl<O: Observer> Observer for Option<O> {
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>) {
        if let Some(observer) = self {
            observer.called(number, argument, guest);
        }
    }

    fn served(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>, result: &Result<Flow, hypercall::Error>) {
        if let Some(observer) = self {
            observer.served(number, argument, guest, result);
        }
    }
}

/// Runs a guest to its end.
///
/// # Errors
/// When the backend fails; nothing a guest does causes that.
pub fn run(
    machine: &mut (impl Machine + ?Sized),
    layout: &Layout,
    devices: &mut Devices,
) -> Result<Outcome, backend::Error> {
    run_observed(machine, layout, devices, None, &mut ())
}

/// Runs a guest to its end, with `observer` seeing its hypercalls, and kicks of its network ring, if it was offered one,
/// ringing `bell`.
///
/// For a machine that is known by its type this is a loop without calls between the guest and its hypercall.
///
/// # Errors
/// When the backend fails; nothing a guest does causes that.
pub fn run_observed<M: Machine + ?Sized>(
    machine: &mut M,
    layout: &Layout,
    devices: &mut Devices,
    bell: Option<&Bell>,
    observer: &mut impl Observer,
) -> Result<Outcome, backend::Error> {
    loop {
        let (number, argument) = match machine.run()? {
            Exit::Hypercall { number, argument } => (number, argument),
            exit => match end(machine, bell, exit) {
                Some(outcome) => return Ok(outcome),
                None => continue,
            },
        };
        let guest = GuestSpace::new(machine.memory(), layout);
        observer.called(number, argument, &guest);
        let mut result = serve(number, argument, &guest, devices);
        if let Ok(Flow::Continue) = result {
            observer.served(number, argument, &guest, &result);
            continue;
        }
        if let Ok(Flow::Interrupted) = result {
            result = serve_again(machine, layout, devices, observer, (number, argument))?;
        } else {
            observer.served(number, argument, &guest, &result);
        }
        match result {
            Ok(Flow::Continue) => {}
            Ok(Flow::Halt { status, cookie }) => return Ok(Outcome::Exited { status, cookie }),
            Ok(Flow::Interrupted) => return Ok(Outcome::Interrupted),
            Err(error) => return Ok(failed(machine, Reason::Hypercall(error))),
        }
    }
}

/// How a guest ends that stopped for another reason than a hypercall; `None` where it goes on.
#[cold]
fn end<M: Machine + ?Sized>(machine: &M, bell: Option<&Bell>, exit: Exit) -> Option<Outcome> {
    let reason = match exit {
        Exit::Hypercall { .. } => return None,
        Exit::RingKick { ring } => match bell {
            Some(bell) if ring == NET_RING => {
                bell.ring();
                return None;
            }
            _ => Reason::RingKick(ring),
        },
        Exit::Halted => Reason::Halted,
        Exit::Interrupted => return Some(Outcome::Interrupted),
        Exit::Fault(Fault { cause, registers }) => {
            return Some(Outcome::Failed(Failure { reason: Reason::Fault(cause), registers }));
        }
    };
    Some(failed(machine, reason))
}

/// The end of a guest that did this and has not run since.
#[cold]
fn failed<M: Machine + ?Sized>(machine: &M, reason: Reason) -> Outcome {
    Outcome::Failed(Failure { reason, registers: machine.registers().ok().map(Box::new) })
}

/// Serves a hypercall that was interrupted for as long as the machine wants that.
#[cold]
fn serve_again<M: Machine + ?Sized>(
    machine: &mut M,
    layout: &Layout,
    devices: &mut Devices,
    observer: &mut impl Observer,
    (number, argument): (u32, Gpa),
) -> Result<Result<Flow, hypercall::Error>, backend::Error> {
    let mut result = Ok(Flow::Interrupted);
    while let Ok(Flow::Interrupted) = result
        && machine.serve_again()?
    {
        result = serve(number, argument, &GuestSpace::new(machine.memory(), layout), devices);
    }
    observer.served(number, argument, &GuestSpace::new(machine.memory(), layout), &result);
    Ok(result)
}

/// What a guest did before it was stopped, and where. Its message is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it did.
    pub reason: Reason,
    /// Its registers at that moment, where they are known.
    pub registers: Option<Box<Registers>>,
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
    /// It did with its network ring what it may not.
    Ring(ring::Error),
    /// It waits for an interrupt, and there are none.
    Halted,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(cause) => cause.fmt(f),
            Self::Hypercall(error) => write!(f, "the guest made an invalid hypercall: {error}"),
            Self::RingKick(ring) => write!(f, "the guest kicked ring {ring}, which it was not offered"),
            Self::Ring(error) => write!(f, "the guest broke its network ring: {error}"),
            Self::Halted => f.write_str("the guest halted (hlt), and no interrupt will ever wake it"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        match &self.registers {
            Some(registers) => write!(f, " ({}={:#x})", Registers::PC, registers.pc()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    use hvt_abi::GuestRange;
    use hvt_abi::hypercall::{Halt, Number, Poll};
    use zerocopy::IntoBytes;

    use crate::device::Interrupted;
    use crate::device::fake::Fake;
    use crate::memory::fake::FakeMemory;
    use crate::memory::{Access, GuestMemory, Region};

    const SIZE: u64 = 0x2000;
    const PC: u64 = 0x10_1234;

    /// A guest that is nothing but a list of what it will want.
    struct Script {
        exits: VecDeque<Exit>,
        memory: FakeMemory,
    }

    impl Machine for Script {
        fn run(&mut self) -> Result<Exit, backend::Error> {
            let over = || backend::Error { what: "the script is over", source: std::io::ErrorKind::Other.into() };
            self.exits.pop_front().ok_or_else(over)
        }

        fn memory(&self) -> &dyn GuestMemory {
            &self.memory
        }

        fn registers(&self) -> Result<Registers, backend::Error> {
            Ok(Registers::at(PC))
        }
    }

    /// Runs a guest that wants this, with `argument` at guest address 0x1000.
    fn run_script(
        fake: &Fake,
        argument: &[u8],
        exits: impl IntoIterator<Item = Exit>,
    ) -> Result<Outcome, backend::Error> {
        let memory = FakeMemory::new(SIZE, &[]);
        memory.write(Gpa(0x1000), argument).unwrap();
        let range = GuestRange::between(Gpa(0x1000), Gpa(SIZE)).unwrap();
        let layout = Layout::new([Region { range, access: Access::READ | Access::WRITE }]).unwrap();
        let mut machine = Script { exits: exits.into_iter().collect(), memory };
        run(&mut machine, &layout, &mut fake.devices())
    }

    fn hypercall(number: u32) -> Exit {
        Exit::Hypercall { number, argument: Gpa(0x1000) }
    }

    fn failure(exits: impl IntoIterator<Item = Exit>) -> String {
        match run_script(&Fake::new(), &[], exits) {
            Ok(Outcome::Failed(failure)) => failure.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn serves_until_the_guest_ends() {
        let halt = Halt { exit_status: 7, ..Halt::default() };
        let exits = [hypercall(Number::Walltime as u32), hypercall(Number::Halt as u32)];
        // The wall clock overwrites the cookie, which comes first.
        let fake = Fake::new();
        fake.0.borrow_mut().now = 0;
        let outcome = run_script(&fake, halt.as_bytes(), exits).unwrap();
        assert_eq!(outcome, Outcome::Exited { status: 7, cookie: None });
        fake.0.borrow_mut().now = 0x1800;
        let exits = [hypercall(Number::Walltime as u32), hypercall(Number::Halt as u32)];
        let outcome = run_script(&fake, halt.as_bytes(), exits).unwrap();
        assert_eq!(outcome, Outcome::Exited { status: 7, cookie: Some(Gpa(0x1800)) });
    }

    #[test]
    fn ends_when_somebody_asks_for_it() {
        assert_eq!(run_script(&Fake::new(), &[], [Exit::Interrupted]).unwrap(), Outcome::Interrupted);
        let fake = Fake::new();
        fake.0.borrow_mut().ready = Err(Interrupted);
        let poll = Poll { timeout_nsecs: u64::MAX, ..Poll::default() };
        let outcome = run_script(&fake, poll.as_bytes(), [hypercall(Number::Poll as u32)]);
        assert_eq!(outcome.unwrap(), Outcome::Interrupted);
    }

    #[test]
    fn says_what_the_guest_did_and_where() {
        let unmapped = Exit::Hypercall { number: Number::Puts as u32, argument: Gpa(0x10) };
        for (exit, words) in [
            (hypercall(9), "unknown hypercall 9"),
            (unmapped, "at guest address 0x10"),
            (Exit::RingKick { ring: 3 }, "kicked ring 3"),
            (Exit::Halted, "halted"),
        ] {
            let message = failure([exit]);
            assert!(message.contains(words) && message.ends_with("=0x101234)"), "{message}");
        }
        let cause = Cause::Memory { address: Some(Gpa(0x5000)), access: Access::WRITE };
        let message = failure([Exit::Fault(Fault { cause, registers: None })]);
        assert!(message.contains("host/guest translation fault") && !message.contains(Registers::PC), "{message}");
    }

    #[test]
    fn a_backend_that_fails_is_no_outcome() {
        assert!(run_script(&Fake::new(), &[], []).unwrap_err().to_string().contains("the script is over"));
    }
}
