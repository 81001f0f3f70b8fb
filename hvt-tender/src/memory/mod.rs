//! Guest memory of the host's operating system, over the traits of [`hvt_core::memory`].

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

/// Guest memory could not be mapped.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {size:#x} bytes of guest memory: {source}{}", Advice::on(source))]
pub struct MapError {
    /// Bytes asked for.
    pub size: u64,
    /// What the host said.
    pub source: std::io::Error,
}
