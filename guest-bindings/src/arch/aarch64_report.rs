//! Exception state and the text of its report, which equals Solo5's text on this architecture.

use core::fmt;

/// State on the stack when an exception is reported. A tender that dumps core finds this structure
/// through the halt cookie. Up to `esr` its layout equals Solo5's.
#[cfg_attr(test, derive(Default))]
#[repr(C)]
pub(in crate::arch) struct TrapFrame {
    /// X0 to X30.
    pub(in crate::arch) x: [u64; 31],
    /// ELR_EL1: PC.
    pub(in crate::arch) elr: u64,
    /// SPSR_EL1: PSTATE.
    pub(in crate::arch) spsr: u64,
    /// ESR_EL1: syndrome of the exception.
    pub(in crate::arch) esr: u64,
    /// FAR_EL1: address of the faulting access.
    pub(in crate::arch) far: u64,
    /// SP_EL1.
    pub(in crate::arch) sp: u64,
}

/// An exception, identified by the number of its vector in the table.
pub(in crate::arch) struct Report<'a> {
    pub(in crate::arch) frame: &'a TrapFrame,
    pub(in crate::arch) vector: usize,
}

/// Names of the four vectors of a group (Arm ARM, D1.3.1.5).
const KINDS: [&str; 4] = ["Synchronous Abort", "IRQ", "FIQ", "Error"];

/// Values of ESR_EL1.EC for data aborts from EL0 and from EL1 (Arm ARM, D17.2.37).
const DATA_ABORTS: [u64; 2] = [0x24, 0x25];

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame: TrapFrame { x, elr, spsr, esr, far, sp }, vector } = self;
        // The groups are: EL1 on SP_EL0, EL1 on SP_EL1, EL0 in AArch64 state, EL0 in AArch32 state.
        // Only the second group is expected.
        let (group, kind) = (vector / KINDS.len(), KINDS[vector % KINDS.len()]);
        let (level, unexpected) = (u8::from(group < 2), if group == 1 { "" } else { "Invalid " });
        writeln!(f, "Solo5: Trap: EL{level} {unexpected}{kind} caught")?;
        if DATA_ABORTS.contains(&(esr >> 26 & 0x3f)) {
            writeln!(f, "Data Abort Address: {far:#018x}")?;
        }
        writeln!(f, "Solo5: Dump registers:")?;
        for (name, value) in [("ESR", esr), ("PC", elr), ("LR", &x[30]), ("SP", sp), ("PSTATE", spsr)] {
            writeln!(f, "\t {name:<7}: {value:#018x}")?;
        }
        for (row, values) in x[..30].chunks(4).enumerate() {
            let (first, last) = (4 * row, 4 * row + values.len() - 1);
            write!(f, "\t x{first:02} ~ x{last:02}:")?;
            values.iter().try_for_each(|value| write!(f, " {value:#018x}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use core::mem::offset_of;
    use std::string::ToString;

    fn report(frame: &TrapFrame, vector: usize) -> String {
        Report { frame, vector }.to_string()
    }

    #[test]
    fn a_data_abort_is_reported_as_solo5_does() {
        let mut x: [u64; 31] = core::array::from_fn(|number| number as u64);
        x[30] = 0x10_3724;
        let (elr, spsr, esr, far) = (0x10_3730, 0x6000_03c5, 0x9600_0045, 0x4_0000_0000);
        let text = report(&TrapFrame { x, elr, spsr, esr, far, sp: 0x3ff_ff70 }, 4);
        let start = "Solo5: Trap: EL1 Synchronous Abort caught\n\
            Data Abort Address: 0x0000000400000000\n\
            Solo5: Dump registers:\n\
            \t ESR    : 0x0000000096000045\n\
            \t PC     : 0x0000000000103730\n\
            \t LR     : 0x0000000000103724\n\
            \t SP     : 0x0000000003ffff70\n\
            \t PSTATE : 0x00000000600003c5\n\
            \t x00 ~ x03: 0x0000000000000000 0x0000000000000001 0x0000000000000002 0x0000000000000003\n";
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with("\t x28 ~ x29: 0x000000000000001c 0x000000000000001d\n"), "{text}");
    }

    #[test]
    fn only_a_data_abort_has_an_address() {
        // EC 0x21: an instruction abort.
        let text = report(&TrapFrame { esr: 0x8600_0007, ..TrapFrame::default() }, 4);
        assert!(!text.contains("Address"), "{text}");
    }

    #[test]
    fn vectors_are_named_by_where_they_lead_from() {
        let first_line = |vector| report(&TrapFrame::default(), vector).lines().next().unwrap().to_string();
        assert_eq!(first_line(5), "Solo5: Trap: EL1 IRQ caught");
        assert_eq!(first_line(7), "Solo5: Trap: EL1 Error caught");
        assert_eq!(first_line(8), "Solo5: Trap: EL0 Invalid Synchronous Abort caught");
        assert_eq!(first_line(14), "Solo5: Trap: EL0 Invalid FIQ caught");
    }

    #[test]
    fn a_frame_is_laid_out_as_solo5s() {
        // x0 to x29, LR, ELR_EL1, SPSR_EL1, ESR_EL1.
        assert_eq!((offset_of!(TrapFrame, x), offset_of!(TrapFrame, elr)), (0, 31 * 8));
        assert_eq!((offset_of!(TrapFrame, spsr), offset_of!(TrapFrame, esr)), (32 * 8, 33 * 8));
    }
}
