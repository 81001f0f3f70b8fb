//! Description of an aarch64 exception in words (Arm ARM, D17.2.37).

use core::fmt;

/// An exception taken to EL1.
pub(super) struct Syndrome {
    /// ESR_EL1.
    pub(super) esr: u64,
    /// FAR_EL1, if it is valid for the exception.
    pub(super) far: u64,
}

impl Syndrome {
    /// EC: the class of the exception.
    fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Bits of ISS.
    fn is_set(&self, bit: u32) -> bool {
        self.esr >> bit & 1 == 1
    }

    /// Name of the fault (DFSC, IFSC); `None` for rare ones.
    fn fault(&self) -> Option<&'static str> {
        Some(match self.esr & 0x3f {
            0b00_0000..=0b00_0011 => "address size fault",
            0b00_0100..=0b00_0111 => "translation fault",
            0b00_1000..=0b00_1011 => "access flag fault",
            0b00_1100..=0b00_1111 => "permission fault",
            0b01_0000 => "synchronous external abort",
            0b10_0001 => "alignment fault",
            _ => return None,
        })
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// FnV: FAR_EL1 is not valid.
        const FNV: u32 = 10;
        /// WnR: the access is a write or cache maintenance, which counts as a write.
        const WNR: u32 = 6;
        let Self { esr, far } = self;
        match self.class() {
            0x00 => f.write_str("an instruction that does not exist")?,
            0x07 => f.write_str("floating point or SIMD while disabled")?,
            0x0e => f.write_str("an illegal execution state")?,
            0x15 => write!(f, "svc #{:#x}", esr & 0xffff)?,
            0x18 => f.write_str("a trapped system instruction")?,
            class @ (0x20 | 0x21 | 0x24 | 0x25) => {
                f.write_str(match class {
                    0x20 | 0x21 => "it ran code at ",
                    _ if self.is_set(WNR) => "it wrote to ",
                    _ => "it read from ",
                })?;
                if self.is_set(FNV) {
                    f.write_str("an unknown address")?
                } else {
                    write!(f, "{far:#x}")?
                }
                self.fault().map_or(Ok(()), |fault| write!(f, ": {fault}"))?;
            }
            0x22 => write!(f, "a branch to {far:#x}: misaligned PC")?,
            0x26 => f.write_str("a misaligned stack pointer")?,
            0x2c => f.write_str("a floating-point exception")?,
            0x2f => f.write_str("an SError")?,
            0x30..=0x35 => f.write_str("a debug exception")?,
            0x3c => write!(f, "brk #{:#x}", esr & 0xffff)?,
            class => write!(f, "class {class:#x}")?,
        }
        write!(f, " (esr_el1={esr:#x})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use alloc::string::ToString;

    fn words(esr: u64) -> alloc::string::String {
        Syndrome { esr, far: 0x1234 }.to_string()
    }

    #[test]
    fn aborts_name_the_access_and_the_fault() {
        assert_eq!(words(0x9600_0047), "it wrote to 0x1234: translation fault (esr_el1=0x96000047)");
        assert_eq!(words(0x9600_000f), "it read from 0x1234: permission fault (esr_el1=0x9600000f)");
        assert_eq!(words(0x8600_0010), "it ran code at 0x1234: synchronous external abort (esr_el1=0x86000010)");
        assert_eq!(words(0x9600_0021), "it read from 0x1234: alignment fault (esr_el1=0x96000021)");
        assert_eq!(
            words(0x9600_0410),
            "it read from an unknown address: synchronous external abort (esr_el1=0x96000410)"
        );
        assert_eq!(words(0x9600_0035), "it read from 0x1234 (esr_el1=0x96000035)");
    }

    #[test]
    fn other_exceptions_are_named() {
        for (esr, said) in [
            (0x200_0000, "an instruction that does not exist (esr_el1=0x2000000)"),
            (0x5600_0005, "svc #0x5 (esr_el1=0x56000005)"),
            (0xf200_0007, "brk #0x7 (esr_el1=0xf2000007)"),
            (0x8a00_0000, "a branch to 0x1234: misaligned PC (esr_el1=0x8a000000)"),
            (0xfe00_0000, "class 0x3f (esr_el1=0xfe000000)"),
        ] {
            assert_eq!(words(esr), said);
        }
    }
}
