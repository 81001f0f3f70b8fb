//! Checks of guest pointers, which are allegations until they have passed these checks.

use alloc::vec::Vec;

use hvt_abi::{Gpa, GuestRange};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Chunk, ChunkOf, GuestMemory, MemoryMap, Permissions};

/// Memory of a guest with the guest's permissions.
///
/// A guest can only name memory that it may access itself: a hypercall neither reads memory that is
/// not mapped for the guest nor writes memory that is read-only for the guest.
#[derive(Clone, Copy)]
pub struct GuestSpace<'m> {
    memory: &'m dyn GuestMemory,
    /// All of `memory`, if it is one piece of host memory, as it nearly always is. Cached, because
    /// each query costs a call.
    whole: Option<Chunk<'m>>,
    memory_map: &'m MemoryMap,
}

impl<'m> GuestSpace<'m> {
    /// Combines `memory` with the guest's permissions.
    #[must_use]
    #[inline]
    pub fn new(memory: &'m dyn GuestMemory, memory_map: &'m MemoryMap) -> Self {
        Self { memory, whole: memory.whole(), memory_map }
    }

    /// Checks the alleged buffer of `len` bytes at `at`: the guest must have the permissions
    /// `access` on all of it.
    ///
    /// Execute-only segments count as readable: whether the guest itself can read them depends on
    /// the CPU.
    ///
    /// # Errors
    /// Returns [`Violation`] if the guest lacks a permission, or if the buffer wraps around or
    /// exceeds memory.
    #[inline]
    pub fn slice(&self, at: Gpa, len: u64, access: Permissions) -> Result<GuestSlice<'m>, Violation> {
        let slice = match (self.allowed(at, len, access), self.whole) {
            (Some(range), Some(whole)) => {
                within(whole, range).map(|part| GuestSlice { memory: self.memory, range, whole: Some(part) })
            }
            (Some(range), None) => self.pieces(range),
            (None, _) => None,
        };
        slice.ok_or(Violation { at, len, access })
    }

    /// Checks the alleged structure `T` at `at` like [`slice`](Self::slice).
    ///
    /// # Errors
    /// Returns [`Violation`] in the same cases as [`slice`](Self::slice).
    #[inline]
    pub fn place<T>(&self, at: Gpa, access: Permissions) -> Result<GuestPtr<'m, T>, Violation> {
        let len = size_of::<T>() as u64;
        let place = match (self.allowed(at, len, access), self.whole) {
            (Some(range), Some(whole)) => within(whole, range).and_then(|part| part.exactly()).map(GuestPtr::Whole),
            (Some(range), None) => self.pieces(range).map(|slice| {
                let one = slice.whole.and_then(|whole| whole.exactly());
                one.map_or(GuestPtr::Pieces(slice), GuestPtr::Whole)
            }),
            (None, _) => None,
        };
        place.ok_or(Violation { at, len, access })
    }

    /// Returns the buffer at `range`, if all of it is backed.
    #[inline]
    fn pieces(&self, range: GuestRange) -> Option<GuestSlice<'m>> {
        (range.end().0 <= self.memory.size()).then(|| GuestSlice::new(self.memory, range))
    }

    /// Returns the range of these bytes, if the guest has the permissions `access` on them.
    #[inline]
    fn allowed(&self, at: Gpa, len: u64, access: Permissions) -> Option<GuestRange> {
        let range = GuestRange::new(at, len)?;
        let allowed = match access {
            Permissions::READ => {
                self.memory_map.all(range, |region| region.access.intersects(Permissions::READ | Permissions::EXECUTE))
            }
            _ => self.memory_map.allows(range, access),
        };
        allowed.then_some(range)
    }

    /// Copies in the structure that the guest alleges to lie at `at`.
    ///
    /// # Errors
    /// Returns [`Violation`] if the guest may not read all of it.
    pub fn read<T: FromBytes + IntoBytes>(&self, at: Gpa) -> Result<T, Violation> {
        Ok(self.place(at, Permissions::READ)?.load())
    }

    /// Copies a value out to `at`.
    ///
    /// # Errors
    /// Returns [`Violation`] if the guest may not write all of it.
    pub fn write<T: FromBytes + IntoBytes + Immutable>(&self, at: Gpa, value: &T) -> Result<(), Violation> {
        self.place::<T>(at, Permissions::WRITE)?.store(0, value);
        Ok(())
    }
}

/// Returns the host memory behind `range`, given guest memory that is one piece of host memory.
#[inline]
fn within<'m>(memory: Chunk<'m>, range: GuestRange) -> Option<Chunk<'m>> {
    memory.part(usize::try_from(range.start().0).ok()?, usize::try_from(range.len()).ok()?)
}

/// Rejected guest pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Guest address of the pointer.
    pub at: Gpa,
    /// Length of the access in bytes.
    pub len: u64,
    /// Kind of access.
    pub access: Permissions,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let verb = if self.access.contains(Permissions::WRITE) { "write" } else { "read" };
        write!(f, "{:#x} bytes at guest address {}, which the guest may not {verb}", self.len, self.at)
    }
}

impl core::error::Error for Violation {}

/// Checked buffer in guest memory: the guest may access all of it, and all of it is backed.
#[derive(Clone, Copy)]
pub struct GuestSlice<'m> {
    memory: &'m dyn GuestMemory,
    range: GuestRange,
    /// All of the buffer, if it is one piece of host memory.
    whole: Option<Chunk<'m>>,
}

impl<'m> GuestSlice<'m> {
    #[inline]
    fn new(memory: &'m dyn GuestMemory, range: GuestRange) -> Self {
        let whole = memory.chunk(range).filter(|chunk| chunk.len() as u64 == range.len());
        Self { memory, range, whole }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.range.len()
    }

    /// Returns true if the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Host memory behind the buffer, piece by piece in order. Under an operating system there is
    /// one piece.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk<'m>> + use<'m> {
        let memory = self.memory;
        let mut left = self.range;
        core::iter::from_fn(move || {
            if left.is_empty() {
                return None;
            }
            let chunk = memory.chunk(left)?;
            let start = left.start().checked_add(chunk.len() as u64)?;
            left = GuestRange::between(start, left.end())?;
            Some(chunk)
        })
    }

    /// Returns the first `len` bytes, or the whole buffer if it is shorter.
    #[must_use]
    pub fn prefix(&self, len: u64) -> Self {
        let len = len.min(self.len());
        // The end cannot wrap: it lies inside this range.
        self.part(GuestRange::new(self.range.start(), len).unwrap_or(self.range))
    }

    /// Returns the bytes after the first `len`: an empty buffer if the buffer is shorter.
    #[must_use]
    #[inline]
    pub fn skip(&self, len: u64) -> Self {
        // The start cannot wrap: it lies inside this range or at its end.
        let start = Gpa(self.range.start().0 + len.min(self.len()));
        self.part(GuestRange::between(start, self.range.end()).unwrap_or(self.range))
    }

    /// Returns the part that covers `range`, which must lie inside this buffer.
    #[inline]
    fn part(&self, range: GuestRange) -> Self {
        // Both fit into `usize`: they are no larger than the piece of host memory.
        let (offset, len) = ((range.start().0 - self.range.start().0) as usize, range.len() as usize);
        match self.whole.and_then(|whole| whole.part(offset, len)) {
            Some(part) => Self { range, whole: Some(part), ..*self },
            None => Self::new(self.memory, range),
        }
    }

    /// Returns all of the buffer, if it is one piece of host memory.
    #[must_use]
    #[inline]
    pub fn whole(&self) -> Option<Chunk<'m>> {
        self.whole
    }

    /// Copies as many bytes as fit into `into` and returns their number.
    pub fn read(&self, into: &mut [u8]) -> usize {
        let mut done = 0;
        for chunk in self.chunks() {
            done += chunk.read(&mut into[done..]);
        }
        done
    }

    /// Appends a copy of the bytes to `bytes`. The copy cannot exhaust the host's address space,
    /// because the guest has the bytes in its memory.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + self.len() as usize, 0);
        self.read(&mut bytes[start..]);
    }

    /// Returns a copy of the bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_to(&mut bytes);
        bytes
    }

    /// Copies as many bytes of `from` as fit and returns their number.
    pub fn write(&self, from: &[u8]) -> usize {
        let mut done = 0;
        for chunk in self.chunks() {
            done += chunk.write(&from[done..]);
        }
        done
    }
}

/// Checked location of a structure `T` in guest memory.
#[derive(Clone, Copy)]
pub enum GuestPtr<'m, T> {
    /// One piece of host memory.
    Whole(ChunkOf<'m, T>),
    /// Several pieces of host memory.
    Pieces(GuestSlice<'m>),
}

impl<T: FromBytes + IntoBytes> GuestPtr<'_, T> {
    /// Returns a copy of the structure.
    #[must_use]
    #[inline]
    pub fn load(&self) -> T {
        let mut object = T::new_zeroed();
        let into = object.as_mut_bytes();
        match self {
            Self::Whole(whole) => _ = whole.chunk().read(into),
            Self::Pieces(slice) => _ = slice.read(into),
        }
        object
    }

    /// Copies a value to the bytes from `offset` on, as far as it fits.
    #[inline]
    pub fn store<V: IntoBytes + Immutable>(&self, offset: usize, value: &V) {
        let from = value.as_bytes();
        match self {
            Self::Whole(whole) => _ = whole.chunk().skip(offset).write(from),
            Self::Pieces(slice) => _ = slice.skip(offset as u64).write(from),
        }
    }
}
