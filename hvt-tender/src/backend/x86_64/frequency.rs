//! x86_64: the time-stamp counter.
//!
//! The guest receives the frequency before its first instruction, so that finding it must cost next
//! to nothing. Sources, with error and cost (measured on an EPYC 7003 under a hypervisor, where
//! each CPUID leaf costs 4.5 µs and the two leaves are empty):
//!
//! | source | error | cost |
//! |---|---|---|
//! | `KVM_GET_TSC_KHZ` | 0.2 ppm: the value is in kHz | under 1 µs, but needs a vCPU |
//! | CPUID leaf 15H, on bare Intel CPUs | error of the crystal | two CPUID |
//! | CPUID leaf 4000_0010H, of some hypervisors | 0.2 ppm: the value is in kHz | three CPUID |
//! | measurement against the kernel's clock for 0.3 ms | 0.6 ppm (worst of 300: 7 ppm) | 5 µs at either end |
//! | measurement for 0.1 ms | 5 ppm (worst of 1,000: 30 ppm) | the same |
//! | `perf_event_open`, `time_mult` of its page | error of the kernel's value | 8 to 20 ms: the kernel waits for all its CPUs; unavailable under kvm-clock |
//! | CPUID leaf 16H | up to 3,000 ppm: the value is the marketing frequency | three CPUID |
//!
//! The first four are used, in this order. A [`Search`] that begins with the start of the tender
//! measures during the start and rarely has to wait.

#![expect(unsafe_code, reason = "instructions that read the counter of the CPU")]

use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc, CpuidResult};
use std::io;
use std::time::Duration;

use crate::backend::BackendError;
use crate::backend::frequency::{Frequency, Source};
use crate::sys::timer::STEADY_CLOCK;

/// Search for the frequency of the TSC, from [`begin`](Self::begin) to [`finish`](Self::finish),
/// with useful work between them.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    begin: Sample,
}

impl Search {
    /// Longest wait of [`finish`](Self::finish), for clocks that are slow to read.
    const LONGEST: Duration = Duration::from_millis(10);
    /// Shortest time between two samples.
    const SHORTEST: Duration = Duration::from_micros(100);

    /// Begins the search.
    #[must_use]
    pub(crate) fn begin() -> Self {
        Self { begin: Sample::take() }
    }

    /// Returns the frequency. Waits until at least 0.1 ms have passed since the beginning.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the counter cannot be measured.
    pub(crate) fn finish(self) -> Result<Frequency, BackendError> {
        match enumerated() {
            Some(frequency) => Ok(frequency),
            None => self.measure(),
        }
    }

    fn measure(self) -> Result<Frequency, BackendError> {
        // The error of a reading is a fraction of its width, so that a slow clock needs a longer
        // measurement.
        const WIDTHS: u32 = 1000;
        let wanted = (self.begin.width * WIDTHS).clamp(Self::SHORTEST, Self::LONGEST);
        let end = loop {
            let end = Sample::take();
            if end.nanos_since(&self.begin) >= wanted.as_nanos() as f64 {
                break end;
            }
        };
        let hz = end.cycles_since(&self.begin) / end.nanos_since(&self.begin) * 1e9;
        // No TSC has ever run slower than 1 MHz: this one has stopped.
        if hz < 1e6 {
            let source = io::Error::other(format!("it counts {hz:.0} cycles a second"));
            return Err(BackendError { what: "measuring the frequency of the TSC", source });
        }
        Ok(Frequency { hz: hz.round() as u64, source: Source::Clock })
    }
}

/// Frequency according to CPUID.
fn enumerated() -> Option<Frequency> {
    /// CPUID.1:ECX bit 31: 0 on every CPU, set by hypervisors for their guests (APM volume 3, E.3.2).
    const HYPERVISOR: u32 = 1 << 31;
    /// First of the leaves reserved for hypervisors; its EAX is the last of them.
    const HYPERVISOR_BASE: u32 = 0x4000_0000;
    const HYPERVISOR_TIMING: u32 = HYPERVISOR_BASE + 0x10;
    const CRYSTAL: u32 = 0x15;

    if __cpuid(1).ecx & HYPERVISOR != 0 {
        // Leaf 15H may describe another host, from which this virtual machine was migrated.
        let known = __cpuid(HYPERVISOR_BASE).eax >= HYPERVISOR_TIMING;
        let khz = if known { __cpuid(HYPERVISOR_TIMING).eax } else { 0 };
        (khz != 0).then(|| Frequency { hz: u64::from(khz) * 1000, source: Source::Hypervisor })
    } else {
        let known = __cpuid(0).eax >= CRYSTAL;
        let hz = if known { crystal(__cpuid(CRYSTAL)) } else { None };
        hz.map(|hz| Frequency { hz, source: Source::Cpu })
    }
}

/// Frequency in leaf 15H: core crystal clock in ECX, times EBX / EAX. Any of them may be 0 for
/// unknown.
fn crystal(leaf: CpuidResult) -> Option<u64> {
    let product = u64::from(leaf.ecx) * u64::from(leaf.ebx);
    product.checked_div(leaf.eax.into()).filter(|hz| *hz != 0)
}

/// TSC and kernel clock at the same moment.
///
/// Both are means of many readings, because a clock may tick in steps (an EPYC's TSC in steps of 10
/// ns) and the means do not.
#[derive(Clone, Debug)]
struct Sample {
    /// TSC, in [fractions](Self::FRACTIONS).
    cycles: u128,
    /// `CLOCK_MONOTONIC_RAW`, which is never adjusted, in fractions of a nanosecond.
    nanos: u128,
    /// Duration of the quickest reading.
    width: Duration,
}

impl Sample {
    /// Fractions of a cycle or a nanosecond.
    const FRACTIONS: u128 = 1 << 16;
    const READINGS: usize = 64;

    fn take() -> Self {
        let readings: [Reading; Self::READINGS] = std::array::from_fn(|_| Reading::take());
        let quickest = readings.iter().map(Reading::width).min().unwrap_or(0);
        // The other readings were interrupted between their two reads of the TSC.
        let good = readings.iter().filter(|reading| reading.width() <= quickest + quickest / 2);
        let (mut cycles, mut nanos, mut count) = (0, 0, 0);
        for reading in good {
            cycles += u128::from(reading.before) + u128::from(reading.after);
            nanos += u128::from(reading.nanos);
            count += 1;
        }
        let took = readings[Self::READINGS - 1].nanos.saturating_sub(readings[0].nanos);
        Self {
            cycles: cycles * Self::FRACTIONS / (2 * count),
            nanos: nanos * Self::FRACTIONS / count,
            width: Duration::from_nanos(took / Self::READINGS as u64),
        }
    }

    fn cycles_since(&self, earlier: &Self) -> f64 {
        self.cycles.saturating_sub(earlier.cycles) as f64 / Self::FRACTIONS as f64
    }

    fn nanos_since(&self, earlier: &Self) -> f64 {
        self.nanos.saturating_sub(earlier.nanos) as f64 / Self::FRACTIONS as f64
    }
}

/// One read of the kernel's clock between two reads of the TSC.
struct Reading {
    before: u64,
    nanos: u64,
    after: u64,
}

impl Reading {
    fn take() -> Self {
        let before = tsc();
        let nanos = nanos();
        Self { before, nanos, after: tsc() }
    }

    fn width(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }
}

/// Reads the TSC after everything before has completed and before anything behind begins (SDM
/// volume 2, RDTSC).
fn tsc() -> u64 {
    // SAFETY: every x86_64 CPU has LFENCE and RDTSC. CR4.TSD, which would deny RDTSC, is set only
    // at a process's own request (`PR_SET_TSC`), and such a process could not run a guest.
    unsafe {
        _mm_lfence();
        let cycles = _rdtsc();
        _mm_lfence();
        cycles
    }
}

fn nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure on this stack. Cannot fail: the clock exists since Linux 2.6.28.
    unsafe { libc::clock_gettime(STEADY_CLOCK, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn crystal_leaf_is_used_only_where_it_is_complete() {
        let leaf = |eax, ebx, ecx| CpuidResult { eax, ebx, ecx, edx: 0 };
        assert_eq!(crystal(leaf(2, 216, 24_000_000)), Some(2_592_000_000));
        assert_eq!(crystal(leaf(2, 216, 0)), None, "crystal not enumerated");
        assert_eq!(crystal(leaf(0, 0, 0)), None);
    }

    #[test]
    fn short_search_agrees_with_a_long_one() {
        let long = Search::begin();
        let begun = Instant::now();
        let short = Search::begin().measure().unwrap();
        while begun.elapsed() < Duration::from_millis(30) {
            std::thread::yield_now();
        }
        let long = long.measure().unwrap();
        let error = short.hz.abs_diff(long.hz) as f64 / long.hz as f64;
        assert!(error < 500e-6, "{} Hz in a short search, {} Hz in a long one", short.hz, long.hz);
        assert_eq!(short.source, Source::Clock);
    }
}
