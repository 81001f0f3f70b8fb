//! Functions specific to x86_64.

use hvt_abi::x86_64::TableRegister;

use crate::arch;

/// Returns the interrupt descriptor table (IDT) that the bindings have loaded. A guest needs it to
/// load the same table again or to handle some exceptions itself.
#[must_use]
pub fn interrupt_table() -> TableRegister {
    arch::interrupt_table()
}
