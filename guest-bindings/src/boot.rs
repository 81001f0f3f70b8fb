//! What the tender told the guest at the start, kept for the rest of its life.

use core::cell::OnceCell;
#[cfg(feature = "alloc")]
use core::ops::Range;

use hvt_abi::manifest::Entry;

use crate::one_cpu::OneCpu;
use crate::scale::Scale;

/// The part of the boot information that is needed later.
pub(crate) struct Boot {
    /// The manifest's entries, the reserved first one included.
    pub(crate) manifest: &'static [Entry],
    /// Address of the network ring, if there is one.
    pub(crate) ring: Option<usize>,
    /// Cycles to nanoseconds.
    pub(crate) scale: Scale,
    /// The free memory, without the stack's.
    #[cfg(feature = "alloc")]
    pub(crate) heap: Range<usize>,
}

static BOOT: OneCpu<OnceCell<Boot>> = OneCpu::new(OnceCell::new());

/// Keeps what the tender told. The first call counts.
#[cfg(not(test))]
pub(crate) fn set(boot: Boot) {
    let _ = BOOT.set(boot);
}

/// The devices, none before the start is complete.
pub(crate) fn manifest() -> &'static [Entry] {
    BOOT.get().map_or(&[], |boot| boot.manifest)
}

/// The address of the network ring, if there is one.
pub(crate) fn ring() -> Option<usize> {
    BOOT.get().and_then(|boot| boot.ring)
}

/// The heap, empty before the start is complete.
#[cfg(feature = "alloc")]
pub(crate) fn heap() -> Range<usize> {
    BOOT.get().map_or(0..0, |boot| boot.heap.clone())
}

/// The clock's scale.
///
/// # Panics
///
/// Before the start is complete: `main` runs only after.
pub(crate) fn scale() -> Scale {
    let Some(boot) = BOOT.get() else { panic!("the clock was read before it was set up") };
    boot.scale
}
