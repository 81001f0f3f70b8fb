//! aarch64: memory map, entry state and hypercall mechanism.
//!
//! Section numbers refer to the *Arm Architecture Reference Manual for A-profile architecture* (Arm
//! ARM, DDI 0487), issue J.a. Its chapter *AArch64 System Register Descriptions* lists the
//! registers by name.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{BOOT_INFO_BASE, Gpa};

/// Address of the level 0 translation table, which TTBR0_EL1 holds at entry.
pub const PGD_BASE: Gpa = Gpa(0x1000);
/// Address of the level 1 translation table.
pub const PUD_BASE: Gpa = Gpa(0x2000);
/// Address of the four level 2 translation tables, one for each GiB.
pub const PMD_BASE: Gpa = Gpa(0x3000);
/// Address of the level 3 translation table of the first 2 MiB. Further level 3 tables follow.
pub const PTE_BASE: Gpa = Gpa(0x7000);

/// Address of the exception vectors, which VBAR_EL1 holds at entry. They occupy the last page below
/// [`GUEST_MIN_BASE`](crate::GUEST_MIN_BASE).
pub const VECTORS_BASE: Gpa = Gpa(0xf_f000);
/// Distance in bytes between two vectors (Arm ARM, D1.3.1.5). There are 16 vectors.
pub const VECTOR_SIZE: u64 = 0x80;
/// Address to which each of the [`VECTORS`] makes a 32-bit store. It is device memory used neither
/// for hypercalls nor for kicks. The store reports an exception to the tender if the guest has not
/// installed its own vectors.
pub const UNHANDLED_EXCEPTION: Gpa = Gpa(0x1_0000_0800);
/// Offset in bytes of the 32-bit store from the start of its vector.
pub const UNHANDLED_STORE: u64 = 2 * 4;

/// Exception vectors at entry, as 64-bit words of two instructions each. They need no stack. They
/// modify only X0 and save its value in TPIDR_EL1:
///
/// ```text
/// msr tpidr_el1, x0
/// mov x0, #0x100000000
/// str wzr, [x0, #0x800]
/// b .
/// ```
pub const VECTORS: [u64; 256] = {
    const WORDS: usize = VECTOR_SIZE as usize / 8;
    let mut words = [0; 16 * WORDS];
    let mut vector = 0;
    while vector < words.len() {
        words[vector] = 0xd2c0_0020_d518_d080;
        words[vector + 1] = 0x1400_0000_b908_001f;
        vector += WORDS;
    }
    words
};

/// `AARCH64_MMIO_BASE`: first address of the device memory that carries hypercalls.
pub const MMIO_BASE: Gpa = Gpa(0x1_0000_0000);
/// `AARCH64_MMIO_SZ`: size of the device memory that carries hypercalls, in bytes.
pub const MMIO_SIZE: u64 = 0x4000_0000;
/// Distance in bytes between hypercall addresses. To make hypercall *n*, the guest stores the
/// 32-bit address of the argument to [`MMIO_BASE`] plus *n* times this distance.
pub const HYPERCALL_STRIDE: u64 = 8;
/// `HVT_RING_KICK_MMIO_BASE`: address of the ring kick. A 32-bit store of a ring's number wakes the
/// tender's side of that ring. Addresses below it are for hypercalls.
pub const RING_KICK: Gpa = Gpa(0x1_0000_0100);

/// Size in bits of virtual and physical addresses at entry, as set by T0SZ, T1SZ and IPS in
/// [`Tcr::ENTRY`].
pub const ADDRESS_BITS: u32 = 40;

bitflags! {
    /// System control register, SCTLR_EL1. Only the bits used here are listed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Sctlr: u64 {
        /// Enables address translation at EL0 and EL1.
        const M = 1 << 0;
        /// Enables alignment checks.
        const A = 1 << 1;
        /// Makes data accesses cacheable.
        const C = 1 << 2;
        /// Enables the SP alignment check at EL1.
        const SA = 1 << 3;
        /// An exception return is a context synchronization event. RES1 without FEAT_ExS.
        const EOS = 1 << 11;
        /// Makes instruction fetches cacheable.
        const I = 1 << 12;
        /// Makes writable memory non-executable.
        const WXN = 1 << 19;
        /// Traps EL0 accesses to SCXTNUM_EL0. RES1 without FEAT_CSV2_2.
        const TSCXT = 1 << 20;
        /// Exception entry is a context synchronization event. RES1 without FEAT_ExS.
        const EIS = 1 << 22;
        /// Exception entry leaves PSTATE.PAN unchanged. RES1 without FEAT_PAN.
        const SPAN = 1 << 23;
        /// Load and store multiple instructions to device memory do not trap. RES1 without
        /// FEAT_LSMAOC.
        const NTLSMD = 1 << 28;
        /// Load and store multiple instructions have the ordering of Armv8.0. RES1 without
        /// FEAT_LSMAOC.
        const LSMAOE = 1 << 29;

        /// Bits that are RES1 on CPUs without the named feature. On other CPUs, setting them has no
        /// effect on a guest.
        const RES1 = Self::EOS.bits() | Self::TSCXT.bits() | Self::EIS.bits() | Self::SPAN.bits()
            | Self::NTLSMD.bits() | Self::LSMAOE.bits();
        /// Value at entry: translation and caches enabled.
        const ENTRY = Self::M.bits() | Self::C.bits() | Self::I.bits() | Self::RES1.bits();
    }

    /// Translation control register, TCR_EL1. A field of several bits is listed with the value used
    /// here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Tcr: u64 {
        /// T0SZ: virtual addresses of the lower range have [`ADDRESS_BITS`] bits.
        const T0SZ = 64 - ADDRESS_BITS as u64;
        /// IRGN0: table walks use the inner write-back caches.
        const IRGN0_WB = 1 << 8;
        /// ORGN0: table walks use the outer write-back caches.
        const ORGN0_WB = 1 << 10;
        /// SH0: translation tables are inner shareable.
        const SH0_INNER = 3 << 12;
        /// T1SZ: virtual addresses of the upper range have [`ADDRESS_BITS`] bits.
        const T1SZ = (64 - ADDRESS_BITS as u64) << 16;
        /// EPD1: disables table walks for the upper range. Every access to it is a translation
        /// fault.
        const EPD1 = 1 << 23;
        /// IRGN1: as IRGN0, for the upper range.
        const IRGN1_WB = 1 << 24;
        /// ORGN1: as ORGN0, for the upper range.
        const ORGN1_WB = 1 << 26;
        /// SH1: as SH0, for the upper range.
        const SH1_INNER = 3 << 28;
        /// TG1: 4 KiB granule for the upper range. TG0 encodes 4 KiB as 0.
        const TG1_4K = 2 << 30;
        /// IPS: physical addresses have [`ADDRESS_BITS`] bits.
        const IPS_40_BITS = 2 << 32;
        /// AS: address space identifiers (ASIDs) have 16 bits.
        const AS = 1 << 36;
        /// TBI0: the top byte of an address in the lower range is ignored.
        const TBI0 = 1 << 37;

        /// Value at entry: the value of Solo5 plus [`EPD1`](Self::EPD1).
        const ENTRY = Self::T0SZ.bits() | Self::IRGN0_WB.bits() | Self::ORGN0_WB.bits() | Self::SH0_INNER.bits()
            | Self::T1SZ.bits() | Self::EPD1.bits() | Self::IRGN1_WB.bits() | Self::ORGN1_WB.bits()
            | Self::SH1_INNER.bits() | Self::TG1_4K.bits() | Self::IPS_40_BITS.bits() | Self::AS.bits()
            | Self::TBI0.bits();
    }

    /// Architectural feature access control register, CPACR_EL1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cpacr: u64 {
        /// FPEN: floating-point and SIMD instructions do not trap.
        const FPEN = 3 << 20;
    }

    /// Process state in the layout of SPSR_EL1. Only the bits used here are listed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pstate: u64 {
        /// M: EL1 with SP_EL1 as the stack pointer.
        const EL1H = 0b0101;
        /// FIQ interrupts are masked.
        const F = 1 << 6;
        /// IRQ interrupts are masked.
        const I = 1 << 7;
        /// SError exceptions are masked.
        const A = 1 << 8;
        /// Debug exceptions are masked.
        const D = 1 << 9;
        /// Software step is active.
        const SS = 1 << 21;

        /// Value at entry: EL1 with all interrupts masked.
        const ENTRY = Self::EL1H.bits() | Self::F.bits() | Self::I.bits() | Self::A.bits() | Self::D.bits();
    }

    /// Stage 1 translation table entry for the 4 KiB granule (Arm ARM, D8.3). An entry also
    /// contains the address and the [attribute index](Mair).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Descriptor: u64 {
        /// The entry is valid.
        const VALID = 1 << 0;
        /// At level 3: a page. At the levels above: a table instead of a block.
        const TABLE_OR_PAGE = 1 << 1;
        /// AP\[1\]: accessible at EL0.
        const AP_EL0 = 1 << 6;
        /// AP\[2\]: read-only.
        const AP_READ_ONLY = 1 << 7;
        /// SH: inner shareable.
        const SH_INNER = 3 << 8;
        /// AF: access flag. The first access to an entry without the flag is a fault.
        const AF = 1 << 10;
        /// PXN: not executable at EL1.
        const PXN = 1 << 53;
        /// UXN: not executable at EL0.
        const UXN = 1 << 54;
    }
}

/// Memory type: an index into MAIR_EL1 with its attributes at entry. The order is the order of
/// Solo5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mair {
    /// Device memory without gathering, reordering or early write acknowledgement.
    DeviceNGnRnE = 0,
    /// Device memory without gathering or reordering, with early write acknowledgement.
    DeviceNGnRE = 1,
    /// Device memory with gathering, reordering and early write acknowledgement.
    DeviceGre = 2,
    /// Normal memory, non-cacheable.
    NormalNonCacheable = 3,
    /// Normal memory, write-back cacheable.
    Normal = 4,
    /// Normal memory, write-through cacheable.
    NormalWriteThrough = 5,
}

impl Mair {
    /// All memory types, in the order of their indices.
    pub const ALL: [Self; 6] = [
        Self::DeviceNGnRnE,
        Self::DeviceNGnRE,
        Self::DeviceGre,
        Self::NormalNonCacheable,
        Self::Normal,
        Self::NormalWriteThrough,
    ];

    /// Value of MAIR_EL1 at entry.
    pub const ENTRY: u64 = {
        let (mut register, mut index) = (0, 0);
        while index < Self::ALL.len() {
            let kind = Self::ALL[index];
            register |= (kind.attributes() as u64) << (8 * kind as u8);
            index += 1;
        }
        register
    };

    /// Returns the Attr\<n\> field of MAIR_EL1 for this memory type.
    #[must_use]
    pub const fn attributes(self) -> u8 {
        match self {
            Self::DeviceNGnRnE => 0x00,
            Self::DeviceNGnRE => 0x04,
            Self::DeviceGre => 0x0c,
            Self::NormalNonCacheable => 0x44,
            Self::Normal => 0xff,
            Self::NormalWriteThrough => 0xbb,
        }
    }

    /// Returns the AttrIndx field of a [`Descriptor`] for this memory type.
    #[must_use]
    pub const fn index(self) -> u64 {
        (self as u64) << 2
    }
}

/// State of the virtual CPU at the guest's entry point. General-purpose registers that are not
/// listed are 0, and so are the floating-point registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// SCTLR_EL1.
    pub sctlr: Sctlr,
    /// TCR_EL1.
    pub tcr: Tcr,
    /// MAIR_EL1.
    pub mair: u64,
    /// TTBR0_EL1.
    pub ttbr0: Gpa,
    /// CPACR_EL1.
    pub cpacr: Cpacr,
    /// VBAR_EL1.
    pub vbar: Gpa,
    /// PSTATE.
    pub pstate: Pstate,
    /// PC: the ELF entry point.
    pub pc: Gpa,
    /// SP_EL1: a multiple of 16, as the procedure call standard (AAPCS64) requires.
    pub sp: Gpa,
    /// X0: address of [`BootInfo`](crate::BootInfo).
    pub x0: Gpa,
}

impl EntryState {
    /// Returns the entry state of a guest with `mem_size` bytes of memory and the ELF entry point
    /// `entry`.
    #[must_use]
    pub const fn new(mem_size: u64, entry: Gpa) -> Self {
        Self {
            sctlr: Sctlr::ENTRY,
            tcr: Tcr::ENTRY,
            mair: Mair::ENTRY,
            ttbr0: PGD_BASE,
            cpacr: Cpacr::FPEN,
            vbar: VECTORS_BASE,
            pstate: Pstate::ENTRY,
            pc: entry,
            sp: Gpa(mem_size - 16),
            x0: BOOT_INFO_BASE,
        }
    }
}

/// General-purpose registers, SP_EL1, PC and PSTATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Registers {
    /// X0 to X30.
    pub x: [u64; 31],
    /// SP_EL1.
    pub sp: u64,
    /// PC.
    pub pc: u64,
    /// PSTATE in the layout of SPSR_EL1.
    pub pstate: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Registers>() == 34 * 8);
    assert!(offset_of!(Registers, sp) == 31 * 8 && offset_of!(Registers, pstate) == 33 * 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Solo5 v0.12.1 sets on a KVM vCPU.
    #[test]
    fn entry_state_is_solo5s() {
        let state = EntryState::new(0x2000_0000, Gpa(0x10_0000));
        assert_eq!(state.sctlr.difference(Sctlr::RES1).bits(), 0x1005);
        assert_eq!(state.tcr.difference(Tcr::EPD1).bits(), 0x32_b518_3518);
        assert_eq!(state.mair, 0xbbff_440c_0400);
        assert_eq!(state.cpacr.bits(), 0x30_0000);
        assert_eq!(state.pstate.bits(), 0x3c5);
        assert_eq!((state.sp, state.x0, state.ttbr0), (Gpa(0x1fff_fff0), Gpa(0x1_0000), Gpa(0x1000)));
    }

    #[test]
    fn vectors_are_aligned_and_complete() {
        assert!(VECTORS_BASE.is_aligned(2048) && size_of_val(&VECTORS) == 16 * VECTOR_SIZE as usize);
        assert!(VECTORS.chunks(16).all(|vector| vector == &VECTORS[..16]));
        // The store must not hit a hypercall address. Its offset, in units of 4 bytes, is in bits
        // 21:10.
        let store = VECTORS[UNHANDLED_STORE as usize / 8] as u32;
        assert_eq!(MMIO_BASE.0 + u64::from(store >> 10 & 0xfff) * 4, UNHANDLED_EXCEPTION.0);
        assert!(UNHANDLED_EXCEPTION > RING_KICK);
    }

    /// Value of `SCTLR_EL1_RES1` in Linux, plus SPAN.
    #[test]
    fn reserved_bits_are_set() {
        assert_eq!(Sctlr::RES1.bits(), 0x30d0_0800);
    }

    #[test]
    fn the_kick_lies_behind_the_hypercalls() {
        assert!(
            crate::hypercall::Number::ALL
                .iter()
                .all(|number| { MMIO_BASE.0 + u64::from(*number as u32) * HYPERCALL_STRIDE < RING_KICK.0 })
        );
    }
}
