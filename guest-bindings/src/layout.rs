//! Addresses defined by the linker script.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::ops::Range;

unsafe extern "C" {
    static _end: u8;
    static _tls_start: u8;
    static _tls_data_end: u8;
    static _tls_end: u8;
    static _tls_align: u8;
}

/// Returns the first address after the linked guest.
pub(crate) fn end() -> usize {
    (&raw const _end).addr()
}

/// Template of the thread-local variables: the initialized part, followed by the zeroed part.
pub(crate) struct TlsTemplate {
    pub(crate) data: Range<*const u8>,
    /// Length of both parts in bytes.
    pub(crate) len: usize,
    /// Alignment, a power of two, at most [`tls::ALIGNMENT`](crate::tls::ALIGNMENT).
    pub(crate) alignment: usize,
}

pub(crate) fn tls_template() -> TlsTemplate {
    let start = &raw const _tls_start;
    TlsTemplate {
        data: start..&raw const _tls_data_end,
        len: (&raw const _tls_end).addr() - start.addr(),
        // The linker script defines the number as the address of a symbol. It is 0 if there are no
        // thread-local variables.
        alignment: (&raw const _tls_align).addr().max(1),
    }
}
