//! aarch64: memory map, entry state, and how a hypercall is made.
//!
//! The manual is the *Arm Architecture Reference Manual for A-profile architecture* (Arm ARM, DDI 0487). Registers stand
//! under their names in its chapter *AArch64 System Register Descriptions*; sections are those of its issue J.a.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{BOOT_INFO_BASE, Gpa};

/// Where the tender puts the level 0 table: the guest's first TTBR0_EL1.
pub const PGD_BASE: Gpa = Gpa(0x1000);
/// Where the tender puts the level 1 table.
pub const PUD_BASE: Gpa = Gpa(0x2000);
/// Where the tender puts the four level 2 tables, one for each GiB.
pub const PMD_BASE: Gpa = Gpa(0x3000);
/// Where the tender puts the level 3 table of the first 2 MiB; further ones follow.
pub const PTE_BASE: Gpa = Gpa(0x7000);

/// Where the tender puts the exception vectors that VBAR_EL1 names at entry: a page below what is the guest's.
pub const VECTORS_BASE: Gpa = Gpa(0xf_f000);
/// Bytes from one vector to the next (Arm ARM, D1.3.1.5); there are 16.
pub const VECTOR_SIZE: u64 = 0x80;
/// Where each of [`VECTORS`] makes a 32-bit store: device memory that is neither for hypercalls nor for kicks. So the
/// tender learns of an exception that the guest has not prepared for.
pub const UNHANDLED_EXCEPTION: Gpa = Gpa(0x1_0000_0800);
/// How far from the start of its vector that store is.
pub const UNHANDLED_STORE: u64 = 2 * 4;

/// The exception vectors at entry, in words of two instructions. They need no stack, and change no register but X0, which
/// TPIDR_EL1 keeps:
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
/// `AARCH64_MMIO_SZ`: size of that memory in bytes.
pub const MMIO_SIZE: u64 = 0x4000_0000;
/// Hypercall *n* is a 32-bit store of its argument's address to [`MMIO_BASE`] plus *n* times this.
pub const HYPERCALL_STRIDE: u64 = 8;
/// `HVT_RING_KICK_MMIO_BASE`: a 32-bit store of a ring's number here wakes the tender's end of that ring. What lies
/// below it is for hypercalls.
pub const RING_KICK: Gpa = Gpa(0x1_0000_0100);

/// Bits of an address, virtual and physical, at entry: what T0SZ, T1SZ and IPS of [`Tcr::ENTRY`] say.
pub const ADDRESS_BITS: u32 = 40;

bitflags! {
    /// System control register, SCTLR_EL1, the bits of interest here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Sctlr: u64 {
        /// Address translation for EL0 and EL1.
        const M = 1 << 0;
        /// Alignment checks.
        const A = 1 << 1;
        /// Data can be cached.
        const C = 1 << 2;
        /// Checks that SP is aligned at EL1.
        const SA = 1 << 3;
        /// An exception return is a context synchronization event; 1 without FEAT_ExS.
        const EOS = 1 << 11;
        /// Instructions can be cached.
        const I = 1 << 12;
        /// What can be written cannot be executed.
        const WXN = 1 << 19;
        /// EL0 has no SCXTNUM_EL0; 1 without FEAT_CSV2_2.
        const TSCXT = 1 << 20;
        /// Taking an exception is a context synchronization event; 1 without FEAT_ExS.
        const EIS = 1 << 22;
        /// Exceptions leave PSTATE.PAN as it is; 1 without FEAT_PAN.
        const SPAN = 1 << 23;
        /// Load and store multiple to device memory do not trap; 1 without FEAT_LSMAOC.
        const NTLSMD = 1 << 28;
        /// Load and store multiple are ordered as in Armv8.0; 1 without FEAT_LSMAOC.
        const LSMAOE = 1 << 29;

        /// What must be set on CPUs that have no name for it, and changes nothing for a guest elsewhere.
        const RES1 = Self::EOS.bits() | Self::TSCXT.bits() | Self::EIS.bits() | Self::SPAN.bits()
            | Self::NTLSMD.bits() | Self::LSMAOE.bits();
        /// At entry: translation and caches on.
        const ENTRY = Self::M.bits() | Self::C.bits() | Self::I.bits() | Self::RES1.bits();
    }

    /// Translation control register, TCR_EL1. Fields of several bits have a name for the value
    /// that is used here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Tcr: u64 {
        /// T0SZ: the lower range has [`ADDRESS_BITS`] bits.
        const T0SZ = 64 - ADDRESS_BITS as u64;
        /// IRGN0: walks go through inner write-back caches.
        const IRGN0_WB = 1 << 8;
        /// ORGN0: walks go through outer write-back caches.
        const ORGN0_WB = 1 << 10;
        /// SH0: tables are inner shareable.
        const SH0_INNER = 3 << 12;
        /// T1SZ: the upper range has as many bits.
        const T1SZ = (64 - ADDRESS_BITS as u64) << 16;
        /// EPD1: the upper range has no tables, and each access to it is a translation fault.
        const EPD1 = 1 << 23;
        /// IRGN1, as IRGN0.
        const IRGN1_WB = 1 << 24;
        /// ORGN1, as ORGN0.
        const ORGN1_WB = 1 << 26;
        /// SH1, as SH0.
        const SH1_INNER = 3 << 28;
        /// TG1: pages of the upper range have 4 KiB. TG0 says the same with zeros.
        const TG1_4K = 2 << 30;
        /// IPS: physical addresses have [`ADDRESS_BITS`] bits.
        const IPS_40_BITS = 2 << 32;
        /// AS: address space identifiers have 16 bits.
        const AS = 1 << 36;
        /// TBI0: the top byte of an address in the lower range is ignored.
        const TBI0 = 1 << 37;

        /// At entry: as Solo5 has it, but with [`EPD1`](Self::EPD1).
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

    /// Process state as SPSR_EL1 holds it, the bits of interest here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pstate: u64 {
        /// M: exception level 1, on its own stack pointer.
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

        /// At entry: EL1, nothing interrupts.
        const ENTRY = Self::EL1H.bits() | Self::F.bits() | Self::I.bits() | Self::A.bits() | Self::D.bits();
    }

    /// An entry of a translation table, stage 1, 4 KiB granule (Arm ARM, D8.3). Beside these bits there are the address
    /// and the [attribute index](Mair).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Descriptor: u64 {
        /// There is something.
        const VALID = 1 << 0;
        /// At level 3 a page; above, a table rather than a block.
        const TABLE_OR_PAGE = 1 << 1;
        /// AP\[1\]: EL0 may access it.
        const AP_EL0 = 1 << 6;
        /// AP\[2\]: it cannot be written.
        const AP_READ_ONLY = 1 << 7;
        /// SH: inner shareable.
        const SH_INNER = 3 << 8;
        /// AF: it has been accessed. Without it, the first access is a fault.
        const AF = 1 << 10;
        /// PXN: EL1 cannot execute it.
        const PXN = 1 << 53;
        /// UXN: EL0 cannot execute it.
        const UXN = 1 << 54;
    }
}

/// A memory type: an index into MAIR_EL1, and what is there at entry. The order is Solo5's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mair {
    /// Device memory, in which nothing is gathered, reordered or acknowledged early.
    DeviceNGnRnE = 0,
    /// Device memory, in which nothing is gathered or reordered.
    DeviceNGnRE = 1,
    /// Device memory.
    DeviceGre = 2,
    /// Normal memory that is not cached.
    NormalNonCacheable = 3,
    /// Normal memory, write-back cached.
    Normal = 4,
    /// Normal memory, write-through cached.
    NormalWriteThrough = 5,
}

impl Mair {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DeviceNGnRnE,
        Self::DeviceNGnRE,
        Self::DeviceGre,
        Self::NormalNonCacheable,
        Self::Normal,
        Self::NormalWriteThrough,
    ];

    /// MAIR_EL1 at entry.
    pub const ENTRY: u64 = {
        let (mut register, mut index) = (0, 0);
        while index < Self::ALL.len() {
            let kind = Self::ALL[index];
            register |= (kind.attributes() as u64) << (8 * kind as u8);
            index += 1;
        }
        register
    };

    /// Attr\<n\>.
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

    /// AttrIndx of a [`Descriptor`] for memory of this type.
    #[must_use]
    pub const fn index(self) -> u64 {
        (self as u64) << 2
    }
}

/// State of the virtual CPU at the guest's entry point. General registers not named here are 0, and so are the
/// floating-point registers.
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
    /// SP_EL1: a multiple of 16, as the procedure call standard wants it.
    pub sp: Gpa,
    /// X0: address of [`BootInfo`](crate::BootInfo).
    pub x0: Gpa,
}

impl EntryState {
    /// The state in which a guest with `mem_size` bytes of memory and this ELF entry point starts.
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
    /// PSTATE, laid out as SPSR_EL1.
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

    /// The numbers that Solo5 v0.12.1 gives a vCPU of KVM.
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
    fn vectors_are_where_the_cpu_wants_them() {
        assert!(VECTORS_BASE.is_aligned(2048) && size_of_val(&VECTORS) == 16 * VECTOR_SIZE as usize);
        assert!(VECTORS.chunks(16).all(|vector| vector == &VECTORS[..16]));
        // The store goes to an address that no hypercall has: its offset, in words, is bits 10 and up.
        let store = VECTORS[UNHANDLED_STORE as usize / 8] as u32;
        assert_eq!(MMIO_BASE.0 + u64::from(store >> 10 & 0xfff) * 4, UNHANDLED_EXCEPTION.0);
        assert!(UNHANDLED_EXCEPTION > RING_KICK);
    }

    /// What Linux calls `SCTLR_EL1_RES1`, with SPAN.
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
