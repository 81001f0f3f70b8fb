//! Guest memory of Linux.

mod mapped;
mod rust_vmm;
mod usage;

pub use mapped::MappedMemory;
pub use usage::Usage;
