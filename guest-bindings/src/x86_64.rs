//! What is peculiar to x86_64.

use hvt_abi::x86_64::TableRegister;

use crate::arch;

/// The interrupt table (IDT) that the bindings have loaded: for a guest that loads it again, or handles some exceptions
/// itself.
#[must_use]
pub fn interrupt_table() -> TableRegister {
    arch::interrupt_table()
}
