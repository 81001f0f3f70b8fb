//! Second-level page tables: translation from guest-physical to host-physical addresses.
//!
//! One walker serves all entry formats: radix trees with 512 entries per table, four or five
//! levels, and leaves of 4 KiB, 2 MiB and 1 GiB. [`Npt`] is AMD's format, [`Ept`] Intel's.

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
