//! Services of the embedding kernel: frames, their mapping, the CPU number, and preemption of
//! guests.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use core::fmt;

/// Host-physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Hpa(pub u64);

impl Hpa {
    /// Returns the address plus `bytes`. Wraps around at 2^64. No physical address is that large.
    #[must_use]
    pub const fn add(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Returns `true` if the address is a multiple of `alignment`, which must be a power of two.
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

/// Size of a frame in bytes: 4 KiB.
pub const FRAME_SIZE: u64 = 0x1000;

/// Services that this crate requires from the kernel. A clone is a handle to the same kernel and
/// should be free: a kernel implements this trait for a unit structure.
///
/// Every method may be called on any CPU. [`Bound::run`](crate::Bound::run) does not call
/// [`allocate`](Self::allocate) or [`free`](Self::free); it calls the other methods with interrupts
/// disabled.
///
/// # Safety
/// This crate passes physical addresses of the kernel's frames to the CPU. An implementation must
/// ensure:
/// - A block of frames that `allocate` returned belongs to the caller alone until `free` returns
///   it.
/// - The block is ordinary write-back memory. While it is allocated, it is readable and writable at
///   [`phys_to_virt`](Self::phys_to_virt) in every address space in which this crate runs.
/// - [`cpu_index`](Self::cpu_index) is different on every CPU.
pub unsafe trait Host: Clone + Send + Sync + 'static {
    /// Allocates 2^`order` frames: zeroed, physically contiguous, and aligned to the size of the
    /// block. Returns `None` if there is no such block. Order 0 is one frame, order 9 is 2 MiB.
    fn allocate(&self, order: u32) -> Option<Hpa>;

    /// Frees a block of frames.
    ///
    /// # Safety
    /// `base` must be the result of `allocate(order)`. The block must not have been freed since,
    /// and must not be in use any more.
    unsafe fn free(&self, base: Hpa, order: u32);

    /// Returns the kernel's virtual address of a frame. `hpa` is 4 KiB aligned and lies in memory
    /// that `allocate` returned or that was passed to [`Vm::map`](crate::Vm::map). The frames of
    /// one block have consecutive addresses.
    fn phys_to_virt(&self, hpa: Hpa) -> *mut u8;

    /// Returns the number of the current CPU: a small number that is different on every CPU.
    fn cpu_index(&self) -> u32;

    /// Returns `true` if the guest must return the CPU now, for example because its time slice has
    /// ended, a signal is pending, or another CPU needs to change its memory.
    ///
    /// This crate calls the method before every entry, with interrupts disabled, so that it never
    /// misses a request from an interrupt handler. Another CPU that has to stop the guest first
    /// makes this method return `true` and then interrupts this CPU.
    ///
    /// [`Bound::run`](crate::Bound::run) restores the caller's interrupt flag between an exit and
    /// the next entry. If the caller has interrupts enabled, an interrupt that caused the exit is
    /// therefore taken before this call. If the caller has interrupts disabled, the interrupt stays
    /// pending and `run` returns, regardless of this method.
    fn wants_cpu(&self) -> bool;
}

/// Block of 2^order frames. Dropping the value returns the frames to the kernel.
pub struct Frames<H: Host> {
    host: H,
    base: Hpa,
    order: u32,
}

impl<H: Host> Frames<H> {
    /// Allocates a zeroed block of 2^`order` frames from the kernel.
    ///
    /// # Errors
    /// Returns [`OutOfMemory`] if the kernel has no such block.
    pub fn allocate(host: &H, order: u32) -> Result<Self, OutOfMemory> {
        let base = host.allocate(order).ok_or(OutOfMemory)?;
        Ok(Self { host: host.clone(), base, order })
    }

    /// Returns the address of the first byte.
    #[must_use]
    pub fn base(&self) -> Hpa {
        self.base
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        FRAME_SIZE << self.order
    }

    /// Returns the kernel's virtual address of the first byte. All [`size`](Self::size) bytes
    /// follow it.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.host.phys_to_virt(self.base)
    }
}

impl<H: Host> Drop for Frames<H> {
    fn drop(&mut self) {
        // SAFETY: `allocate` returned `base` for `order`, and this value is the only owner of the
        // block.
        unsafe { self.host.free(self.base, self.order) }
    }
}

impl<H: Host> fmt::Debug for Frames<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({}, {:#x} bytes)", self.base, self.size())
    }
}

/// Error: the kernel has no free block of frames of the requested size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel has no free frames of this size")]
pub struct OutOfMemory;
