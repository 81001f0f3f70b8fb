//! Guest memory for the host's operating system, with the traits of [`hvt_core::memory`].

pub use crate::sys::memory::{MappedMemory, Usage};
pub use hvt_core::memory::*;

/// Guest memory cannot be mapped.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {size:#x} bytes of guest memory")]
pub struct MapError {
    /// Requested size in bytes.
    pub size: u64,
    /// Error of the host.
    pub source: std::io::Error,
}
