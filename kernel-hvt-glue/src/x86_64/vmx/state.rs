//! The guest's state as VMCS fields (SDM volume 3, 25.4).

use hvt_abi::x86_64::{Cr0, Cr4, EntryState, Segment};

use super::{
    capabilities::VmxCapabilities,
    fields::{self, Field, Natural},
    vmcs::Vmcs,
};
use crate::x86_64::debug::DR7_RESET;

/// IA32_PAT after reset (SDM volume 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Bits of CR0 that are the guest's own; a write that changes any other one exits.
const OWN_CR0: u64 = Cr0::MP.union(Cr0::EM).union(Cr0::TS).union(Cr0::WP).union(Cr0::AM).bits();

/// Bits of CR4 that are the kernel's, whatever else the guest is offered: those that decide on more than the guest's
/// paging and exceptions.
const KERNELS_CR4: u64 = Cr4::PAE.union(Cr4::OSXSAVE).union(Cr4::VMXE).bits();

/// CR0 as the CPU has it while the guest sees `cr0`.
pub(super) const fn real_cr0(cr0: u64, capabilities: &VmxCapabilities) -> u64 {
    cr0 | capabilities.cr0_fixed0
}

/// CR4 as the CPU has it while the guest sees `cr4`.
pub(super) const fn real_cr4(cr4: u64, capabilities: &VmxCapabilities) -> u64 {
    cr4 | capabilities.cr4_fixed0
}

/// The access rights of a segment (SDM volume 3, table 25-2).
pub(super) fn access_rights(segment: &Segment) -> u32 {
    const UNUSABLE: u32 = 1 << 16;
    if !segment.present {
        return UNUSABLE;
    }
    let flag = |value: bool, bit: u32| u32::from(value) << bit;
    u32::from(segment.kind & 0xf)
        | flag(segment.code_or_data, 4)
        | u32::from(segment.dpl & 3) << 5
        | flag(true, 7)
        | flag(segment.long, 13)
        | flag(segment.default_big, 14)
        | flag(segment.granularity, 15)
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

/// Writes the state in which a guest starts, but for the registers that may also be set later.
pub(super) fn write(vmcs: &mut Vmcs, entry: &EntryState, offered_cr4: u64, capabilities: &VmxCapabilities) {
    let segments = [
        (CS, &entry.code),
        (SS, &entry.data),
        (DS, &entry.data),
        (ES, &entry.data),
        (FS, &entry.data),
        (GS, &entry.data),
        (TR, &entry.task),
        (LDTR, &entry.ldt),
    ];
    for ((selector, limit, rights, base), segment) in segments {
        vmcs.write(selector, segment.selector);
        vmcs.write(limit, segment.limit);
        vmcs.write(rights, access_rights(segment));
        vmcs.write(base, segment.base);
    }
    vmcs.write(fields::GUEST_GDTR_BASE, entry.gdtr.base);
    vmcs.write(fields::GUEST_GDTR_LIMIT, entry.gdtr.limit.into());
    vmcs.write(fields::GUEST_IDTR_BASE, entry.idtr.base);
    vmcs.write(fields::GUEST_IDTR_LIMIT, entry.idtr.limit.into());

    vmcs.write(fields::CR0_GUEST_HOST_MASK, !OWN_CR0);
    vmcs.write(fields::CR4_GUEST_HOST_MASK, !offered_cr4 | KERNELS_CR4);
    write_cr0(vmcs, entry.cr0.bits(), capabilities);
    vmcs.write(fields::GUEST_CR3, entry.cr3.0);
    write_cr4(vmcs, entry.cr4.bits(), capabilities);
    vmcs.write(fields::GUEST_IA32_EFER, entry.efer.bits());
    vmcs.write(fields::GUEST_IA32_PAT, PAT_RESET);
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

/// Sets CR0, and what the guest sees of the bits that are not its own.
pub(super) fn write_cr0(vmcs: &mut Vmcs, cr0: u64, capabilities: &VmxCapabilities) {
    vmcs.write(fields::GUEST_CR0, real_cr0(cr0, capabilities));
    vmcs.write(fields::CR0_READ_SHADOW, cr0 | Cr0::ET.bits());
}

/// Sets CR4, and what the guest sees of the bits that are not its own.
pub(super) fn write_cr4(vmcs: &mut Vmcs, cr4: u64, capabilities: &VmxCapabilities) {
    vmcs.write(fields::GUEST_CR4, real_cr4(cr4, capabilities));
    vmcs.write(fields::CR4_READ_SHADOW, cr4);
}

/// CR4 as the guest sees it.
pub(super) fn read_cr4(vmcs: &Vmcs) -> u64 {
    let mask = vmcs.read(fields::CR4_GUEST_HOST_MASK);
    vmcs.read(fields::GUEST_CR4) & !mask | vmcs.read(fields::CR4_READ_SHADOW) & mask
}
