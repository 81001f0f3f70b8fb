//! Guest memory of the host's operating system, over the traits of [`hvt_core::memory`].

#[cfg(target_os = "linux")]
mod mapped;
#[cfg(target_os = "redox")]
mod private;
#[cfg(target_os = "linux")]
mod usage;

pub use hvt_core::memory::*;
#[cfg(target_os = "linux")]
pub use mapped::{MapError, MappedMemory};
#[cfg(target_os = "redox")]
pub use private::PrivateMemory;
#[cfg(target_os = "linux")]
pub use usage::Usage;
