//! x86_64: variables have negative offsets from FS.base.

/// Defines functions that read, write and locate a variable.
macro_rules! variable {
    ($get:ident, $set:ident, $address:ident, $name:literal) => {
        fn $get() -> u64 {
            let value;
            // SAFETY: The variable exists for every thread pointer of this program.
            unsafe { core::arch::asm!(concat!("mov {}, fs:[", $name, "@TPOFF]"), out(reg) value, options(nostack)) }
            value
        }

        fn $set(value: u64) {
            // SAFETY: As above.
            unsafe { core::arch::asm!(concat!("mov fs:[", $name, "@TPOFF], {}"), in(reg) value, options(nostack)) }
        }

        fn $address() -> usize {
            let offset: usize;
            // SAFETY: Only an address is computed.
            unsafe { core::arch::asm!(concat!("lea {}, [", $name, "@TPOFF]"), out(reg) offset, options(nostack)) }
            tls::thread_pointer().address().wrapping_add(offset)
        }
    };
}
