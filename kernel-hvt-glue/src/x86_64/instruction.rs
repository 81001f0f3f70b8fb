//! Decoder for the few intercepted instructions whose length or operand the CPU does not always
//! report.
//!
//! SVM without nRIP-save and decode assists reports the kind of instruction, but neither its length
//! nor its register. Prefixes without effect are allowed everywhere, so the bytes must be decoded.

/// Maximum length of an instruction in bytes (SDM volume 2, 2.3.11).
pub(crate) const MAX_LENGTH: usize = 15;

/// Instruction that causes an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `cpuid`
    Cpuid,
    /// `hlt`
    Hlt,
    /// `rdmsr`
    Rdmsr,
    /// `wrmsr`
    Wrmsr,
    /// `xsetbv`
    Xsetbv,
    /// `invd`, `wbinvd`, `wbnoinvd`. QEMU's emulation of SVM reports `invd` as `wbinvd`.
    InvalidateCaches,
    /// `mov crN, reg`
    MovToControlRegister {
        /// Number N of the control register.
        control: u8,
        /// Number of the general register: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, ..
        general: u8,
    },
}

/// An instruction and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) operation: Operation,
    pub(crate) length: u8,
}

/// Decodes the instruction at the start of `bytes`. Returns `None` if it is not an [`Operation`].
/// `long` selects 64-bit mode, in which REX prefixes exist.
pub(crate) fn decode(bytes: &[u8], long: bool) -> Option<Instruction> {
    let mut rest = bytes.iter().copied().take(MAX_LENGTH);
    let mut length = 0;
    let mut next = || {
        length += 1;
        rest.next()
    };
    let mut opcode = next()?;
    // All legacy prefixes except LOCK, which turns `mov cr0` into `mov cr8` on AMD (APM volume 3,
    // MOV CRn).
    while matches!(opcode, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf2 | 0xf3) {
        opcode = next()?;
    }
    let mut rex = 0;
    if long && opcode & 0xf0 == 0x40 {
        rex = opcode;
        opcode = next()?;
    }
    let operation = match opcode {
        0xf4 => Operation::Hlt,
        0x0f => match next()? {
            0x01 if next()? == 0xd1 => Operation::Xsetbv,
            0x08 | 0x09 => Operation::InvalidateCaches,
            0x22 => {
                let modrm = next()?;
                let extend = |field: u8, bit: u8| field & 7 | (rex >> bit & 1) << 3;
                Operation::MovToControlRegister { control: extend(modrm >> 3, 2), general: extend(modrm, 0) }
            }
            0x30 => Operation::Wrmsr,
            0x32 => Operation::Rdmsr,
            0xa2 => Operation::Cpuid,
            _ => return None,
        },
        _ => return None,
    };
    Some(Instruction { operation, length })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(bytes: &[u8]) -> Option<(Operation, u8)> {
        decode(bytes, true).map(|i| (i.operation, i.length))
    }

    #[test]
    fn plain_instructions() {
        assert_eq!(decoded(&[0xf4]), Some((Operation::Hlt, 1)));
        assert_eq!(decoded(&[0x0f, 0xa2]), Some((Operation::Cpuid, 2)));
        assert_eq!(decoded(&[0x0f, 0x32]), Some((Operation::Rdmsr, 2)));
        assert_eq!(decoded(&[0x0f, 0x30]), Some((Operation::Wrmsr, 2)));
        assert_eq!(decoded(&[0x0f, 0x01, 0xd1]), Some((Operation::Xsetbv, 3)));
        assert_eq!(decoded(&[0x0f, 0x08]), Some((Operation::InvalidateCaches, 2)));
        assert_eq!(decoded(&[0xf3, 0x0f, 0x09]), Some((Operation::InvalidateCaches, 3)));
    }

    #[test]
    fn prefixes_are_counted_and_the_last_rex_counts() {
        assert_eq!(decoded(&[0x66, 0xf3, 0x2e, 0xf4]), Some((Operation::Hlt, 4)));
        assert_eq!(decoded(&[0x48, 0x0f, 0xa2]), Some((Operation::Cpuid, 3)));
        assert_eq!(decode(&[0x48, 0x0f, 0xa2], false), None, "dec eax");
        assert_eq!(decoded(&[0xf0, 0x0f, 0x22, 0xc0]), None, "lock");
        assert_eq!(decoded(&[0x48, 0x66, 0x0f, 0xa2]), None, "a REX prefix stands last");
        assert_eq!(decoded(&[0x66; 15]), None);
        let mut longest = [0x66; 15];
        longest[14] = 0xf4;
        assert_eq!(decoded(&longest), Some((Operation::Hlt, 15)));
    }

    #[test]
    fn moves_to_control_registers_name_both_registers() {
        let mov = |control, general| Operation::MovToControlRegister { control, general };
        assert_eq!(decoded(&[0x0f, 0x22, 0xe0]), Some((mov(4, 0), 3)));
        assert_eq!(decoded(&[0x0f, 0x22, 0xc7]), Some((mov(0, 7), 3)));
        assert_eq!(decoded(&[0x41, 0x0f, 0x22, 0xe1]), Some((mov(4, 9), 4)));
        assert_eq!(decoded(&[0x44, 0x0f, 0x22, 0xc0]), Some((mov(8, 0), 4)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_too_far(
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            long: bool,
        ) {
            if let Some(instruction) = decode(&bytes, long) {
                let length = usize::from(instruction.length);
                prop_assert!(length <= MAX_LENGTH && length <= bytes.len());
                prop_assert_eq!(decode(&bytes[..length], long), Some(instruction));
                prop_assert_eq!(decode(&bytes[..length - 1], long), None);
            }
        }
    }
}
