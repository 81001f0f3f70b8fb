//! Time: the TSC, measured against the PIT, and the date from the real-time clock.

use core::arch::x86_64::_rdtsc;

use hvt_tender::device;
use spin::Once;
use x86_64::instructions::{interrupts, port::Port};

use crate::interrupts::PIT_HZ;

/// How long the TSC is held against the PIT: 50 ms.
const CALIBRATION_TICKS: u16 = (PIT_HZ / 20) as u16;

/// See [`Clock::scale`]. The error is below one part in 10^9 for any TSC slower than 4 GHz.
const SHIFT: u32 = 32;

static CLOCK: Once<Clock> = Once::new();

/// The TSC as a clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Ticks of the TSC in a second.
    frequency: u64,
    /// Nanoseconds in a tick, times 2^[`SHIFT`]: a product is much cheaper than a quotient.
    scale: u64,
    /// TSC at the moment of `epoch`.
    base: u64,
    /// Nanoseconds from the Unix epoch to `base`.
    epoch: u64,
}

impl Clock {
    /// The machine's clock; the first call measures it.
    pub(crate) fn get() -> Self {
        *CLOCK.call_once(|| {
            let frequency = measure_frequency();
            let scale = ((1_000_000_000_u128 << SHIFT) / u128::from(frequency)) as u64;
            Self { frequency, scale, base: tsc(), epoch: real_time_clock() * 1_000_000_000 }
        })
    }

    /// Ticks of the TSC in a second.
    pub(crate) fn frequency(&self) -> u64 {
        self.frequency
    }

    /// Nanoseconds since the Unix epoch, UTC.
    pub(crate) fn now(&self) -> u64 {
        let elapsed = (u128::from(tsc().wrapping_sub(self.base)) * u128::from(self.scale)) >> SHIFT;
        self.epoch + elapsed as u64
    }
}

impl device::Clock for Clock {
    fn now(&mut self) -> u64 {
        Self::now(self)
    }
}

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: every 64-bit CPU has it.
    unsafe { _rdtsc() }
}

/// Counts the TSC while channel 2 of the PIT counts down once (mode 0); its output can be read at port 0x61.
fn measure_frequency() -> u64 {
    let [low, high] = CALIBRATION_TICKS.to_le_bytes();
    // SAFETY: these ports belong to PIT and speaker on every PC; the speaker stays off.
    let ticks = interrupts::without_interrupts(|| unsafe {
        let mut gate = Port::<u8>::new(0x61);
        let value = gate.read() & !0b10;
        gate.write(value & !1);
        Port::<u8>::new(0x43).write(0b1011_0000);
        Port::<u8>::new(0x42).write(low);
        Port::<u8>::new(0x42).write(high);
        gate.write(value | 1);
        let start = tsc();
        while gate.read() & 0b10_0000 == 0 {}
        tsc() - start
    });
    (u128::from(ticks) * u128::from(PIT_HZ) / u128::from(CALIBRATION_TICKS)) as u64
}

/// Seconds since the Unix epoch, as the battery-backed clock (MC146818) has them. It is taken to run in UTC.
fn real_time_clock() -> u64 {
    loop {
        let before = hvt_bare::rtc::Registers::read(cmos);
        // A value is whole when no update came between two equal readings.
        if before.is_some() && before == hvt_bare::rtc::Registers::read(cmos) {
            return before.map_or(0, |registers| registers.unix_seconds());
        }
    }
}

/// A register of the CMOS memory.
fn cmos(register: u8) -> u8 {
    // SAFETY: these ports belong to the real-time clock on every PC; reading changes nothing.
    unsafe {
        Port::<u8>::new(0x70).write(register);
        Port::<u8>::new(0x71).read()
    }
}
