//! Guest state as VMCS fields (SDM volume 3, 25.4).

use hvt_abi::{
    kernel::{SegmentState, TableState, VcpuState},
    x86_64::{Cr0, Cr4, Registers},
};

use super::{
    capabilities::VmxCapabilities,
    fields::{self, Field, Natural},
    vmcs::Fields,
};
use crate::x86_64::debug::DR7_RESET;

/// Bits of CR0 that the guest owns. A write that changes any other bit exits.
const OWN_CR0: u64 = Cr0::MP.union(Cr0::EM).union(Cr0::TS).union(Cr0::WP).union(Cr0::AM).bits();

/// Bits of CR4 that the kernel owns, regardless of the features offered to the guest. They affect
/// more than the guest's paging and exceptions.
const KERNELS_CR4: u64 = Cr4::PAE.union(Cr4::OSXSAVE).union(Cr4::VMXE).bits();

/// Returns the real CR0 while the guest sees `cr0`.
pub(super) const fn real_cr0(cr0: u64, capabilities: &VmxCapabilities) -> u64 {
    cr0 | capabilities.cr0_fixed0
}

/// Returns the real CR4 while the guest sees `cr4`.
pub(super) const fn real_cr4(cr4: u64, capabilities: &VmxCapabilities) -> u64 {
    cr4 | capabilities.cr4_fixed0
}

/// Access rights: unusable segment.
const UNUSABLE: u32 = 1 << 16;
/// Access rights: P.
const PRESENT: u16 = 1 << 7;

/// Returns the access rights of a segment (SDM volume 3, table 25-2).
pub(super) fn access_rights(segment: &SegmentState) -> u32 {
    /// Type, S, DPL, P, L, D/B and G.
    const MEANINGFUL: u16 = 0xe0ff;
    if segment.attributes & PRESENT == 0 { UNUSABLE } else { (segment.attributes & MEANINGFUL).into() }
}

/// The four fields of a segment register.
type SegmentFields = (Field<u16>, Field<u32>, Field<u32>, Field<Natural>);

macro_rules! segment_fields {
    ($selector:ident, $limit:ident, $access_rights:ident, $base:ident) => {
        (fields::$selector, fields::$limit, fields::$access_rights, fields::$base)
    };
}

const CS: SegmentFields = segment_fields!(GUEST_CS_SELECTOR, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS, GUEST_CS_BASE);
const SS: SegmentFields = segment_fields!(GUEST_SS_SELECTOR, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS, GUEST_SS_BASE);
const DS: SegmentFields = segment_fields!(GUEST_DS_SELECTOR, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS, GUEST_DS_BASE);
const ES: SegmentFields = segment_fields!(GUEST_ES_SELECTOR, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS, GUEST_ES_BASE);
const FS: SegmentFields = segment_fields!(GUEST_FS_SELECTOR, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS, GUEST_FS_BASE);
const GS: SegmentFields = segment_fields!(GUEST_GS_SELECTOR, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS, GUEST_GS_BASE);
const TR: SegmentFields = segment_fields!(GUEST_TR_SELECTOR, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS, GUEST_TR_BASE);
const LDTR: SegmentFields =
    segment_fields!(GUEST_LDTR_SELECTOR, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS, GUEST_LDTR_BASE);

/// Writes the guest's state, except for registers that the VMCS does not hold or that are written
/// before each entry.
pub(super) fn write(vmcs: &mut impl Fields, guest: &VcpuState, offered_cr4: u64, capabilities: &VmxCapabilities) {
    let segments = [
        (CS, &guest.cs),
        (SS, &guest.ss),
        (DS, &guest.ds),
        (ES, &guest.es),
        (FS, &guest.fs),
        (GS, &guest.gs),
        (TR, &guest.tr),
        (LDTR, &guest.ldtr),
    ];
    for ((selector, limit, rights, base), segment) in segments {
        vmcs.write(selector, segment.selector);
        vmcs.write(limit, segment.limit);
        vmcs.write(rights, access_rights(segment));
        vmcs.write(base, segment.base);
    }
    vmcs.write(fields::GUEST_GDTR_BASE, guest.gdtr.base);
    vmcs.write(fields::GUEST_GDTR_LIMIT, guest.gdtr.limit);
    vmcs.write(fields::GUEST_IDTR_BASE, guest.idtr.base);
    vmcs.write(fields::GUEST_IDTR_LIMIT, guest.idtr.limit);

    vmcs.write(fields::CR0_GUEST_HOST_MASK, !OWN_CR0);
    vmcs.write(fields::CR4_GUEST_HOST_MASK, !offered_cr4 | KERNELS_CR4);
    write_cr0(vmcs, guest.cr0, capabilities);
    vmcs.write(fields::GUEST_CR3, guest.cr3);
    write_cr4(vmcs, guest.cr4, capabilities);
    vmcs.write(fields::GUEST_IA32_EFER, guest.efer);
    vmcs.write(fields::GUEST_IA32_PAT, guest.pat);
    vmcs.write(fields::GUEST_DR7, DR7_RESET);
    vmcs.write(fields::GUEST_IA32_DEBUGCTL, 0);
    vmcs.write(fields::GUEST_IA32_SYSENTER_CS, 0);
    vmcs.write(fields::GUEST_IA32_SYSENTER_ESP, 0);
    vmcs.write(fields::GUEST_IA32_SYSENTER_EIP, 0);
    vmcs.write(fields::GUEST_INTERRUPTIBILITY_STATE, 0);
    vmcs.write(fields::GUEST_ACTIVITY_STATE, 0);
    vmcs.write(fields::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    // No shadow VMCS.
    vmcs.write(fields::VMCS_LINK_POINTER, !0);
}

/// Reads the state that [`write`] writes. `general` are the general registers; registers that the
/// VMCS does not hold are 0.
pub(super) fn read(vmcs: &impl Fields, general: Registers) -> VcpuState {
    let segment = |(selector, limit, rights, base): SegmentFields| {
        let rights = vmcs.read(rights);
        let attributes = if rights & UNUSABLE == 0 { rights as u16 } else { 0 };
        SegmentState { base: vmcs.read(base), limit: vmcs.read(limit), selector: vmcs.read(selector), attributes }
    };
    let table = |base, limit| TableState { base: vmcs.read(base), limit: vmcs.read(limit) & 0xffff, reserved: 0 };
    VcpuState {
        general,
        cs: segment(CS),
        ss: segment(SS),
        ds: segment(DS),
        es: segment(ES),
        fs: segment(FS),
        gs: segment(GS),
        tr: segment(TR),
        ldtr: segment(LDTR),
        gdtr: table(fields::GUEST_GDTR_BASE, fields::GUEST_GDTR_LIMIT),
        idtr: table(fields::GUEST_IDTR_BASE, fields::GUEST_IDTR_LIMIT),
        cr0: read_cr0(vmcs),
        cr3: vmcs.read(fields::GUEST_CR3),
        cr4: read_cr4(vmcs),
        efer: vmcs.read(fields::GUEST_IA32_EFER),
        pat: vmcs.read(fields::GUEST_IA32_PAT),
        ..VcpuState::default()
    }
}

/// Sets CR0 and its read shadow, which the guest sees for bits that it does not own.
pub(super) fn write_cr0(vmcs: &mut impl Fields, cr0: u64, capabilities: &VmxCapabilities) {
    vmcs.write(fields::GUEST_CR0, real_cr0(cr0, capabilities));
    vmcs.write(fields::CR0_READ_SHADOW, cr0 | Cr0::ET.bits());
}

/// Sets CR4 and its read shadow, which the guest sees for bits that it does not own.
pub(super) fn write_cr4(vmcs: &mut impl Fields, cr4: u64, capabilities: &VmxCapabilities) {
    vmcs.write(fields::GUEST_CR4, real_cr4(cr4, capabilities));
    vmcs.write(fields::CR4_READ_SHADOW, cr4);
}

/// Returns CR0 as seen by the guest.
fn read_cr0(vmcs: &impl Fields) -> u64 {
    let mask = vmcs.read(fields::CR0_GUEST_HOST_MASK);
    vmcs.read(fields::GUEST_CR0) & !mask | vmcs.read(fields::CR0_READ_SHADOW) & mask
}

/// Returns CR4 as seen by the guest.
pub(super) fn read_cr4(vmcs: &impl Fields) -> u64 {
    let mask = vmcs.read(fields::CR4_GUEST_HOST_MASK);
    vmcs.read(fields::GUEST_CR4) & !mask | vmcs.read(fields::CR4_READ_SHADOW) & mask
}
