//! Second-level page tables, independent of their format.

use hvt_abi::{Gpa, GuestRange, Permissions};

use super::{
    format::{EntryFormat, Invalidation, MapError, Translation},
    table::PageTable,
};
use crate::host::{Host, Hpa};

/// A [`PageTable`] of the machine's format.
pub trait AddressSpace: Send + Sync {
    /// See [`PageTable::root`].
    fn root(&self) -> Hpa;

    /// See [`PageTable::map`].
    ///
    /// # Errors
    /// As for [`PageTable::map`].
    fn map(&mut self, range: GuestRange, hpa: Hpa, permissions: Permissions) -> Result<(), MapError>;

    /// See [`PageTable::unmap`].
    ///
    /// # Errors
    /// As for [`PageTable::unmap`].
    fn unmap(&mut self, range: GuestRange) -> Result<Invalidation, MapError>;

    /// See [`PageTable::protect`].
    ///
    /// # Errors
    /// As for [`PageTable::protect`].
    fn protect(&mut self, range: GuestRange, permissions: Permissions) -> Result<Invalidation, MapError>;

    /// See [`PageTable::translate`].
    fn translate(&self, gpa: Gpa) -> Option<Translation>;

    /// See [`PageTable::first_mapped`].
    fn first_mapped(&self, range: GuestRange) -> Option<Gpa>;
}

impl<F: EntryFormat, H: Host> AddressSpace for PageTable<F, H> {
    fn root(&self) -> Hpa {
        Self::root(self)
    }

    fn map(&mut self, range: GuestRange, hpa: Hpa, permissions: Permissions) -> Result<(), MapError> {
        Self::map(self, range, hpa, permissions)
    }

    fn unmap(&mut self, range: GuestRange) -> Result<Invalidation, MapError> {
        Self::unmap(self, range)
    }

    fn protect(&mut self, range: GuestRange, permissions: Permissions) -> Result<Invalidation, MapError> {
        Self::protect(self, range, permissions)
    }

    fn translate(&self, gpa: Gpa) -> Option<Translation> {
        Self::translate(self, gpa)
    }

    fn first_mapped(&self, range: GuestRange) -> Option<Gpa> {
        Self::first_mapped(self, range)
    }
}
