//! aarch64: variables have positive offsets from TPIDR_EL0.

/// Defines functions that read, write and locate a variable.
macro_rules! variable {
    ($get:ident, $set:ident, $address:ident, $name:literal) => {
        fn $get() -> u64 {
            // SAFETY: The variable exists for every thread pointer of this program.
            unsafe { core::ptr::with_exposed_provenance::<u64>($address()).read() }
        }

        fn $set(value: u64) {
            // SAFETY: As above.
            unsafe { core::ptr::with_exposed_provenance_mut::<u64>($address()).write(value) }
        }

        fn $address() -> usize {
            let address: usize;
            // SAFETY: Only an address is computed.
            unsafe {
                core::arch::asm!(
                    "mrs {0}, TPIDR_EL0",
                    concat!("add {0}, {0}, #:tprel_hi12:", $name),
                    concat!("add {0}, {0}, #:tprel_lo12_nc:", $name),
                    out(reg) address,
                    options(nostack),
                );
            }
            address
        }
    };
}
