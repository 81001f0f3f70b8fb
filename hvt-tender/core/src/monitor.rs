//! Monitor loop: runs the guest to an exit, serves the exit, and runs the guest again.

mod limit;

use alloc::boxed::Box;
use core::fmt;

use hvt_abi::Gpa;
use hvt_abi::native::Registers;
use hvt_abi::ring::NET_RING;

use crate::device::{Devices, Doorbell};
use crate::exit::{Cause, Exit, Fault};
use crate::hypercall::{self, Flow, serve};
use crate::memory::{GuestSpace, MemoryMap};
use crate::registers::Named;
use crate::ring;
use crate::vcpu::Vcpu;

pub use limit::Limit;

/// Result of a guest's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest exited.
    Exited {
        /// Exit status.
        status: i32,
        /// Guest address of a description of the guest's registers, if the guest left one.
        cookie: Option<Gpa>,
    },
    /// The guest failed and cannot continue.
    Failed(Failure),
    /// The run was interrupted from outside.
    Interrupted,
    /// The guest sleeps forever: no event is left in its virtual time.
    Asleep,
    /// The guest exceeded one of its limits.
    Exceeded(Limit),
}

impl Outcome {
    /// Returns true if the guest exited with status 0.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Exited { status: 0, .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status, .. } => write!(f, "exit status {status}"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Asleep => f.write_str("asleep: nothing in its virtual time can wake the guest"),
            Self::Exceeded(limit) => limit.fmt(f),
        }
    }
}

/// Observer of every hypercall of a guest.
pub trait Observer {
    /// Called before a hypercall is served. Number and argument are allegations.
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>);
    /// Called after the hypercall has been served, with its result.
    fn served(
        &mut self,
        number: u32,
        argument: Gpa,
        guest: &GuestSpace<'_>,
        result: &Result<Flow, hypercall::HypercallError>,
    );
}

/// Observes nothing, at no cost.
impl Observer for () {
    fn called(&mut self, _: u32, _: Gpa, _: &GuestSpace<'_>) {}
    fn served(&mut self, _: u32, _: Gpa, _: &GuestSpace<'_>, _: &Result<Flow, hypercall::HypercallError>) {}
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>) {
        self.0.called(number, argument, guest);
        self.1.called(number, argument, guest);
    }

    fn served(
        &mut self,
        number: u32,
        argument: Gpa,
        guest: &GuestSpace<'_>,
        result: &Result<Flow, hypercall::HypercallError>,
    ) {
        self.0.served(number, argument, guest, result);
        self.1.served(number, argument, guest, result);
    }
}

impl<O: Observer> Observer for &mut O {
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>) {
        (**self).called(number, argument, guest);
    }

    fn served(
        &mut self,
        number: u32,
        argument: Gpa,
        guest: &GuestSpace<'_>,
        result: &Result<Flow, hypercall::HypercallError>,
    ) {
        (**self).served(number, argument, guest, result);
    }
}

impl<O: Observer> Observer for Option<O> {
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>) {
        if let Some(observer) = self {
            observer.called(number, argument, guest);
        }
    }

    fn served(
        &mut self,
        number: u32,
        argument: Gpa,
        guest: &GuestSpace<'_>,
        result: &Result<Flow, hypercall::HypercallError>,
    ) {
        if let Some(observer) = self {
            observer.served(number, argument, guest, result);
        }
    }
}

/// Runs a guest to its end.
///
/// # Errors
/// Returns [`Vcpu::Error`] if the virtual CPU itself fails, which no guest can cause.
pub fn run<V: Vcpu + ?Sized>(vcpu: &mut V, memory_map: &MemoryMap, devices: &mut Devices) -> Result<Outcome, V::Error> {
    run_observed(vcpu, memory_map, devices, None, &mut ())
}

/// Runs a guest to its end. `observer` sees the guest's hypercalls. Kicks of the network ring ring
/// `doorbell`. Without a doorbell the guest was offered no ring, and a kick ends the guest.
///
/// The loop is compiled for each type of virtual CPU and observer: there is no dynamic call between the guest and its
/// hypercall.
///
/// # Errors
/// Returns [`Vcpu::Error`] if the virtual CPU itself fails, which no guest can cause.
pub fn run_observed<V: Vcpu + ?Sized>(
    vcpu: &mut V,
    memory_map: &MemoryMap,
    devices: &mut Devices,
    doorbell: Option<&dyn Doorbell>,
    observer: &mut impl Observer,
) -> Result<Outcome, V::Error> {
    loop {
        if let Some(outcome) = step(vcpu, memory_map, devices, doorbell, observer)? {
            return Ok(outcome);
        }
    }
}

/// Runs a guest to its next exit and serves it: one round of [`run_observed`]. Returns `None` if the guest can run on.
///
/// # Errors
/// Returns [`Vcpu::Error`] if the virtual CPU itself fails, which no guest can cause.
#[inline(always)]
pub fn step<V: Vcpu + ?Sized>(
    vcpu: &mut V,
    memory_map: &MemoryMap,
    devices: &mut Devices,
    doorbell: Option<&dyn Doorbell>,
    observer: &mut impl Observer,
) -> Result<Option<Outcome>, V::Error> {
    let (number, argument) = match vcpu.run()? {
        Exit::Hypercall { number, argument } => (number, argument),
        exit => return Ok(end(vcpu, doorbell, exit)),
    };
    let guest = GuestSpace::new(vcpu.memory(), memory_map);
    observer.called(number, argument, &guest);
    let mut result = serve(number, argument, &guest, devices);
    if let Ok(Flow::Continue) = result {
        observer.served(number, argument, &guest, &result);
        return Ok(None);
    }
    if let Ok(Flow::Interrupted) = result {
        result = serve_again(vcpu, memory_map, devices, observer, (number, argument))?;
    } else {
        observer.served(number, argument, &guest, &result);
    }
    Ok(match result {
        Ok(Flow::Continue) => None,
        Ok(Flow::Halt { status, cookie }) => Some(Outcome::Exited { status, cookie }),
        Ok(Flow::Interrupted) => Some(Outcome::Interrupted),
        Err(error) => Some(failed(vcpu, Reason::Hypercall(error))),
    })
}

/// Returns the outcome of an exit that is not a hypercall, or `None` if the guest can run on.
#[cold]
fn end<V: Vcpu + ?Sized>(vcpu: &V, doorbell: Option<&dyn Doorbell>, exit: Exit) -> Option<Outcome> {
    let reason = match exit {
        Exit::Hypercall { .. } => return None,
        Exit::RingKick { ring } => match doorbell {
            Some(doorbell) if ring == NET_RING => {
                doorbell.ring();
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
    Some(failed(vcpu, reason))
}

/// Outcome of a guest that failed for `reason` and has not run since.
#[cold]
fn failed<V: Vcpu + ?Sized>(vcpu: &V, reason: Reason) -> Outcome {
    Outcome::Failed(Failure { reason, registers: vcpu.registers().ok().map(Box::new) })
}

/// Serves an interrupted hypercall again for as long as the virtual CPU requires it.
#[cold]
fn serve_again<V: Vcpu + ?Sized>(
    vcpu: &mut V,
    memory_map: &MemoryMap,
    devices: &mut Devices,
    observer: &mut impl Observer,
    (number, argument): (u32, Gpa),
) -> Result<Result<Flow, hypercall::HypercallError>, V::Error> {
    let mut result = Ok(Flow::Interrupted);
    while let Ok(Flow::Interrupted) = result
        && vcpu.serve_again()?
    {
        result = serve(number, argument, &GuestSpace::new(vcpu.memory(), memory_map), devices);
    }
    observer.served(number, argument, &GuestSpace::new(vcpu.memory(), memory_map), &result);
    Ok(result)
}

/// Reason for stopping a guest, and its registers. The message is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Reason for the failure.
    pub reason: Reason,
    /// Registers at the failure, if they are known.
    pub registers: Option<Box<Registers>>,
}

/// Forbidden action of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Fault: an action that the guest's machine does not allow.
    Fault(Cause),
    /// Unknown hypercall, or one with pointers to memory that is not the guest's.
    Hypercall(hypercall::HypercallError),
    /// Kick of a ring with this number although none is offered.
    RingKick(u32),
    /// Violation of the network ring's protocol.
    Ring(ring::RingError),
    /// `hlt` although no interrupt can arrive.
    Halted,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(cause) => cause.fmt(f),
            Self::Hypercall(error) => write!(f, "the guest made an invalid hypercall: {error}"),
            Self::RingKick(ring) => write!(f, "the guest kicked ring {ring}, which it was not offered"),
            Self::Ring(error) => write!(f, "the guest violated the protocol of its network ring: {error}"),
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
    use alloc::collections::VecDeque;
    use alloc::string::{String, ToString};

    use hvt_abi::GuestRange;
    use hvt_abi::hypercall::{Halt, Number, Poll};
    use zerocopy::IntoBytes;

    use crate::device::Interrupted;
    use crate::device::fake::Fake;
    use crate::memory::fake::FakeMemory;
    use crate::memory::{GuestMemory, Permissions, Region};

    const SIZE: u64 = 0x2000;
    const PC: u64 = 0x10_1234;

    /// Guest that consists of a list of exits.
    struct Script {
        exits: VecDeque<Exit>,
        memory: FakeMemory,
    }

    /// The script has no more exits.
    #[derive(Debug, PartialEq, Eq)]
    struct Over;

    impl Vcpu for Script {
        type Error = Over;

        fn run(&mut self) -> Result<Exit, Over> {
            self.exits.pop_front().ok_or(Over)
        }

        fn memory(&self) -> &dyn GuestMemory {
            &self.memory
        }

        fn registers(&self) -> Result<Registers, Over> {
            Ok(Registers::at(PC))
        }
    }

    /// Runs a guest with these exits, with `argument` at guest address 0x1000.
    fn run_script(fake: &Fake, argument: &[u8], exits: impl IntoIterator<Item = Exit>) -> Result<Outcome, Over> {
        let memory = FakeMemory::new(SIZE, &[]);
        memory.write(Gpa(0x1000), argument).unwrap();
        let range = GuestRange::between(Gpa(0x1000), Gpa(SIZE)).unwrap();
        let memory_map = MemoryMap::new([Region { range, access: Permissions::READ | Permissions::WRITE }]).unwrap();
        let mut machine = Script { exits: exits.into_iter().collect(), memory };
        run(&mut machine, &memory_map, &mut fake.devices())
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
    fn an_interrupt_ends_the_run() {
        assert_eq!(run_script(&Fake::new(), &[], [Exit::Interrupted]).unwrap(), Outcome::Interrupted);
        let fake = Fake::new();
        fake.0.borrow_mut().ready = Err(Interrupted);
        let poll = Poll { timeout_nsecs: u64::MAX, ..Poll::default() };
        let outcome = run_script(&fake, poll.as_bytes(), [hypercall(Number::Poll as u32)]);
        assert_eq!(outcome.unwrap(), Outcome::Interrupted);
    }

    #[test]
    fn a_failure_names_the_act_and_the_address() {
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
        let cause = Cause::Memory { address: Some(Gpa(0x5000)), access: Permissions::WRITE };
        let message = failure([Exit::Fault(Fault { cause, registers: None })]);
        assert!(message.contains("host/guest translation fault") && !message.contains(Registers::PC), "{message}");
    }

    #[test]
    fn a_backend_that_fails_is_no_outcome() {
        assert_eq!(run_script(&Fake::new(), &[], []), Err(Over));
    }
}
