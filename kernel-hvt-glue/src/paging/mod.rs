//! Second-level page tables: from guest-physical to host-physical addresses.
//!
//! One walker for all formats of entries: radix trees of 512 entries a table, four or five levels deep, with leaves of
//! 4 KiB, 2 MiB and 1 GiB. [`Npt`] is AMD's format, [`Ept`] Intel's.

mod address_space;
mod ept;
mod format;
mod npt;
mod table;
#[cfg(test)]
mod tests;
mod x86;

pub use address_space::AddressSpace;
pub use ept::Ept;
pub use format::{Entry, EntryFormat, Invalidation, Level, MapError, Translation};
pub use npt::Npt;
pub use table::PageTable;
