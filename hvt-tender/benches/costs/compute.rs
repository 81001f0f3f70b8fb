//! Loop without hypercalls.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::arch::asm;
use std::arch::x86_64::_rdtsc;
use std::error::Error;

use crate::guest::{Tender, least, microseconds_per_cycle};

/// Number of additions in the loop.
const ADDITIONS: u64 = 100_000_000;

/// Measures the loop in a guest and in this process, in microseconds.
pub(crate) fn additions(tender: &Tender) -> Result<(f64, f64), Box<dyn Error>> {
    let count = ADDITIONS.to_string();
    let unit = microseconds_per_cycle()?;
    let (mut inside, mut outside) = (f64::INFINITY, f64::INFINITY);
    // Alternately, so that changes of the machine's speed affect both.
    for _ in 0..10 {
        inside = inside.min(least(1, || tender.number("bench-add", &[&count], "cycles:"))?);
        outside = outside.min(here());
    }
    Ok((inside * unit, outside * unit))
}

/// Measures the instructions of the guest's loop in this process, in TSC cycles.
fn here() -> f64 {
    // SAFETY: reads the time-stamp counter and modifies only the two declared registers.
    unsafe {
        let start = _rdtsc();
        asm!(
            "2:",
            "add {sum}, {left}",
            "sub {left}, 1",
            "jnz 2b",
            left = inout(reg) ADDITIONS => _,
            sum = inout(reg) 0_u64 => _,
            options(nomem, nostack),
        );
        (_rdtsc() - start) as f64
    }
}
