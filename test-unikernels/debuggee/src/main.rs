//! A guest for inspection with a debugger. Its argument selects its behaviour.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod arch;

use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use guest_bindings::clock::Instant;
use guest_bindings::{ExitStatus, StartInfo, println, yield_until};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

/// Written once per round.
static WATCHED: AtomicU64 = AtomicU64::new(0x1234);
/// Written before and after `WATCHED`, and located next to it.
static BESIDE: AtomicU64 = AtomicU64::new(0);
/// Set by a debugger to end the endless loop.
static LEAVE: AtomicU64 = AtomicU64::new(0);

fn main(start: &StartInfo) -> ExitStatus {
    match start.arguments().next().unwrap_or_default() {
        "rounds" => println!("{}", rounds(5)),
        "spin" => {
            println!("spinning");
            while LEAVE.load(Ordering::Relaxed) == 0 {
                spin_loop();
            }
        }
        "sleep" => {
            println!("sleeping");
            while LEAVE.load(Ordering::Relaxed) == 0 {
                yield_until(Instant::now() + Duration::MAX);
            }
        }
        "trap" => arch::trap(),
        _ => arch::fault(),
    }
    ExitStatus(7)
}

/// Returns the sum of the results of all rounds.
fn rounds(count: u64) -> u64 {
    let mut sum = 0;
    for number in 1..=count {
        BESIDE.fetch_add(1, Ordering::Relaxed);
        sum += one_round(number);
        BESIDE.fetch_add(1, Ordering::Relaxed);
    }
    sum
}

fn one_round(number: u64) -> u64 {
    let doubled = number * 2;
    innermost(doubled)
}

fn innermost(value: u64) -> u64 {
    WATCHED.store(value, Ordering::Relaxed);
    black_box(WATCHED.load(Ordering::Relaxed)) + 1
}
