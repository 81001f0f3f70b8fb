//! Sleeps, and compares the two clocks.
#![no_std]
#![no_main]

use core::time::Duration;

use guest_bindings::clock::{self, Instant};
use guest_bindings::{ExitStatus, StartInfo, println, yield_until};
use test_unikernels::{check, success};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

const SLEEP: Duration = Duration::from_millis(100);
/// Maximum delay of a wakeup on a busy host.
const LATE: Duration = Duration::from_secs(2);
/// Maximum difference of the clocks: the measured time divided by this number.
const ACCURACY: u32 = 500;
/// 1 January 2020.
const PAST: Duration = Duration::from_secs(1_577_836_800);

fn main(_: &StartInfo) -> ExitStatus {
    let start = Instant::now();
    while Instant::now() == start {}

    let past = Instant::now();
    check(yield_until(past).is_empty(), "a guest without devices has one that is ready");
    check(past.elapsed() < LATE, "the guest slept despite a deadline in the past");

    check(clock::wall() > PAST, format_args!("the wall clock says {:?}", clock::wall()));
    let before = Reading::new();
    for _ in 0..5 {
        let start = Instant::now();
        yield_until(start + SLEEP);
        let slept = start.elapsed();
        println!("slept {slept:?}");
        check(slept >= SLEEP, "woke up too early");
        check(slept < SLEEP + LATE, "woke up too late");
    }
    before.compare(&Reading::new());
    success()
}

/// The wall clock, read between two reads of the monotonic clock.
struct Reading {
    before: Instant,
    wall: Duration,
    after: Instant,
}

impl Reading {
    /// Takes the most precise of several readings, because the host may interrupt a reading.
    fn new() -> Self {
        let mut best = Self::once();
        for _ in 0..20 {
            let reading = Self::once();
            if reading.width() < best.width() {
                best = reading;
            }
        }
        best
    }

    fn once() -> Self {
        Self { before: Instant::now(), wall: clock::wall(), after: Instant::now() }
    }

    fn width(&self) -> Duration {
        self.after.saturating_duration_since(self.before)
    }

    /// Checks that both clocks have advanced by the same time.
    fn compare(&self, later: &Self) {
        let wall = later.wall.saturating_sub(self.wall);
        let shortest = later.before.saturating_duration_since(self.after);
        let longest = later.after.saturating_duration_since(self.before);
        println!("wall clock {wall:?}, monotonic clock {shortest:?} to {longest:?}");
        check(wall + wall / ACCURACY >= shortest, "the wall clock is slower");
        check(wall - wall / ACCURACY <= longest, "the wall clock is faster");
    }
}
