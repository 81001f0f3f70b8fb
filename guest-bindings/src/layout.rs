//! Where the linker put the guest.

use core::ops::Range;

unsafe extern "C" {
    static _end: u8;
    static _tls_start: u8;
    static _tls_data_end: u8;
    static _tls_end: u8;
    static _tls_align: u8;
}

/// First address after everything that was linked.
pub(crate) fn end() -> usize {
    (&raw const _end).addr()
}

/// Template of a thread's variables: the part with values, and the zeros behind it.
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
        // A number that the linker script hands over as an address; 0 where there are no such variables.
        alignment: (&raw const _tls_align).addr().max(1),
    }
}
