//! Checks that VMRUN performs (APM volume 2, 15.5.1). They run before the entry, so that a failure
//! can name the field.

use hvt_abi::{
    kernel::{EntryFailure, EntryField},
    x86_64::{Cr0, Cr4, Efer},
};

use super::vmcb::{ATTRIBUTE_BIG, ATTRIBUTE_LONG, Vmcb};
use crate::x86_64::emulate::{is_canonical, pat_is_valid, rflags_are_valid};

/// Checks the guest's state. The control fields need no check, because this crate sets them. `cr4`
/// are the offered bits.
pub(super) fn check(vmcb: &Vmcb, cr4: u64, physical_address_bits: u32) -> Result<(), EntryFailure> {
    let save = &vmcb.save;
    let require = |valid: bool, field, value| if valid { Ok(()) } else { Err(EntryFailure { field, value }) };

    let cr0 = Cr0::from_bits_retain(save.cr0);
    let is_paged = cr0.contains(Cr0::PE | Cr0::PG);
    let is_cacheable = cr0.contains(Cr0::CD) || !cr0.contains(Cr0::NW);
    require(is_paged && is_cacheable && save.cr0 >> 32 == 0, EntryField::Cr0, save.cr0)?;
    require(save.cr3 >> physical_address_bits == 0, EntryField::Cr3, save.cr3)?;
    let has_pae = Cr4::from_bits_retain(save.cr4).contains(Cr4::PAE);
    require(has_pae && save.cr4 & !cr4 == 0, EntryField::Cr4, save.cr4)?;
    let known = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE | Efer::SVME;
    let efer = Efer::from_bits_retain(save.efer);
    let is_long = efer.contains(Efer::LME | Efer::LMA | Efer::SVME);
    require(is_long && known.contains(efer), EntryField::Efer, save.efer)?;

    let cs = u64::from(save.cs.attributes);
    let is_present_code = cs & 0x98 == 0x98;
    let both = ATTRIBUTE_LONG | ATTRIBUTE_BIG;
    require(is_present_code && save.cs.attributes & both != both, EntryField::Cs, cs)?;
    require(save.ss.attributes >> 5 & 3 == u16::from(save.cpl), EntryField::Ss, save.ss.attributes.into())?;

    require(rflags_are_valid(save.rflags), EntryField::Rflags, save.rflags)?;
    require(is_canonical(save.rip), EntryField::Rip, save.rip)?;
    require(save.dr6 >> 32 == 0, EntryField::Dr6, save.dr6)?;
    require(save.dr7 >> 32 == 0, EntryField::Dr7, save.dr7)?;
    require(pat_is_valid(save.g_pat), EntryField::Pat, save.g_pat)?;
    for (field, base) in [
        (EntryField::GdtrBase, save.gdtr.base),
        (EntryField::IdtrBase, save.idtr.base),
        (EntryField::FsBase, save.fs.base),
        (EntryField::GsBase, save.gs.base),
        (EntryField::TrBase, save.tr.base),
        (EntryField::KernelGsBase, save.kernel_gs_base),
    ] {
        require(is_canonical(base), field, base)?;
    }
    Ok(())
}
