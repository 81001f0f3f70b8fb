//! Errors in booting a valid image.

use hvt_abi::{Gpa, MEM_GRANULE, MEM_MAX};

use crate::memory::OutOfMemory;

/// Reason why a guest cannot be booted. The message is one line that names the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Guest memory is too large, too small or not a multiple of 2 MiB.
    #[error(
        "a guest cannot have {0} bytes of memory; choose a multiple of {granule} MiB, at most {max} MiB",
        granule = mebibytes(MEM_GRANULE),
        max = mebibytes(MEM_MAX)
    )]
    MemSize(u64),
    /// The image does not fit into guest memory.
    #[error("the unikernel needs {} MiB of memory at least; it has {} MiB", mebibytes(*needed), mebibytes(*mem_size))]
    TooSmall {
        /// Required size of memory in bytes.
        needed: u64,
        /// Configured size of memory in bytes.
        mem_size: u64,
    },
    /// No size of guest memory holds the image and a page for the stack.
    #[error(
        "the unikernel's segments end at {end}: no room for its stack below {max} MiB, the largest guest memory; \
         link it lower",
        max = mebibytes(MEM_MAX)
    )]
    NoStack {
        /// End of the last segment.
        end: Gpa,
    },
    /// The segments lie so far apart that their page tables do not fit below 1 MiB.
    #[error("the unikernel's segments lie too far apart for their page tables to fit below 1 MiB; link them together")]
    Scattered,
    /// The segments' ranges are not ascending and page-aligned.
    #[error("the unikernel's segments overlap, or do not begin and end with pages; link it with Solo5's linker script")]
    Regions,
    /// The manifest does not fit below 1 MiB.
    #[error("a manifest of {len} bytes does not fit into the guest's memory")]
    Manifest {
        /// Length of the manifest in bytes.
        len: usize,
    },
    /// The network ring does not lie on a page boundary behind the guest's memory.
    #[error("a network ring cannot lie at {0}: it must be page aligned, behind the guest's memory and below 4 GiB")]
    Ring(Gpa),
    /// The memory passed in is smaller than the configured memory.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

const fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}
