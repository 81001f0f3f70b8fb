//! What a kernel gives: frames, a view of them, the number of the CPU, and a say in when the guest has to stop.

use core::fmt;

/// A host-physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Hpa(pub u64);

impl Hpa {
    /// The address `bytes` further on. Wraps around at 2^64, which no physical address reaches.
    #[must_use]
    pub const fn add(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Whether the address is a multiple of `alignment`, which must be a power of two.
    #[must_use]
    pub const fn is_aligned(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }
}

impl fmt::Debug for Hpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hpa({:#x})", self.0)
    }
}

impl fmt::Display for Hpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Bytes in a frame: 4 KiB.
pub const FRAME_SIZE: u64 = 0x1000;

/// The kernel, as this crate sees it. A clone is a handle to the same kernel and should cost nothing: a kernel
/// implements this for an empty structure.
///
/// Every method may be called on any CPU. [`allocate`](Self::allocate) and [`free`](Self::free) are not called from
/// [`Bound::run`](crate::Bound::run); the others are, with interrupts disabled.
///
/// # Safety
/// This crate hands physical addresses of these frames to the CPU. An implementor promises that
/// - a block of frames that `allocate` returned belongs to the caller alone until it comes back through `free`,
/// - it is ordinary write-back memory, readable and writable at [`phys_to_virt`](Self::phys_to_virt) in every address
///   space in which this crate runs, for as long as it is allocated,
/// - [`cpu_index`](Self::cpu_index) tells the CPUs apart.
pub unsafe trait Host: Clone + Send + Sync + 'static {
    /// Takes 2^`order` frames out of the kernel's memory: zeroed, physically contiguous, the first aligned to the size
    /// of the whole block. `None` when there are none; `order` 0 is a frame, 9 is 2 MiB.
    fn allocate(&self, order: u32) -> Option<Hpa>;

    /// Gives a block of frames back.
    ///
    /// # Safety
    /// `allocate(order)` returned `base`, it has not been given back since, and nothing uses it any more.
    unsafe fn free(&self, base: Hpa, order: u32);

    /// Where the kernel sees a frame: `hpa` is 4 KiB aligned and lies in memory that `allocate` returned or that was
    /// given to [`Vm::map`](crate::Vm::map). Frames of one block lie at consecutive addresses.
    fn phys_to_virt(&self, hpa: Hpa) -> *mut u8;

    /// A small number that tells the CPU this runs on from all others.
    fn cpu_index(&self) -> u32;

    /// Whether the guest has to give the CPU back now: its time slice is over, a signal has come, somebody wants to change
    /// its memory. Asked before every entry, with interrupts disabled, so that the answer of an interrupt handler is
    /// never missed: another CPU that wants the guest out says so where this looks, and then interrupts this CPU.
    ///
    /// [`Bound::run`](crate::Bound::run) leaves the interrupt flag as its caller had it while the guest is out, so an
    /// interrupt that made the guest exit is taken before this is asked. Where the caller has disabled interrupts, it
    /// stays pending, `run` returns, and this need not know.
    fn wants_cpu(&self) -> bool;
}

/// A block of 2^order frames; they return to the kernel when it is dropped.
pub struct Frames<H: Host> {
    host: H,
    base: Hpa,
    order: u32,
}

impl<H: Host> Frames<H> {
    /// Takes a zeroed block of 2^`order` frames from the kernel.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn allocate(host: &H, order: u32) -> Result<Self, OutOfMemory> {
        let base = host.allocate(order).ok_or(OutOfMemory)?;
        Ok(Self { host: host.clone(), base, order })
    }

    /// Address of the first byte.
    #[must_use]
    pub fn base(&self) -> Hpa {
        self.base
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        FRAME_SIZE << self.order
    }

    /// Where the kernel sees the first byte. All [`size`](Self::size) bytes follow it.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.host.phys_to_virt(self.base)
    }
}

impl<H: Host> Drop for Frames<H> {
    fn drop(&mut self) {
        // SAFETY: `base` and `order` are those of `allocate` and this value is the only owner of the block.
        unsafe { self.host.free(self.base, self.order) }
    }
}

impl<H: Host> fmt::Debug for Frames<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({}, {:#x} bytes)", self.base, self.size())
    }
}

/// The kernel has no frames left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel has no free frames of this size")]
pub struct OutOfMemory;
