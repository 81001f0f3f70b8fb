//! Second-level page tables in the format of the machine.

use hvt_abi::{Gpa, GuestRange, Permissions};

use crate::{
    host::{Host, Hpa, OutOfMemory},
    hypervisor::{Shared, Technology},
    paging::{Ept, Invalidation, MapError, Npt, PageTable, Translation},
};

/// A [`PageTable`] of either format.
#[derive(Debug)]
pub(crate) enum Tables<H: Host> {
    Npt(PageTable<Npt, H>),
    Ept(PageTable<Ept, H>),
}

/// Calls the same method of whichever it is.
macro_rules! either {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            Self::Npt(tables) => tables.$method($($argument),*),
            Self::Ept(tables) => tables.$method($($argument),*),
        }
    };
}

impl<H: Host> Tables<H> {
    pub(crate) fn new(shared: &Shared<H>) -> Result<Self, OutOfMemory> {
        let (host, root_level) = (&shared.host, shared.root_level);
        Ok(match &shared.technology {
            Technology::Svm(svm, _) => {
                let format = Npt { huge_pages: svm.huge_pages };
                Self::Npt(PageTable::new(host, format, root_level, svm.physical_address_bits)?)
            }
            Technology::Vmx(vmx, _) => {
                let (execute_only, large_pages, huge_pages) = (vmx.execute_only, vmx.large_pages, vmx.huge_pages);
                let small_code = vmx.mitigations.small_code;
                let format = Ept { execute_only, large_pages, huge_pages, small_code };
                Self::Ept(PageTable::new(host, format, root_level, vmx.physical_address_bits)?)
            }
        })
    }

    pub(crate) fn root(&self) -> Hpa {
        either!(self.root())
    }

    pub(crate) fn map(&mut self, range: GuestRange, hpa: Hpa, permissions: Permissions) -> Result<(), MapError> {
        either!(self.map(range, hpa, permissions))
    }

    pub(crate) fn unmap(&mut self, range: GuestRange) -> Result<Invalidation, MapError> {
        either!(self.unmap(range))
    }

    pub(crate) fn protect(&mut self, range: GuestRange, permissions: Permissions) -> Result<Invalidation, MapError> {
        either!(self.protect(range, permissions))
    }

    #[inline]
    pub(crate) fn translate(&self, gpa: Gpa) -> Option<Translation> {
        either!(self.translate(gpa))
    }

    pub(crate) fn first_mapped(&self, range: GuestRange) -> Option<Gpa> {
        either!(self.first_mapped(range))
    }
}
