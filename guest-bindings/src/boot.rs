//! Boot information that the bindings keep for the lifetime of the guest.

use core::cell::OnceCell;
#[cfg(feature = "alloc")]
use core::ops::Range;

use hvt_abi::manifest::Entry;

use crate::one_cpu::OneCpu;
use crate::scale::Scale;

/// Subset of the boot information that is needed after the start.
pub(crate) struct Boot {
    /// Entries of the manifest, including the reserved first entry.
    pub(crate) manifest: &'static [Entry],
    /// Address of the network ring, or `None` if the tender offers no ring.
    pub(crate) ring: Option<usize>,
    /// Conversion of cycles to nanoseconds.
    pub(crate) scale: Scale,
    /// Free memory without the stack.
    #[cfg(feature = "alloc")]
    pub(crate) heap: Range<usize>,
}

static BOOT: OneCpu<OnceCell<Boot>> = OneCpu::new(OnceCell::new());

/// Stores the boot information. Later calls have no effect.
#[cfg(not(test))]
pub(crate) fn set(boot: Boot) {
    let _ = BOOT.set(boot);
}

/// Returns the devices. The slice is empty before the start is complete.
pub(crate) fn manifest() -> &'static [Entry] {
    BOOT.get().map_or(&[], |boot| boot.manifest)
}

/// Returns the address of the network ring, or `None` if the tender offers no ring.
pub(crate) fn ring() -> Option<usize> {
    BOOT.get().and_then(|boot| boot.ring)
}

/// Returns the heap. The range is empty before the start is complete.
#[cfg(feature = "alloc")]
pub(crate) fn heap() -> Range<usize> {
    BOOT.get().map_or(0..0, |boot| boot.heap.clone())
}

/// Returns the scale of the clock.
///
/// # Panics
///
/// Panics before the start is complete. `main` runs only after that.
pub(crate) fn scale() -> Scale {
    let Some(boot) = BOOT.get() else { panic!("the clock was read before it was set up") };
    boot.scale
}
