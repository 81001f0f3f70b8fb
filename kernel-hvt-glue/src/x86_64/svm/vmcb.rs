//! Virtual machine control block (APM volume 2, appendix B), which AMD's CPUs read at VMRUN and
//! write at
//! #VMEXIT.

use core::mem::{offset_of, size_of};

use hvt_abi::{
    kernel::{SegmentState, TableState},
    x86_64::Segment,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Complete block: one frame.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Vmcb {
    pub(crate) control: Control,
    pub(crate) save: Save,
}

/// Control area (table B-1).
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Control {
    /// Reads of CR0 to CR15.
    pub(crate) intercept_cr_reads: u16,
    /// Writes of CR0 to CR15.
    pub(crate) intercept_cr_writes: u16,
    /// Reads of DR0 to DR15.
    pub(crate) intercept_dr_reads: u16,
    /// Writes of DR0 to DR15.
    pub(crate) intercept_dr_writes: u16,
    /// Exceptions by vector.
    pub(crate) intercept_exceptions: u32,
    /// [`Intercepts1`].
    pub(crate) intercepts_1: u32,
    /// [`Intercepts2`].
    pub(crate) intercepts_2: u32,
    /// Vector 5.
    pub(crate) intercepts_3: u32,
    reserved_018: [u8; 0x24],
    pub(crate) pause_filter_threshold: u16,
    pub(crate) pause_filter_count: u16,
    /// Physical address of the I/O permission map.
    pub(crate) iopm_base_pa: u64,
    /// Physical address of the MSR permission map.
    pub(crate) msrpm_base_pa: u64,
    /// Offset added to the TSC that the guest reads.
    pub(crate) tsc_offset: u64,
    pub(crate) guest_asid: u32,
    /// [`tlb_control`].
    pub(crate) tlb_control: u32,
    /// V_TPR, V_IRQ, .., [`V_INTR_MASKING`].
    pub(crate) virtual_interrupt: u64,
    pub(crate) interrupt_shadow: u64,
    /// [`exit_code`].
    pub(crate) exit_code: u64,
    pub(crate) exit_info_1: u64,
    pub(crate) exit_info_2: u64,
    /// Event whose delivery the exit interrupted, in the format of `event_injection`.
    pub(crate) exit_int_info: u64,
    /// [`NP_ENABLE`] and encryption.
    pub(crate) nested_paging: u64,
    pub(crate) avic_apic_bar: u64,
    pub(crate) ghcb_pa: u64,
    /// Event to inject at VMRUN.
    pub(crate) event_injection: u64,
    /// Physical address of the root of the nested page tables.
    pub(crate) nested_cr3: u64,
    pub(crate) lbr_virtualization: u64,
    /// [`Clean`].
    pub(crate) clean: u64,
    /// Address of the next instruction, with nRIP-save.
    pub(crate) next_rip: u64,
    /// Number of valid bytes in `fetched`, with decode assists.
    pub(crate) fetched_count: u8,
    pub(crate) fetched: [u8; 15],
    pub(crate) avic_backing_page: u64,
    reserved_0e8: u64,
    pub(crate) avic_logical_table: u64,
    pub(crate) avic_physical_table: u64,
    reserved_100: u64,
    pub(crate) vmsa_pa: u64,
    reserved_110: [u8; 0x2f0],
}

/// State save area (table B-2).
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Save {
    pub(crate) es: SegmentRegister,
    pub(crate) cs: SegmentRegister,
    pub(crate) ss: SegmentRegister,
    pub(crate) ds: SegmentRegister,
    pub(crate) fs: SegmentRegister,
    pub(crate) gs: SegmentRegister,
    pub(crate) gdtr: SegmentRegister,
    pub(crate) ldtr: SegmentRegister,
    pub(crate) idtr: SegmentRegister,
    pub(crate) tr: SegmentRegister,
    reserved_0a0: [u8; 0x2b],
    pub(crate) cpl: u8,
    reserved_0cc: u32,
    pub(crate) efer: u64,
    reserved_0d8: [u8; 0x70],
    pub(crate) cr4: u64,
    pub(crate) cr3: u64,
    pub(crate) cr0: u64,
    pub(crate) dr7: u64,
    pub(crate) dr6: u64,
    pub(crate) rflags: u64,
    pub(crate) rip: u64,
    reserved_180: [u8; 0x58],
    pub(crate) rsp: u64,
    pub(crate) s_cet: u64,
    pub(crate) ssp: u64,
    pub(crate) isst_addr: u64,
    pub(crate) rax: u64,
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) cstar: u64,
    pub(crate) sfmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    pub(crate) cr2: u64,
    reserved_248: [u8; 0x20],
    pub(crate) g_pat: u64,
    pub(crate) dbgctl: u64,
    pub(crate) br_from: u64,
    pub(crate) br_to: u64,
    pub(crate) last_excp_from: u64,
    pub(crate) last_excp_to: u64,
    reserved_298: [u8; 0x968],
}

/// Segment or descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SegmentRegister {
    pub(crate) selector: u16,
    /// Bits 55:52 and 47:40 of the descriptor, concatenated.
    pub(crate) attributes: u16,
    pub(crate) limit: u32,
    pub(crate) base: u64,
}

/// [`SegmentRegister::attributes`]: L.
pub(crate) const ATTRIBUTE_LONG: u16 = 1 << 9;
/// [`SegmentRegister::attributes`]: D/B.
pub(crate) const ATTRIBUTE_BIG: u16 = 1 << 10;

impl From<SegmentState> for SegmentRegister {
    fn from(state: SegmentState) -> Self {
        let attributes = state.attributes & 0xff | state.attributes >> 4 & 0xf00;
        Self { selector: state.selector, attributes, limit: state.limit, base: state.base }
    }
}

impl From<SegmentRegister> for SegmentState {
    fn from(register: SegmentRegister) -> Self {
        let attributes = register.attributes & 0xff | (register.attributes & 0xf00) << 4;
        Self { base: register.base, limit: register.limit, selector: register.selector, attributes }
    }
}

impl From<SegmentRegister> for Segment {
    fn from(register: SegmentRegister) -> Self {
        SegmentState::from(register).into()
    }
}

impl From<TableState> for SegmentRegister {
    fn from(table: TableState) -> Self {
        Self { base: table.base, limit: table.limit, ..Self::default() }
    }
}

impl From<SegmentRegister> for TableState {
    fn from(register: SegmentRegister) -> Self {
        Self { base: register.base, limit: register.limit & 0xffff, reserved: 0 }
    }
}

bitflags::bitflags! {
    /// Vector 3, offset 00Ch.
    pub(crate) struct Intercepts1: u32 {
        const INTR = 1 << 0;
        const NMI = 1 << 1;
        const INIT = 1 << 3;
        /// Write to CR0 that changes bits other than TS and MP.
        const CR0_SELECTIVE = 1 << 5;
        const RDPMC = 1 << 15;
        const CPUID = 1 << 18;
        const RSM = 1 << 19;
        const INVD = 1 << 22;
        const HLT = 1 << 24;
        const INVLPGA = 1 << 26;
        const IOIO_PROT = 1 << 27;
        const MSR_PROT = 1 << 28;
        const TASK_SWITCH = 1 << 29;
        const FERR_FREEZE = 1 << 30;
        const SHUTDOWN = 1 << 31;
    }

    /// Vector 4, offset 010h.
    pub(crate) struct Intercepts2: u32 {
        const VMRUN = 1 << 0;
        const VMMCALL = 1 << 1;
        const VMLOAD = 1 << 2;
        const VMSAVE = 1 << 3;
        const STGI = 1 << 4;
        const CLGI = 1 << 5;
        const SKINIT = 1 << 6;
        const RDTSCP = 1 << 7;
        const WBINVD = 1 << 9;
        const MONITOR = 1 << 10;
        const MWAIT = 1 << 11;
        const MWAIT_ARMED = 1 << 12;
        const XSETBV = 1 << 13;
        const RDPRU = 1 << 14;
    }

    /// Parts of the VMCB that have not changed since the CPU last wrote the VMCB (15.15.3).
    pub(crate) struct Clean: u64 {
        /// Intercepts, TSC offset, pause filter.
        const INTERCEPTS = 1 << 0;
        /// Addresses of the permission maps.
        const PERMISSION_MAPS = 1 << 1;
        const ASID = 1 << 2;
        const TPR = 1 << 3;
        /// Nested paging and G_PAT.
        const NESTED_PAGING = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL_REGISTERS = 1 << 5;
        /// DR6, DR7.
        const DEBUG_REGISTERS = 1 << 6;
        /// GDTR, IDTR.
        const DESCRIPTOR_TABLES = 1 << 7;
        /// CS, DS, SS, ES, CPL.
        const SEGMENTS = 1 << 8;
        const CR2 = 1 << 9;
        const LBR = 1 << 10;
        const AVIC = 1 << 11;
        const CET = 1 << 12;
    }
}

/// [`Control::tlb_control`] (15.16.1).
pub(crate) mod tlb_control {
    pub(crate) const NOTHING: u32 = 0;
    pub(crate) const FLUSH_ALL: u32 = 1;
}

/// [`Control::virtual_interrupt`]: the host's RFLAGS.IF, not the guest's, masks physical interrupts
/// (15.21.1).
pub(crate) const V_INTR_MASKING: u64 = 1 << 24;
/// [`Control::nested_paging`]: enables nested paging.
pub(crate) const NP_ENABLE: u64 = 1 << 0;

/// [`Control::event_injection`] and [`Control::exit_int_info`] (15.20, figure 15-4).
pub(crate) mod event {
    pub(crate) const VALID: u64 = 1 << 31;
    pub(crate) const ERROR_CODE_VALID: u64 = 1 << 11;
    pub(crate) const TYPE: u64 = 7 << 8;
    pub(crate) const NMI: u64 = 2 << 8;
    pub(crate) const EXCEPTION: u64 = 3 << 8;
    pub(crate) const VECTOR: u64 = 0xff;
}

/// Reasons for a #VMEXIT (appendix C).
pub(crate) mod exit_code {
    pub(crate) const CR0_WRITE: u64 = 0x10;
    pub(crate) const CR15_WRITE: u64 = 0x1f;
    pub(crate) const DR0_READ: u64 = 0x20;
    pub(crate) const DR15_WRITE: u64 = 0x3f;
    pub(crate) const EXCEPTION_DB: u64 = 0x41;
    pub(crate) const EXCEPTION_AC: u64 = 0x51;
    pub(crate) const EXCEPTION_MC: u64 = 0x52;
    pub(crate) const INTR: u64 = 0x60;
    pub(crate) const NMI: u64 = 0x61;
    pub(crate) const INIT: u64 = 0x63;
    pub(crate) const CR0_SELECTIVE_WRITE: u64 = 0x65;
    pub(crate) const RDPMC: u64 = 0x6f;
    pub(crate) const CPUID: u64 = 0x72;
    pub(crate) const RSM: u64 = 0x73;
    pub(crate) const INVD: u64 = 0x76;
    pub(crate) const HLT: u64 = 0x78;
    pub(crate) const INVLPGA: u64 = 0x7a;
    pub(crate) const IOIO: u64 = 0x7b;
    pub(crate) const MSR: u64 = 0x7c;
    pub(crate) const SHUTDOWN: u64 = 0x7f;
    pub(crate) const VMRUN: u64 = 0x80;
    pub(crate) const RDTSCP: u64 = 0x87;
    pub(crate) const WBINVD: u64 = 0x89;
    pub(crate) const MONITOR: u64 = 0x8a;
    pub(crate) const MWAIT_ARMED: u64 = 0x8c;
    pub(crate) const XSETBV: u64 = 0x8d;
    pub(crate) const RDPRU: u64 = 0x8e;
    pub(crate) const NPF: u64 = 0x400;
    pub(crate) const INVALID: u64 = !0;
}

macro_rules! assert_offsets {
    ($type:ty: $($field:ident = $offset:literal),* $(,)?) => {
        $(assert!(offset_of!($type, $field) == $offset, stringify!($field));)*
    };
}

const _: () = {
    assert!(size_of::<Vmcb>() == 0x1000 && offset_of!(Vmcb, save) == 0x400);
    assert_offsets!(Control:
        intercept_cr_reads = 0x00, intercept_cr_writes = 0x02, intercept_dr_reads = 0x04, intercept_dr_writes = 0x06,
        intercept_exceptions = 0x08, intercepts_1 = 0x0c, intercepts_2 = 0x10, intercepts_3 = 0x14,
        pause_filter_threshold = 0x3c, pause_filter_count = 0x3e, iopm_base_pa = 0x40, msrpm_base_pa = 0x48,
        tsc_offset = 0x50, guest_asid = 0x58, tlb_control = 0x5c, virtual_interrupt = 0x60, interrupt_shadow = 0x68,
        exit_code = 0x70, exit_info_1 = 0x78, exit_info_2 = 0x80, exit_int_info = 0x88, nested_paging = 0x90,
        avic_apic_bar = 0x98, ghcb_pa = 0xa0, event_injection = 0xa8, nested_cr3 = 0xb0, lbr_virtualization = 0xb8,
        clean = 0xc0, next_rip = 0xc8, fetched_count = 0xd0, fetched = 0xd1, avic_backing_page = 0xe0,
        avic_logical_table = 0xf0, avic_physical_table = 0xf8, vmsa_pa = 0x108,
    );
    assert_offsets!(Save:
        es = 0x00, cs = 0x10, ss = 0x20, ds = 0x30, fs = 0x40, gs = 0x50, gdtr = 0x60, ldtr = 0x70, idtr = 0x80,
        tr = 0x90, cpl = 0xcb, efer = 0xd0, cr4 = 0x148, cr3 = 0x150, cr0 = 0x158, dr7 = 0x160, dr6 = 0x168,
        rflags = 0x170, rip = 0x178, rsp = 0x1d8, s_cet = 0x1e0, ssp = 0x1e8, isst_addr = 0x1f0, rax = 0x1f8,
        star = 0x200, lstar = 0x208, cstar = 0x210, sfmask = 0x218, kernel_gs_base = 0x220, sysenter_cs = 0x228,
        sysenter_esp = 0x230, sysenter_eip = 0x238, cr2 = 0x240, g_pat = 0x268, dbgctl = 0x270, br_from = 0x278,
        br_to = 0x280, last_excp_from = 0x288, last_excp_to = 0x290,
    );
    assert!(size_of::<SegmentRegister>() == 16);
    assert_offsets!(SegmentRegister: selector = 0, attributes = 2, limit = 4, base = 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_the_attributes_of_their_descriptors() {
        let attributes = |segment: Segment| SegmentRegister::from(SegmentState::from(segment)).attributes;
        assert_eq!(attributes(Segment::CODE), 0xa99);
        assert_eq!(attributes(Segment::DATA), 0xc93);
        assert_eq!(attributes(Segment::TASK), 0x08b);
        assert_eq!(attributes(Segment::UNUSABLE), 0);
        for segment in [Segment::CODE, Segment::DATA, Segment::TASK, Segment::UNUSABLE] {
            assert_eq!(Segment::from(SegmentRegister::from(SegmentState::from(segment))), segment);
        }
    }
}
