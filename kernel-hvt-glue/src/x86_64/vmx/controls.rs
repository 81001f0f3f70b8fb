//! VM-execution, exit and entry controls: events that cause exits, and state that entries and exits
//! switch (SDM volume 3, 25.6 to 25.8).

use bitflags::bitflags;

use crate::x86_64::error::Unsupported;

bitflags! {
    /// Pin-based VM-execution controls (table 25-5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct PinBased: u32 {
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        const NMI_EXITING = 1 << 3;
        const ACTIVATE_PREEMPTION_TIMER = 1 << 6;
    }

    /// Primary processor-based VM-execution controls (table 25-6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Primary: u32 {
        const USE_TSC_OFFSETTING = 1 << 3;
        const HLT_EXITING = 1 << 7;
        const MWAIT_EXITING = 1 << 10;
        const RDPMC_EXITING = 1 << 11;
        const CR3_LOAD_EXITING = 1 << 15;
        const CR3_STORE_EXITING = 1 << 16;
        /// CR8 is the task priority of the kernel's local APIC.
        const CR8_LOAD_EXITING = 1 << 19;
        const CR8_STORE_EXITING = 1 << 20;
        const MOV_DR_EXITING = 1 << 23;
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        const USE_MSR_BITMAPS = 1 << 28;
        const MONITOR_EXITING = 1 << 29;
        const ACTIVATE_SECONDARY_CONTROLS = 1 << 31;
    }

    /// Secondary processor-based VM-execution controls (table 25-7). An instruction whose control
    /// is not enabled here raises #UD in a guest: RDTSCP and RDPID, INVPCID, XSAVES, user wait
    /// instructions, PCONFIG, ENCLV.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Secondary: u32 {
        const ENABLE_EPT = 1 << 1;
        const ENABLE_VPID = 1 << 5;
        const WBINVD_EXITING = 1 << 6;
        const ENABLE_ENCLS_EXITING = 1 << 15;
    }

    /// VM-exit controls (table 25-13).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Exit: u32 {
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        const HOST_ADDRESS_SPACE_SIZE = 1 << 9;
        const SAVE_IA32_PAT = 1 << 18;
        const LOAD_IA32_PAT = 1 << 19;
        const SAVE_IA32_EFER = 1 << 20;
        const LOAD_IA32_EFER = 1 << 21;
    }

    /// VM-entry controls (table 25-15).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Entry: u32 {
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        const IA32E_MODE_GUEST = 1 << 9;
        const LOAD_IA32_PAT = 1 << 14;
        const LOAD_IA32_EFER = 1 << 15;
    }
}

/// Capability registers: the low half has the bits that must be 1, the high half the bits that may
/// be 1 (appendix A.2 to A.5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    pub(crate) pin_based: u64,
    pub(crate) primary: u64,
    pub(crate) secondary: u64,
    pub(crate) exit: u64,
    pub(crate) entry: u64,
}

/// Values of the control fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Controls {
    pub(crate) pin_based: u32,
    pub(crate) primary: u32,
    pub(crate) secondary: u32,
    pub(crate) exit: u32,
    pub(crate) entry: u32,
}

impl Controls {
    /// Returns `true` if the preemption timer is enabled.
    pub(crate) const fn has_preemption_timer(&self) -> bool {
        self.pin_based & PinBased::ACTIVATE_PREEMPTION_TIMER.bits() != 0
    }

    /// Returns `true` if ENCLS exits, that is, if the CPU has SGX.
    pub(crate) const fn has_encls_exiting(&self) -> bool {
        self.secondary & Secondary::ENABLE_ENCLS_EXITING.bits() != 0
    }

    /// Returns the controls that this crate requires.
    ///
    /// # Errors
    /// Returns [`Unsupported::Missing`] with the first control that the CPU does not support.
    pub(crate) fn choose(allowed: Allowed, vpid: bool) -> Result<Self, Unsupported> {
        let mut secondary = Secondary::ENABLE_EPT | Secondary::WBINVD_EXITING;
        secondary.set(Secondary::ENABLE_VPID, vpid);
        let has_encls = (allowed.secondary >> 32) as u32 & Secondary::ENABLE_ENCLS_EXITING.bits() != 0;
        secondary.set(Secondary::ENABLE_ENCLS_EXITING, has_encls);
        // The guest owns CR3: the "true" controls allow these two bits to be 0.
        let primary = Primary::all() - Primary::CR3_LOAD_EXITING - Primary::CR3_STORE_EXITING;
        let unwanted = Primary::CR3_LOAD_EXITING | Primary::CR3_STORE_EXITING;
        if allowed.primary as u32 & unwanted.bits() != 0 {
            return Err(Unsupported::Missing { extension: "VMX", feature: "moves to and from CR3 without an exit" });
        }
        let mut pin_based = PinBased::all();
        let has_timer = (allowed.pin_based >> 32) as u32 & PinBased::ACTIVATE_PREEMPTION_TIMER.bits() != 0;
        pin_based.set(PinBased::ACTIVATE_PREEMPTION_TIMER, has_timer);
        Ok(Self {
            pin_based: word(allowed.pin_based, pin_based)?,
            primary: word(allowed.primary, primary)?,
            secondary: word(allowed.secondary, secondary)?,
            exit: word(allowed.exit, Exit::all())?,
            entry: word(allowed.entry, Entry::all())?,
        })
    }
}

/// Returns `wanted` and the bits that must be 1.
fn word<F: bitflags::Flags<Bits = u32>>(allowed: u64, wanted: F) -> Result<u32, Unsupported> {
    let (must, may) = (allowed as u32, (allowed >> 32) as u32);
    let missing = F::from_bits_truncate(wanted.bits() & !may);
    match missing.iter_names().next() {
        Some((feature, _)) => Err(Unsupported::Missing { extension: "VMX", feature }),
        None => Ok(wanted.bits() | must),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every bit may be 1; the bits that must be 1 are the remaining default settings of the "true"
    /// controls.
    pub(crate) const GENEROUS: Allowed = Allowed {
        pin_based: 0xffff_ffff_0000_0016,
        primary: 0xffff_ffff_0400_6172,
        secondary: 0xffff_ffff_0000_0000,
        exit: 0xffff_ffff_0003_6dfb,
        entry: 0xffff_ffff_0000_11fb,
    };

    #[test]
    fn wanted_and_compulsory_bits_are_set() {
        let controls = Controls::choose(GENEROUS, true).unwrap();
        assert_eq!(controls.pin_based, 0x16 | 0x49);
        assert_eq!(controls.primary, 0x0400_6172 | 0xb198_0c88);
        assert_eq!(controls.secondary, 0x8062);
        assert_eq!(controls.exit, 0x0003_6dfb | 0x3c_0204);
        assert_eq!(controls.entry, 0x11fb | 0xc204);
        assert_eq!(Controls::choose(GENEROUS, false).unwrap().secondary, 0x8042);
    }

    #[test]
    fn what_is_missing_is_named() {
        let without = |bit: u32| GENEROUS.primary & !(1 << (32 + bit));
        let why = |primary| Controls::choose(Allowed { primary, ..GENEROUS }, true);
        let missing = |feature| Err(Unsupported::Missing { extension: "VMX", feature });
        assert_eq!(why(without(7)), missing("HLT_EXITING"));
        assert_eq!(why(without(28)), missing("USE_MSR_BITMAPS"));
        assert_eq!(why(GENEROUS.primary | 1 << 15), missing("moves to and from CR3 without an exit"));
    }
}
