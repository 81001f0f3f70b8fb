//! The checks that VM entry makes of the guest's state (SDM volume 3, 27.3.1), made beforehand to name the field that
//! fails.

use hvt_abi::{
    kernel::{EntryFailure, EntryField},
    x86_64::{Cr0, Cr4, Efer, EntryState, Segment},
};

use super::{capabilities::VmxCapabilities, state};
use crate::x86_64::emulate::{is_canonical, rflags_are_valid};

const fn require(valid: bool, field: EntryField, value: u64) -> Result<(), EntryFailure> {
    if valid { Ok(()) } else { Err(EntryFailure { field, value }) }
}

/// Checks the state in which a guest is to start. `cr4` are the bits on offer.
pub(super) fn check(entry: &EntryState, cr4: u64, capabilities: &VmxCapabilities) -> Result<(), EntryFailure> {
    let cr0 = state::real_cr0(entry.cr0.bits(), capabilities);
    let is_cacheable = entry.cr0.contains(Cr0::CD) || !entry.cr0.contains(Cr0::NW);
    let is_allowed = cr0 & !capabilities.cr0_fixed1 == 0 && cr0 >> 32 == 0;
    let is_paged = entry.cr0.contains(Cr0::PE | Cr0::PG);
    require(is_paged && is_cacheable && is_allowed, EntryField::Cr0, entry.cr0.bits())?;
    require(entry.cr3.0 >> capabilities.physical_address_bits == 0, EntryField::Cr3, entry.cr3.0)?;
    let real_cr4 = state::real_cr4(entry.cr4.bits(), capabilities);
    let is_allowed = real_cr4 & !capabilities.cr4_fixed1 == 0 && entry.cr4.bits() & !cr4 == 0;
    require(entry.cr4.contains(Cr4::PAE) && is_allowed, EntryField::Cr4, entry.cr4.bits())?;
    let known = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    let is_long = entry.efer.contains(Efer::LME | Efer::LMA) && known.contains(entry.efer);
    require(is_long, EntryField::Efer, entry.efer.bits())?;

    segments(entry)?;
    for (field, table) in [(EntryField::GdtrBase, entry.gdtr), (EntryField::IdtrBase, entry.idtr)] {
        require(is_canonical(table.base), field, table.base)?;
    }
    registers(entry.rip.0, entry.rflags)
}

/// Checks what may also be set later.
pub(super) fn registers(rip: u64, rflags: u64) -> Result<(), EntryFailure> {
    require(is_canonical(rip), EntryField::Rip, rip)?;
    require(rflags_are_valid(rflags), EntryField::Rflags, rflags)
}

/// SDM volume 3, 27.3.1.2.
fn segments(entry: &EntryState) -> Result<(), EntryFailure> {
    let require = |valid, field, segment: &Segment| require(valid, field, state::access_rights(segment).into());
    let code = &entry.code;
    let is_accessed_code = code.code_or_data && code.kind & 9 == 9;
    let is_one_size = !(code.long && code.default_big);
    require(code.present && is_accessed_code && is_one_size && is_consistent(code), EntryField::Cs, code)?;

    let data = &entry.data;
    let is_stack = data.code_or_data && matches!(data.kind, 3 | 7);
    let rpl = (data.selector & 3) as u8;
    let is_privileged_alike = data.dpl == rpl && u16::from(rpl) == code.selector & 3;
    let is_stack = !data.present || is_stack && is_consistent(data);
    require(is_stack && is_privileged_alike, EntryField::Ss, data)?;

    let task = &entry.task;
    let is_busy_tss = task.present && !task.code_or_data && task.kind == 0xb;
    require(is_busy_tss && task.selector & 4 == 0 && is_consistent(task), EntryField::Tr, task)?;
    super::check::require(is_canonical(task.base), EntryField::TrBase, task.base)?;

    let ldt = &entry.ldt;
    let is_ldt = !ldt.code_or_data && ldt.kind == 2 && ldt.selector & 4 == 0 && is_canonical(ldt.base);
    require(!ldt.present || is_ldt && is_consistent(ldt), EntryField::Ldtr, ldt)
}

/// G is set where bits 31:20 of the limit ask for it, and not where bits 11:0 forbid it.
const fn is_consistent(segment: &Segment) -> bool {
    (segment.limit & 0xfff == 0xfff || !segment.granularity) && (segment.limit >> 20 == 0 || segment.granularity)
}
