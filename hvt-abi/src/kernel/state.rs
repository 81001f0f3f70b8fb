//! Registers of a virtual CPU in a fixed layout.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::x86_64::{EntryState, Registers, Segment, TableRegister};

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SegmentState {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Selector: the visible part of the register.
    pub selector: u16,
    /// Bits 15:0 of the access rights (SDM volume 3, table 25-2): bits 3:0 type, 4 S, 6:5 DPL, 7 P,
    /// 13 L, 14 D/B, 15 G. Other bits are ignored. A segment without P is unusable.
    pub attributes: u16,
}

impl From<Segment> for SegmentState {
    fn from(segment: Segment) -> Self {
        let flag = |value: bool, bit: u32| u16::from(value) << bit;
        let attributes = u16::from(segment.kind & 0xf)
            | flag(segment.code_or_data, 4)
            | u16::from(segment.dpl & 3) << 5
            | flag(segment.present, 7)
            | flag(segment.long, 13)
            | flag(segment.default_big, 14)
            | flag(segment.granularity, 15);
        Self { base: segment.base, limit: segment.limit, selector: segment.selector, attributes }
    }
}

impl From<SegmentState> for Segment {
    fn from(state: SegmentState) -> Self {
        let flag = |bit: u32| state.attributes >> bit & 1 == 1;
        Self {
            selector: state.selector,
            base: state.base,
            limit: state.limit,
            kind: (state.attributes & 0xf) as u8,
            code_or_data: flag(4),
            dpl: (state.attributes >> 5 & 3) as u8,
            present: flag(7),
            long: flag(13),
            default_big: flag(14),
            granularity: flag(15),
        }
    }
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TableState {
    /// Linear address of the table.
    pub base: u64,
    /// Limit: offset of the last valid byte, at most 0xffff.
    pub limit: u32,
    /// Reserved; must be 0.
    pub reserved: u32,
}

impl From<TableRegister> for TableState {
    fn from(table: TableRegister) -> Self {
        Self { base: table.base, limit: table.limit.into(), reserved: 0 }
    }
}

/// Architectural state of a vCPU, except FPU, debug registers and XCR0. Those registers have their
/// reset values until the guest changes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the field names are the registers' names")]
pub struct VcpuState {
    /// General-purpose registers, RIP and RFLAGS.
    pub general: Registers,
    pub cs: SegmentState,
    pub ss: SegmentState,
    pub ds: SegmentState,
    pub es: SegmentState,
    pub fs: SegmentState,
    pub gs: SegmentState,
    pub tr: SegmentState,
    pub ldtr: SegmentState,
    pub gdtr: TableState,
    pub idtr: TableState,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// IA32_EFER, without SVME.
    pub efer: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// Reserved; must be 0.
    pub reserved: [u64; 7],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<SegmentState>() == 16 && size_of::<TableState>() == 16);
    assert!(offset_of!(SegmentState, limit) == 8);
    assert!(offset_of!(SegmentState, selector) == 12);
    assert!(offset_of!(SegmentState, attributes) == 14);
    assert!(offset_of!(TableState, limit) == 8);
    assert!(size_of::<VcpuState>() == 416);
    assert!(offset_of!(VcpuState, cs) == 144);
    assert!(offset_of!(VcpuState, ldtr) == 256);
    assert!(offset_of!(VcpuState, gdtr) == 272);
    assert!(offset_of!(VcpuState, idtr) == 288);
    assert!(offset_of!(VcpuState, cr0) == 304);
    assert!(offset_of!(VcpuState, efer) == 336);
    assert!(offset_of!(VcpuState, kernel_gs_base) == 352);
};

impl VcpuState {
    /// IA32_PAT after reset (SDM volume 3, 12.12.4; APM volume 2, 7.8.2).
    pub const PAT_RESET: u64 = crate::x86_64::msr::PAT_RESET;

    /// Returns `true` if all reserved fields are 0 and a register can hold the limits of the
    /// descriptor tables.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let table = |table: &TableState| table.reserved == 0 && table.limit <= 0xffff;
        table(&self.gdtr) && table(&self.idtr) && self.reserved == [0; 7]
    }
}

impl From<&EntryState> for VcpuState {
    fn from(entry: &EntryState) -> Self {
        let general = Registers {
            rdi: entry.rdi.0,
            rsp: entry.rsp.0,
            rip: entry.rip.0,
            rflags: entry.rflags,
            ..Registers::default()
        };
        let (code, data) = (entry.code.into(), entry.data.into());
        Self {
            general,
            cs: code,
            ss: data,
            ds: data,
            es: data,
            fs: data,
            gs: data,
            tr: entry.task.into(),
            ldtr: entry.ldt.into(),
            gdtr: entry.gdtr.into(),
            idtr: entry.idtr.into(),
            cr0: entry.cr0.bits(),
            cr2: 0,
            cr3: entry.cr3.0,
            cr4: entry.cr4.bits(),
            efer: entry.efer.bits(),
            pat: Self::PAT_RESET,
            kernel_gs_base: 0,
            reserved: [0; 7],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gpa;

    #[test]
    fn segments_round_trip() {
        for segment in [Segment::CODE, Segment::DATA, Segment::TASK, Segment::UNUSABLE] {
            let segment = Segment { dpl: 3, base: 0x1_2345_6789, ..segment };
            assert_eq!(Segment::from(SegmentState::from(segment)), segment);
        }
        assert_eq!(SegmentState::from(Segment::CODE).attributes, 0xa099);
        assert_eq!(SegmentState::from(Segment::DATA).attributes, 0xc093);
    }

    #[test]
    fn reserved_fields_are_noticed() {
        let good = VcpuState::from(&EntryState::new(0x20_0000, Gpa(0x10_0000)));
        assert!(good.is_well_formed());
        assert!(!VcpuState { reserved: [0, 0, 0, 0, 0, 0, 1], ..good }.is_well_formed());
        let gdtr = TableState { limit: 0x1_0000, ..good.gdtr };
        assert!(!VcpuState { gdtr, ..good }.is_well_formed());
        let idtr = TableState { reserved: 1, ..good.idtr };
        assert!(!VcpuState { idtr, ..good }.is_well_formed());
    }
}
