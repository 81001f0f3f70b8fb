//! Guest memory for the host's operating system, with the traits of [`hvt_core::memory`].

#[cfg(target_os = "linux")]
mod mapped;
#[cfg(target_os = "redox")]
mod private;
#[cfg(target_os = "linux")]
mod rust_vmm;
#[cfg(target_os = "linux")]
mod usage;

use crate::sys::host_limit::Advice;

pub use hvt_core::memory::*;
#[cfg(target_os = "linux")]
pub use mapped::MappedMemory;
#[cfg(target_os = "redox")]
pub use private::PrivateMemory;
#[cfg(target_os = "linux")]
pub use usage::Usage;

/// Guest memory cannot be mapped.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {size:#x} bytes of guest memory: {source}{}", Advice::on(source))]
pub struct MapError {
    /// Requested size in bytes.
    pub size: u64,
    /// Error of the host.
    pub source: std::io::Error,
}
