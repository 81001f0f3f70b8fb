//! x86_64: memory map, entry state and hypercall mechanism.
//!
//! Section numbers refer to the *Intel 64 and IA-32 Architectures Software Developer's Manual*
//! (SDM).

pub mod cpuid;
pub mod msr;

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{BOOT_INFO_BASE, Gpa};

/// Address of the guest's initial GDT ([`GDT`]).
pub const GDT_BASE: Gpa = Gpa(0x1000);
/// Address of the PML4 table, which CR3 holds at entry.
pub const PML4_BASE: Gpa = Gpa(0x2000);
/// Address of the page-directory-pointer table. There is only one.
pub const PDPT_BASE: Gpa = Gpa(0x3000);
/// Address of the four page directories, one for each GiB.
pub const PD_BASE: Gpa = Gpa(0x4000);
/// Address of the page table of the first 2 MiB. Further page tables follow.
pub const PT_BASE: Gpa = Gpa(0x8000);

/// `HVT_HYPERCALL_PIO_BASE`: first hypercall port. To make hypercall *n*, the guest executes a
/// 32-bit `out` to this port plus *n*, with the address of the argument in EAX.
pub const HYPERCALL_PORT: u16 = 0x500;
/// First port after the ports reserved for hypercalls.
pub const HYPERCALL_PORT_END: u16 = 0x600;
/// `HVT_RING_KICK_PIO_BASE`: port of the ring kick. A 32-bit `out` of a ring's number wakes the
/// tender's side of that ring.
pub const RING_KICK_PORT: u16 = 0x600;

/// Selector of the code segment in [`GDT`].
pub const CODE_SELECTOR: u16 = 8;
/// Selector of the data segment in [`GDT`].
pub const DATA_SELECTOR: u16 = 16;

/// The guest's initial GDT: null, flat 64-bit code, flat data. The accessed bits are set (SDM
/// 3.4.5).
pub const GDT: [u64; 3] = [0, 0x00af_9900_0000_ffff, 0x00cf_9300_0000_ffff];

bitflags! {
    /// Control register 0 (SDM 2.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulation.
        const EM = 1 << 2;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type.
        const ET = 1 << 4;
        /// Numeric error.
        const NE = 1 << 5;
        /// Write protect: supervisor code cannot write to read-only pages.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }

    /// Control register 4 (SDM 2.5). Only the bits used here are listed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr4: u64 {
        /// Page size extensions.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Global pages.
        const PGE = 1 << 7;
        /// Enables FXSAVE, FXRSTOR and SSE.
        const OSFXSR = 1 << 9;
        /// Enables unmasked SIMD floating-point exceptions (#XM).
        const OSXMMEXCPT = 1 << 10;
        /// Enables VMX operation.
        const VMXE = 1 << 13;
        /// Enables RDFSBASE, RDGSBASE, WRFSBASE and WRGSBASE.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers in CR3 bits 11:0.
        const PCIDE = 1 << 17;
        /// Enables XSAVE and XCR0.
        const OSXSAVE = 1 << 18;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
    }

    /// IA32_EFER (SDM 2.2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Efer: u64 {
        /// SYSCALL enable.
        const SCE = 1 << 0;
        /// Long mode enable.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// No-execute enable.
        const NXE = 1 << 11;
        /// Secure virtual machine enable (AMD APM volume 2, 3.1.7).
        const SVME = 1 << 12;
    }

    /// Page table entry at any level (SDM 4.5.4). Only the bits used here are listed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PageEntry: u64 {
        /// Present.
        const PRESENT = 1 << 0;
        /// Writable.
        const WRITABLE = 1 << 1;
        /// Accessible at CPL 3.
        const USER = 1 << 2;
        /// Accessed.
        const ACCESSED = 1 << 5;
        /// Dirty.
        const DIRTY = 1 << 6;
        /// In a page directory: the entry maps a 2 MiB page.
        const PAGE_SIZE = 1 << 7;
        /// No execute; reserved unless EFER.NXE is set.
        const NO_EXECUTE = 1 << 63;
    }
}

/// Segment register with its hidden part (SDM 3.4.3), as VMCS, VMCB and KVM represent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Selector: the visible part of the register.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Type field of the descriptor, 4 bits (SDM 3.4.5.1, 3.5).
    pub kind: u8,
    /// S: a code or data segment, not a system segment.
    pub code_or_data: bool,
    /// Descriptor privilege level, 0 to 3.
    pub dpl: u8,
    /// P: present. A segment without P is unusable.
    pub present: bool,
    /// L: 64-bit code.
    pub long: bool,
    /// D/B: default operand size or stack size of 32 bits.
    pub default_big: bool,
    /// G: the limit in the descriptor counts 4 KiB units. [`Segment::limit`] is in bytes regardless
    /// of G.
    pub granularity: bool,
}

impl Segment {
    /// Flat 64-bit code at CPL 0: execute-only, accessed.
    pub const CODE: Self = Self {
        selector: CODE_SELECTOR,
        base: 0,
        limit: u32::MAX,
        kind: 0x9,
        code_or_data: true,
        dpl: 0,
        present: true,
        long: true,
        default_big: false,
        granularity: true,
    };

    /// Flat data: read, write, accessed.
    pub const DATA: Self = Self { selector: DATA_SELECTOR, kind: 0x3, long: false, default_big: true, ..Self::CODE };

    /// Task register: an empty, busy 64-bit TSS. VM entry requires a usable TR (SDM 27.3.1.2).
    pub const TASK: Self = Self {
        selector: 0,
        base: 0,
        limit: 0,
        kind: 0xb,
        code_or_data: false,
        dpl: 0,
        present: true,
        long: false,
        default_big: false,
        granularity: false,
    };

    /// LDTR: unusable.
    pub const UNUSABLE: Self = Self { kind: 0, present: false, ..Self::TASK };
}

/// Descriptor-table register (GDTR, IDTR).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRegister {
    /// Linear address of the table.
    pub base: u64,
    /// Limit: offset of the last valid byte.
    pub limit: u16,
}

/// State of the virtual CPU at the guest's entry point. General-purpose registers that are not
/// listed are 0. The FPU has its reset state with SSE enabled. Interrupts are disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: Gpa,
    /// CR4.
    pub cr4: Cr4,
    /// IA32_EFER.
    pub efer: Efer,
    /// CS.
    pub code: Segment,
    /// SS, DS, ES, FS and GS.
    pub data: Segment,
    /// TR.
    pub task: Segment,
    /// LDTR.
    pub ldt: Segment,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR: an empty table. An exception before the guest's `lidt` thus becomes a triple fault.
    pub idtr: TableRegister,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP: the ELF entry point.
    pub rip: Gpa,
    /// RSP: 8 below a multiple of 16, as after a call instruction.
    pub rsp: Gpa,
    /// RDI: address of [`BootInfo`](crate::BootInfo).
    pub rdi: Gpa,
}

impl EntryState {
    /// Returns the entry state of a guest with `mem_size` bytes of memory and the ELF entry point
    /// `entry`.
    ///
    /// Unlike Solo5, it sets EFER.NXE, because the page tables mark all memory except code with NX.
    #[must_use]
    pub const fn new(mem_size: u64, entry: Gpa) -> Self {
        Self {
            cr0: Cr0::PE.union(Cr0::NE).union(Cr0::WP).union(Cr0::PG),
            cr3: PML4_BASE,
            cr4: Cr4::PAE.union(Cr4::OSFXSR).union(Cr4::OSXMMEXCPT),
            efer: Efer::LME.union(Efer::LMA).union(Efer::NXE),
            code: Segment::CODE,
            data: Segment::DATA,
            task: Segment::TASK,
            ldt: Segment::UNUSABLE,
            gdtr: TableRegister { base: GDT_BASE.0, limit: size_of::<[u64; 3]>() as u16 - 1 },
            idtr: TableRegister { base: 0, limit: 0 },
            rflags: RFLAGS_RESERVED,
            rip: entry,
            rsp: Gpa(mem_size - 8),
            rdi: BOOT_INFO_BASE,
        }
    }
}

/// Bit 1 of RFLAGS, always set (SDM 3.4.3).
pub const RFLAGS_RESERVED: u64 = 0x2;

/// General-purpose registers, RIP and RFLAGS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the field names are the registers' names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

impl Registers {
    /// Returns the general-purpose register with the given number (SDM volume 2, table 2-4). Only
    /// bits 3:0 of the number are used.
    #[inline]
    #[must_use]
    pub const fn general(&self, number: u8) -> u64 {
        match number & 0xf {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            4 => self.rsp,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            _ => self.r15,
        }
    }

    /// Returns a mutable reference to the whole 64-bit general-purpose register with the given
    /// number. Only bits 3:0 of the number are used.
    #[inline]
    #[must_use]
    pub const fn general_mut(&mut self, number: u8) -> &mut u64 {
        match number & 0xf {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => &mut self.rsp,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            _ => &mut self.r15,
        }
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Registers>() == 144);
    assert!(offset_of!(Registers, rsp) == 56);
    assert!(offset_of!(Registers, r8) == 64);
    assert!(offset_of!(Registers, rip) == 128);
    assert!(offset_of!(Registers, rflags) == 136);
};

/// Exception vectors (SDM 6.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Vector {
    /// #DE
    DivideError = 0,
    /// #DB
    Debug = 1,
    /// #BP
    Breakpoint = 3,
    /// #OF
    Overflow = 4,
    /// #BR
    BoundRange = 5,
    /// #UD
    InvalidOpcode = 6,
    /// #NM
    DeviceNotAvailable = 7,
    /// #DF
    DoubleFault = 8,
    /// #TS
    InvalidTss = 10,
    /// #NP
    SegmentNotPresent = 11,
    /// #SS
    StackFault = 12,
    /// #GP
    GeneralProtection = 13,
    /// #PF
    PageFault = 14,
    /// #MF
    FloatingPoint = 16,
    /// #AC
    AlignmentCheck = 17,
    /// #MC
    MachineCheck = 18,
    /// #XM
    SimdFloatingPoint = 19,
}

impl Vector {
    /// Returns `true` if the CPU pushes an error code for the exception (SDM 6.13).
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::DoubleFault
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::PageFault
                | Self::AlignmentCheck
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_registers_are_numbered_as_in_modrm() {
        let registers =
            Registers { rax: 0, rcx: 1, rdx: 2, rbx: 3, rsp: 4, rbp: 5, rsi: 6, rdi: 7, ..Registers::default() };
        let registers = Registers { r8: 8, r9: 9, r10: 10, r11: 11, r12: 12, r13: 13, r14: 14, r15: 15, ..registers };
        let mut copy = Registers::default();
        for number in 0..16 {
            assert_eq!(registers.general(number), number.into());
            *copy.general_mut(number) = number.into();
        }
        assert_eq!(copy, registers);
    }

    /// Decodes a segment descriptor independently of the fields of `GDT` (SDM figure 3-8).
    fn unpack(descriptor: u64) -> Segment {
        let granularity = descriptor >> 55 & 1 == 1;
        let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
        Segment {
            selector: 0,
            base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
            limit: if granularity { limit << 12 | 0xfff } else { limit },
            kind: (descriptor >> 40 & 0xf) as u8,
            code_or_data: descriptor >> 44 & 1 == 1,
            dpl: (descriptor >> 45 & 3) as u8,
            present: descriptor >> 47 & 1 == 1,
            long: descriptor >> 53 & 1 == 1,
            default_big: descriptor >> 54 & 1 == 1,
            granularity,
        }
    }

    #[test]
    fn gdt_equals_the_segment_registers() {
        assert_eq!(Segment { selector: CODE_SELECTOR, ..unpack(GDT[1]) }, Segment::CODE);
        assert_eq!(Segment { selector: DATA_SELECTOR, ..unpack(GDT[2]) }, Segment::DATA);
    }

    #[test]
    fn entry_state_is_solo5s() {
        let state = EntryState::new(0x2000_0000, Gpa(0x10_0000));
        assert_eq!(state.cr0.bits(), 0x8001_0021);
        assert_eq!(state.cr4.bits(), 0x620);
        assert_eq!(state.efer.bits(), 0xd00);
        assert_eq!(state.rsp, Gpa(0x1fff_fff8));
    }
}
