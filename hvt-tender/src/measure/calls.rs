//! Count and host time of a guest's hypercalls.

use std::fmt;
use std::time::{Duration, Instant};

use hvt_abi::Gpa;
use hvt_abi::hypercall::Number;

use crate::hypercall::{Flow, HypercallError};
use crate::memory::GuestSpace;
use crate::monitor::Observer;

/// Count and host time of one kind of hypercall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of calls.
    pub count: u64,
    /// Total host time to serve the calls, including the sleep of polls.
    pub time: Duration,
}

/// Count and host time of each kind of hypercall.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Calls {
    tallies: [Tally; Number::ALL.len()],
}

impl Calls {
    /// Returns the tally of one kind of hypercall.
    #[must_use]
    pub fn of(&self, number: Number) -> Tally {
        Number::ALL.iter().zip(self.tallies).find(|(known, _)| **known == number).map_or(Tally::default(), |(_, t)| t)
    }

    /// Returns the tally of all hypercalls together.
    #[must_use]
    pub fn total(&self) -> Tally {
        let add = |sum: Tally, one: &Tally| Tally { count: sum.count + one.count, time: sum.time + one.time };
        self.tallies.iter().fold(Tally::default(), add)
    }
}

/// Shows the hypercalls that were made, by name.
impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = Number::ALL.iter().zip(&self.tallies).filter(|(_, tally)| tally.count > 0);
        f.debug_map().entries(made.map(|(number, tally)| (number.name(), tally))).finish()
    }
}

/// Observer that counts hypercalls and measures their host time.
#[derive(Debug)]
pub(crate) struct Counter {
    calls: Calls,
    begin: Instant,
}

impl Counter {
    pub(crate) fn new() -> Self {
        Self { calls: Calls::default(), begin: Instant::now() }
    }

    pub(crate) fn into_calls(self) -> Calls {
        self.calls
    }
}

impl Observer for Counter {
    fn called(&mut self, _: u32, _: Gpa, _: &GuestSpace<'_>) {
        self.begin = Instant::now();
    }

    fn served(&mut self, number: u32, _: Gpa, _: &GuestSpace<'_>, _: &Result<Flow, HypercallError>) {
        let position = Number::ALL.iter().position(|known| *known as u32 == number);
        if let Some(tally) = position.and_then(|index| self.calls.tallies.get_mut(index)) {
            tally.count += 1;
            tally.time += self.begin.elapsed();
        }
    }
}
