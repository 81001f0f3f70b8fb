//! Time: TSC frequency, measured against the PIT, and the date from the real-time clock.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use hvt_harness::clock::{TscClock, tsc};
use spin::Once;
use x86_64::instructions::{interrupts, port::Port};

use crate::interrupts::PIT_HZ;

/// PIT ticks for which the TSC is measured: 50 ms.
const CALIBRATION_TICKS: u16 = (PIT_HZ / 20) as u16;

static CLOCK: Once<TscClock> = Once::new();

/// Returns the machine's clock. The first call measures its frequency.
pub(crate) fn get() -> TscClock {
    *CLOCK.call_once(|| {
        let frequency = measure_frequency();
        TscClock::new(frequency, tsc(), real_time_clock() * 1_000_000_000)
    })
}

/// Measures the TSC frequency while channel 2 of the PIT counts down once (mode 0). The channel's
/// output can be read at port 0x61.
fn measure_frequency() -> u64 {
    let [low, high] = CALIBRATION_TICKS.to_le_bytes();
    // SAFETY: these ports belong to the PIT and the speaker on every PC; the speaker stays off.
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

/// Returns the time of the battery-backed clock (MC146818), in seconds since the Unix epoch. The
/// clock is assumed to run in UTC.
fn real_time_clock() -> u64 {
    loop {
        let before = hvt_bare::rtc::Registers::read(cmos);
        // Two equal readings without an update in between are consistent.
        if before.is_some() && before == hvt_bare::rtc::Registers::read(cmos) {
            return before.map_or(0, |registers| registers.unix_seconds());
        }
    }
}

/// Reads a register of the CMOS memory.
fn cmos(register: u8) -> u8 {
    // SAFETY: these ports belong to the real-time clock on every PC; reading has no side effect.
    unsafe {
        Port::<u8>::new(0x70).write(register);
        Port::<u8>::new(0x71).read()
    }
}
