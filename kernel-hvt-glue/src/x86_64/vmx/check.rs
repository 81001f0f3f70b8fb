//! Checks of the guest's state at VM entry (SDM volume 3, 27.3.1). They run before the entry, so
//! that a failure can name the field.

use hvt_abi::{
    kernel::{EntryFailure, EntryField, SegmentState, VcpuState},
    x86_64::{Cr0, Cr4, Efer, Segment},
};

use super::{capabilities::VmxCapabilities, state};
use crate::x86_64::emulate::{is_canonical, pat_is_valid, rflags_are_valid};

const fn require(valid: bool, field: EntryField, value: u64) -> Result<(), EntryFailure> {
    if valid { Ok(()) } else { Err(EntryFailure { field, value }) }
}

/// Checks a state that was set from outside. `cr4` are the offered bits.
pub(super) fn check(guest: &VcpuState, cr4: u64, capabilities: &VmxCapabilities) -> Result<(), EntryFailure> {
    let cr0 = Cr0::from_bits_retain(guest.cr0);
    let is_cacheable = cr0.contains(Cr0::CD) || !cr0.contains(Cr0::NW);
    let real_cr0 = state::real_cr0(guest.cr0, capabilities);
    let is_allowed = real_cr0 & !capabilities.cr0_fixed1 == 0 && real_cr0 >> 32 == 0;
    let is_paged = cr0.contains(Cr0::PE | Cr0::PG);
    require(is_paged && is_cacheable && is_allowed, EntryField::Cr0, guest.cr0)?;
    require(guest.cr3 >> capabilities.physical_address_bits == 0, EntryField::Cr3, guest.cr3)?;
    let real_cr4 = state::real_cr4(guest.cr4, capabilities);
    let is_allowed = real_cr4 & !capabilities.cr4_fixed1 == 0 && guest.cr4 & !cr4 == 0;
    let has_pae = Cr4::from_bits_retain(guest.cr4).contains(Cr4::PAE);
    require(has_pae && is_allowed, EntryField::Cr4, guest.cr4)?;
    let known = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    let efer = Efer::from_bits_retain(guest.efer);
    require(efer.contains(Efer::LME | Efer::LMA) && known.contains(efer), EntryField::Efer, guest.efer)?;
    require(pat_is_valid(guest.pat), EntryField::Pat, guest.pat)?;

    segments(guest)?;
    for (field, base) in [
        (EntryField::GdtrBase, guest.gdtr.base),
        (EntryField::IdtrBase, guest.idtr.base),
        (EntryField::KernelGsBase, guest.kernel_gs_base),
    ] {
        require(is_canonical(base), field, base)?;
    }
    registers(guest.general.rip, guest.general.rflags)
}

/// Checks the registers that may also be set later.
pub(super) fn registers(rip: u64, rflags: u64) -> Result<(), EntryFailure> {
    require(is_canonical(rip), EntryField::Rip, rip)?;
    require(rflags_are_valid(rflags), EntryField::Rflags, rflags)
}

/// Checks the segment registers (SDM volume 3, 27.3.1.2).
fn segments(guest: &VcpuState) -> Result<(), EntryFailure> {
    let check = |valid, field, segment: &SegmentState| require(valid, field, state::access_rights(segment).into());
    let rpl = |segment: &Segment| (segment.selector & 3) as u8;
    let [cs, ss, tr, ldtr] = [guest.cs, guest.ss, guest.tr, guest.ldtr].map(Segment::from);

    let is_privileged_alike = ss.dpl == rpl(&ss) && rpl(&ss) == rpl(&cs);
    let is_stack = ss.code_or_data && matches!(ss.kind, 3 | 7) && ss.base >> 32 == 0 && is_consistent(&ss);
    check(is_privileged_alike && (!ss.present || is_stack), EntryField::Ss, &guest.ss)?;

    let is_accessed_code = cs.code_or_data && cs.kind & 9 == 9;
    let is_conforming = cs.kind & 4 != 0;
    let is_privileged_alike = if is_conforming { cs.dpl <= ss.dpl } else { cs.dpl == ss.dpl };
    let is_one_size = !(cs.long && cs.default_big);
    let is_code = is_accessed_code && is_one_size && is_privileged_alike && cs.base >> 32 == 0;
    check(cs.present && is_code && is_consistent(&cs), EntryField::Cs, &guest.cs)?;

    for (field, segment, is_wide) in [
        (EntryField::Ds, &guest.ds, false),
        (EntryField::Es, &guest.es, false),
        (EntryField::Fs, &guest.fs, true),
        (EntryField::Gs, &guest.gs, true),
    ] {
        let data = Segment::from(*segment);
        let is_readable = data.kind & 9 == 1 || data.kind & 0xb == 0xb;
        let is_conforming = data.kind >= 12;
        let is_data = data.code_or_data && is_readable && (is_conforming || data.dpl >= rpl(&data));
        let is_in_reach = is_wide || data.base >> 32 == 0;
        check(!data.present || is_data && is_in_reach && is_consistent(&data), field, segment)?;
    }
    require(is_canonical(guest.fs.base), EntryField::FsBase, guest.fs.base)?;
    require(is_canonical(guest.gs.base), EntryField::GsBase, guest.gs.base)?;

    let is_busy_tss = tr.present && !tr.code_or_data && tr.kind == 0xb;
    check(is_busy_tss && tr.selector & 4 == 0 && is_consistent(&tr), EntryField::Tr, &guest.tr)?;
    require(is_canonical(tr.base), EntryField::TrBase, tr.base)?;

    let is_ldt = !ldtr.code_or_data && ldtr.kind == 2 && ldtr.selector & 4 == 0 && is_canonical(ldtr.base);
    check(!ldtr.present || is_ldt && is_consistent(&ldtr), EntryField::Ldtr, &guest.ldtr)
}

/// Returns `true` if G is set when bits 31:20 of the limit require it, and clear when bits 11:0
/// forbid it.
const fn is_consistent(segment: &Segment) -> bool {
    (segment.limit & 0xfff == 0xfff || !segment.granularity) && (segment.limit >> 20 == 0 || segment.granularity)
}
