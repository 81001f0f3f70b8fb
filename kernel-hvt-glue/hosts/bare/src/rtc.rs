//! Battery-backed clock of a PC (MC146818 data sheet): its registers, and their conversion to a
//! date.

/// Register A: bit 7 is set during an update.
const STATUS_A: u8 = 0x0a;
/// Register B: bit 1 is 24-hour mode, bit 2 is binary mode.
const STATUS_B: u8 = 0x0b;

/// Decoded values of the clock's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    second: u8,
    minute: u8,
    hour: u8,
    day: u8,
    month: u8,
    year: u8,
}

impl Registers {
    /// Reads the registers through `read`. Returns `None` during an update.
    pub fn read(read: impl Fn(u8) -> u8) -> Option<Self> {
        if read(STATUS_A) & 0x80 != 0 {
            return None;
        }
        let status = read(STATUS_B);
        let number = |value: u8| if status & 4 != 0 { value } else { (value >> 4) * 10 + (value & 0xf) };
        let hour = read(4);
        // In 12-hour mode bit 7 is "PM", and 12 stands for 0.
        let hour = match status & 2 {
            0 => number(hour & 0x7f) % 12 + if hour & 0x80 != 0 { 12 } else { 0 },
            _ => number(hour),
        };
        Some(Self {
            second: number(read(0)),
            minute: number(read(2)),
            hour,
            day: number(read(7)),
            month: number(read(8)),
            year: number(read(9)),
        })
    }

    /// Returns the date, of the years 2000 to 2099 and in UTC, as seconds since the Unix epoch.
    pub fn unix_seconds(&self) -> u64 {
        /// Days from 1970-01-01 to 2000-01-01.
        const DAYS_TO_2000: u64 = 10957;
        /// Days before each month in a year that is not a leap year.
        const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let (year, month) = (u64::from(self.year), usize::from(self.month).clamp(1, 12));
        let leap_days = year.div_ceil(4) + u64::from(year.is_multiple_of(4) && month > 2);
        let days = DAYS_TO_2000 + year * 365 + leap_days + BEFORE_MONTH[month - 1] + u64::from(self.day.max(1)) - 1;
        ((days * 24 + u64::from(self.hour)) * 60 + u64::from(self.minute)) * 60 + u64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers 0 to 0xb of a clock.
    fn clock(registers: [u8; 12]) -> Option<u64> {
        Registers::read(|index| registers[usize::from(index)]).map(|registers| registers.unix_seconds())
    }

    #[test]
    fn dates_are_those_of_a_calendar() {
        // 2000-02-29 23:59:59, binary, 24 hours; 2026-11-21 15:49:31, BCD; the same date in 12-hour
        // mode.
        assert_eq!(clock([59, 0, 59, 0, 23, 0, 0, 29, 2, 0, 0, 6]), Some(951_868_799));
        assert_eq!(clock([0x31, 0, 0x49, 0, 0x15, 0, 0, 0x21, 0x11, 0x26, 0, 2]), Some(1_795_276_171));
        assert_eq!(clock([0x31, 0, 0x49, 0, 0x83, 0, 0, 0x21, 0x11, 0x26, 0, 0]), Some(1_795_276_171));
        // Midnight is 12 in 12-hour mode.
        assert_eq!(clock([0, 0, 0, 0, 0x12, 0, 0, 1, 1, 0x70, 0, 0]), Some(3_155_760_000));
    }

    #[test]
    fn a_clock_that_is_changing_is_not_read() {
        assert_eq!(clock([0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0x80, 6]), None);
    }
}
