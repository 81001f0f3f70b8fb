//! A piece of host memory that a guest may change at any time.

use core::marker::PhantomData;
use core::ptr::NonNull;

use hvt_abi::GuestRange;

/// A run of bytes that back guest memory, contiguous in the host.
///
/// It can be copied from and to, and its address can be handed to a system call; no reference to it ever exists,
/// because the guest writes it concurrently.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'m> {
    start: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'m ()>,
}

impl<'m> Chunk<'m> {
    /// The `len` bytes at `start`.
    ///
    /// # Safety
    /// They must be mapped, readable and writable, for all of `'m`, and no Rust reference to any of them may exist
    /// meanwhile. Other agents may read and write them.
    #[must_use]
    pub const unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, memory: PhantomData }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Host address of the first byte, for system calls that fill or drain a buffer.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// What follows its first `len` bytes: nothing where it is shorter.
    #[must_use]
    #[inline]
    pub fn skip(&self, len: usize) -> Self {
        let len = len.min(self.len);
        // SAFETY: the address lies in the chunk or at its end.
        Self { start: unsafe { self.start.add(len) }, len: self.len - len, memory: PhantomData }
    }

    /// The `len` bytes from `offset` on; `None` where not all of them are its own.
    #[must_use]
    #[inline]
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        if self.len.checked_sub(offset)? < len {
            return None;
        }
        // SAFETY: the address lies in the chunk or at its end.
        Some(Self { start: unsafe { self.start.add(offset) }, len, memory: PhantomData })
    }

    /// Where it is all of a guest's memory: what backs `range` from its start on, as [`GuestMemory::chunk`] has it.
    ///
    /// [`GuestMemory::chunk`]: super::GuestMemory::chunk
    #[must_use]
    #[inline]
    pub fn backing(&self, range: GuestRange) -> Option<Self> {
        let offset = usize::try_from(range.start().0).ok()?;
        let len = self.len.checked_sub(offset)?.min(usize::try_from(range.len()).ok()?);
        if len == 0 { None } else { self.part(offset, len) }
    }

    /// As bytes of a `T`, if there are as many.
    #[must_use]
    #[inline]
    pub fn exactly<T>(&self) -> Option<ChunkOf<'m, T>> {
        (self.len == size_of::<T>()).then_some(ChunkOf { start: self.start, memory: PhantomData, object: PhantomData })
    }

    /// Copies as much as fits into `into`; returns how many bytes.
    #[must_use]
    #[inline]
    pub fn read(&self, into: &mut [u8]) -> usize {
        let len = self.len.min(into.len());
        // SAFETY: `len` bytes are valid on both sides: here by `new`, there because `into` is a slice; a slice cannot
        // overlap guest memory, to which no reference exists.
        unsafe { copy(self.start.as_ptr(), into.as_mut_ptr(), len) };
        len
    }

    /// Copies as much of `from` as fits; returns how many bytes.
    #[must_use]
    #[inline]
    pub fn write(&self, from: &[u8]) -> usize {
        let len = self.len.min(from.len());
        // SAFETY: as in `read`.
        unsafe { copy(from.as_ptr(), self.start.as_ptr(), len) };
        len
    }
}

/// A [`Chunk`] of as many bytes as a `T` has, which the compiler knows.
#[derive(Clone, Copy, Debug)]
pub struct ChunkOf<'m, T> {
    start: NonNull<u8>,
    memory: PhantomData<&'m ()>,
    object: PhantomData<T>,
}

impl<'m, T> ChunkOf<'m, T> {
    /// The chunk that it was made of.
    #[must_use]
    #[inline]
    pub const fn chunk(&self) -> Chunk<'m> {
        Chunk { start: self.start, len: size_of::<T>(), memory: PhantomData }
    }
}

/// Copies `len` bytes with volatile accesses: whatever the guest does meanwhile, each byte is read and written once,
/// and the compiler assumes nothing about what it saw.
///
/// # Safety
/// `from` must be valid for reading `len` bytes, `to` for writing them, and they must not overlap.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // Nearly always: structures, frames and blocks are aligned on both sides. Half as many instructions as the other.
    let aligned = (from.addr() | to.addr()).is_multiple_of(align_of::<u64>());
    // SAFETY: the caller's promise; and what remains lies behind what has been copied.
    unsafe {
        let words = if aligned { copy_units::<u64>(from, to, len) } else { copy_units::<Word>(from, to, len) };
        let rest = len - words;
        let halves = if aligned { copy_units::<u32>(from.add(words), to.add(words), rest) } else { 0 };
        let done = words + halves;
        copy_units::<u8>(from.add(done), to.add(done), len - done);
    }
}

/// A word at any address. An array of bytes would be read byte by byte.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Word(u64);

/// Copies as many whole `T` as `len` bytes hold; returns how many bytes these are.
///
/// # Safety
/// As [`copy`]; both addresses must be aligned for `T`, every bit pattern of which must be valid.
#[inline]
unsafe fn copy_units<T: Copy>(from: *const u8, to: *mut u8, len: usize) -> usize {
    let units = len / size_of::<T>();
    for index in 0..units {
        // SAFETY: the unit lies inside of `len` bytes; the rest is the caller's promise.
        unsafe { to.cast::<T>().add(index).write_volatile(from.cast::<T>().add(index).read_volatile()) };
    }
    units * size_of::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn copies_every_length_at_every_alignment() {
        for offset in 0..9 {
            for len in 0..40 {
                let mut host: Vec<u8> = (0..64).collect();
                let start = NonNull::new(host.as_mut_ptr().wrapping_add(offset)).unwrap();
                // SAFETY: `offset + len < 64`, and `host` is not touched until the chunk is gone.
                let chunk = unsafe { Chunk::new(start, len) };
                let mut out = [0xff; 48];
                assert_eq!(chunk.read(&mut out), len);
                assert!((0..len).all(|i| usize::from(out[i]) == offset + i));
                assert!(out[len..].iter().all(|byte| *byte == 0xff));
                assert_eq!(chunk.write(&[0xee; 48]), len);
                let touched = host.iter().filter(|byte| **byte == 0xee).count();
                assert_eq!(touched, len);
            }
        }
    }
}
