//! Backends of Linux.

#[cfg(feature = "kvm")]
pub(crate) mod kvm;
#[cfg(all(feature = "process", target_arch = "x86_64"))]
pub(crate) mod process;

use crate::backend::Kind;

/// The backends, the better first.
pub(crate) const KINDS: &[Kind] = &[
    #[cfg(feature = "kvm")]
    kvm::KIND,
    #[cfg(all(feature = "process", target_arch = "x86_64"))]
    process::KIND,
];
