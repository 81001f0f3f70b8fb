//! Piece of host memory that a guest may change at any time.

#![expect(unsafe_code, reason = "guest memory is raw memory, which the guest changes at any time")]

use core::marker::PhantomData;
use core::ptr::NonNull;

use hvt_abi::GuestRange;

/// Contiguous host memory that backs guest memory.
///
/// Bytes can be copied from and to a chunk, and its address can be passed to a system call. No Rust
/// reference to a chunk ever exists, because the guest writes to it concurrently.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'m> {
    start: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'m ()>,
}

impl<'m> Chunk<'m> {
    /// Creates a chunk of the `len` bytes at `start`.
    ///
    /// # Safety
    /// The bytes must be mapped, readable and writable for all of `'m`, and no Rust reference to
    /// any of them may exist during that time. Other agents may read and write them.
    #[must_use]
    pub const unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, memory: PhantomData }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns true if the length is 0.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Host address of the first byte, for system calls that fill or drain a buffer.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Returns the bytes after the first `len`: an empty chunk if the chunk is shorter.
    #[must_use]
    #[inline]
    pub fn skip(&self, len: usize) -> Self {
        let len = len.min(self.len);
        // SAFETY: the address lies in the chunk or at its end.
        Self { start: unsafe { self.start.add(len) }, len: self.len - len, memory: PhantomData }
    }

    /// Returns the `len` bytes from `offset` on, or `None` if they do not all lie in the chunk.
    #[must_use]
    #[inline]
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        if self.len.checked_sub(offset)? < len {
            return None;
        }
        // SAFETY: the address lies in the chunk or at its end.
        Some(Self { start: unsafe { self.start.add(offset) }, len, memory: PhantomData })
    }

    /// Returns the start of the memory that backs `range`, if this chunk is all of a guest's
    /// memory. See [`GuestMemory::chunk`].
    ///
    /// [`GuestMemory::chunk`]: super::GuestMemory::chunk
    #[must_use]
    #[inline]
    pub fn backing(&self, range: GuestRange) -> Option<Self> {
        let offset = usize::try_from(range.start().0).ok()?;
        let len = self.len.checked_sub(offset)?.min(usize::try_from(range.len()).ok()?);
        if len == 0 { None } else { self.part(offset, len) }
    }

    /// Converts to a chunk of one `T`, if the length matches.
    #[must_use]
    #[inline]
    pub fn exactly<T>(&self) -> Option<ChunkOf<'m, T>> {
        (self.len == size_of::<T>()).then_some(ChunkOf { start: self.start, memory: PhantomData, object: PhantomData })
    }

    /// Copies as many bytes as fit into `into` and returns their number.
    #[must_use]
    #[inline]
    pub fn read(&self, into: &mut [u8]) -> usize {
        let len = self.len.min(into.len());
        // SAFETY: `len` bytes are valid in the chunk by the contract of `new`, and in `into`
        // because it is a slice. A slice cannot overlap guest memory, because no reference to guest
        // memory exists.
        unsafe { copy(self.start.as_ptr(), into.as_mut_ptr(), len) };
        len
    }

    /// Copies as many bytes of `from` as fit and returns their number.
    #[must_use]
    #[inline]
    pub fn write(&self, from: &[u8]) -> usize {
        let len = self.len.min(from.len());
        // SAFETY: as in `read`.
        unsafe { copy(from.as_ptr(), self.start.as_ptr(), len) };
        len
    }
}

/// [`Chunk`] with the length of a `T`, known at compile time.
#[derive(Clone, Copy, Debug)]
pub struct ChunkOf<'m, T> {
    start: NonNull<u8>,
    memory: PhantomData<&'m ()>,
    object: PhantomData<T>,
}

impl<'m, T> ChunkOf<'m, T> {
    /// Returns the chunk that this one was made from.
    #[must_use]
    #[inline]
    pub const fn chunk(&self) -> Chunk<'m> {
        Chunk { start: self.start, len: size_of::<T>(), memory: PhantomData }
    }
}

/// Copies `len` bytes with volatile accesses. Even if the guest writes concurrently, each byte is
/// read and written exactly once, and the compiler assumes nothing about its value.
///
/// # Safety
/// `from` must be valid for reading `len` bytes, `to` for writing them, and they must not overlap.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // The common case: structures, frames and blocks are aligned on both sides. It takes half as
    // many instructions as the unaligned case.
    let aligned = (from.addr() | to.addr()).is_multiple_of(align_of::<u64>());
    // SAFETY: by the contract of this function; the remaining bytes follow the copied ones.
    unsafe {
        let words = if aligned { copy_units::<u64>(from, to, len) } else { copy_units::<Word>(from, to, len) };
        let rest = len - words;
        let halves = if aligned { copy_units::<u32>(from.add(words), to.add(words), rest) } else { 0 };
        let done = words + halves;
        copy_units::<u8>(from.add(done), to.add(done), len - done);
    }
}

/// Word at any alignment. An array of bytes would be read byte by byte.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Word(u64);

/// Copies as many whole `T` as `len` bytes hold and returns their size in bytes.
///
/// # Safety
/// As for [`copy`]. In addition, both addresses must be aligned for `T`, and every bit pattern must
/// be a valid `T`.
#[inline]
unsafe fn copy_units<T: Copy>(from: *const u8, to: *mut u8, len: usize) -> usize {
    let units = len / size_of::<T>();
    for index in 0..units {
        // SAFETY: the unit lies inside `len` bytes; the rest is the contract of this function.
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
                // SAFETY: `offset + len < 64`, and `host` is not accessed during the life of the
                // chunk.
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
