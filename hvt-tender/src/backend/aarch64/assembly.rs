//! Guests of a few instructions for tests.

/// Machine code of a guest. Label `8` is its start.
macro_rules! code {
    ($($line:literal),+) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: no instruction of the guest is executed here. The code goes to another section,
        // and its bounds go to two registers.
        unsafe {
            std::arch::asm!(
                ".pushsection .rodata", ".balign 4", "8:", $($line,)+ "9:", ".popsection",
                "adrp {start}, 8b", "add {start}, {start}, :lo12:8b",
                "adrp {end}, 9b", "add {end}, {end}, :lo12:9b",
                start = out(reg) start, end = out(reg) end, options(pure, nomem, nostack, preserves_flags),
            );
        }
        // SAFETY: the bytes of the section between the two labels; nothing writes them.
        unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
    }};
}

pub(crate) use code;
