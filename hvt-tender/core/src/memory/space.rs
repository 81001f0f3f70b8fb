//! Pointers from a guest: allegations, until they have passed through here.

use alloc::vec::Vec;

use hvt_abi::{Gpa, GuestRange};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Chunk, ChunkOf, GuestMemory, MemoryMap, Permissions};

/// A guest's memory together with what the guest may do with it.
///
/// A guest can only name memory that it may itself access: a hypercall neither reads what is not mapped for the
/// guest nor writes what is read-only for it.
#[derive(Clone, Copy)]
pub struct GuestSpace<'m> {
    memory: &'m dyn GuestMemory,
    /// All of `memory`, where it is one piece for the host: nearly always, and to ask again costs a call.
    whole: Option<Chunk<'m>>,
    memory_map: &'m MemoryMap,
}

impl<'m> GuestSpace<'m> {
    /// The space of a guest whose memory is laid out like this.
    #[must_use]
    #[inline]
    pub fn new(memory: &'m dyn GuestMemory, memory_map: &'m MemoryMap) -> Self {
        Self { memory, whole: memory.whole(), memory_map }
    }

    /// The buffer of `len` bytes at `at` that the guest alleges to have, once it is known that the guest may access
    /// all of it in this way.
    ///
    /// Segments that may only be executed can be named for reading: whether the guest itself could read them depends
    /// on the CPU.
    ///
    /// # Errors
    /// [`Violation`] when it may not, or the buffer wraps around or leaves memory.
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

    /// Likewise, as a place for a structure.
    ///
    /// # Errors
    /// As [`slice`](Self::slice).
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

    /// The buffer there, if all of it is backed.
    #[inline]
    fn pieces(&self, range: GuestRange) -> Option<GuestSlice<'m>> {
        (range.end().0 <= self.memory.size()).then(|| GuestSlice::new(self.memory, range))
    }

    /// These bytes, if the guest may access them in this way.
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

    /// Copies in the structure that the guest alleges to have at `at`.
    ///
    /// # Errors
    /// [`Violation`] when the guest may not read all of it.
    pub fn read<T: FromBytes + IntoBytes>(&self, at: Gpa) -> Result<T, Violation> {
        Ok(self.place(at, Permissions::READ)?.load())
    }

    /// Copies a value out to `at`.
    ///
    /// # Errors
    /// [`Violation`] when the guest may not write all of it.
    pub fn write<T: FromBytes + IntoBytes + Immutable>(&self, at: Gpa, value: &T) -> Result<(), Violation> {
        self.place::<T>(at, Permissions::WRITE)?.store(0, value);
        Ok(())
    }
}

/// What backs `range`, of memory that is one piece for the host.
#[inline]
fn within<'m>(memory: Chunk<'m>, range: GuestRange) -> Option<Chunk<'m>> {
    memory.part(usize::try_from(range.start().0).ok()?, usize::try_from(range.len()).ok()?)
}

/// A guest pointer that may not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where the guest pointed.
    pub at: Gpa,
    /// How many bytes it meant.
    pub len: u64,
    /// What would have been done to them.
    pub access: Permissions,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let verb = if self.access.contains(Permissions::WRITE) { "write" } else { "read" };
        write!(f, "{:#x} bytes at guest address {}, which the guest may not {verb}", self.len, self.at)
    }
}

impl core::error::Error for Violation {}

/// A buffer in guest memory that has been checked: the guest may access all of it, and all of it is backed.
#[derive(Clone, Copy)]
pub struct GuestSlice<'m> {
    memory: &'m dyn GuestMemory,
    range: GuestRange,
    /// All of it, where it is one piece for the host.
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

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The host memory behind it, piece by piece, in order. Under an operating system it is one piece.
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

    /// The first `len` bytes of it, or all of it where it is shorter.
    #[must_use]
    pub fn prefix(&self, len: u64) -> Self {
        let len = len.min(self.len());
        // The end cannot wrap: it lies inside this range.
        self.part(GuestRange::new(self.range.start(), len).unwrap_or(self.range))
    }

    /// What follows its first `len` bytes: nothing where it is shorter.
    #[must_use]
    #[inline]
    pub fn skip(&self, len: u64) -> Self {
        // The start cannot wrap: it lies inside this range, or at its end.
        let start = Gpa(self.range.start().0 + len.min(self.len()));
        self.part(GuestRange::between(start, self.range.end()).unwrap_or(self.range))
    }

    /// What of it lies in `range`, which lies in its own.
    #[inline]
    fn part(&self, range: GuestRange) -> Self {
        // As long as the piece of host memory, so that they fit.
        let (offset, len) = ((range.start().0 - self.range.start().0) as usize, range.len() as usize);
        match self.whole.and_then(|whole| whole.part(offset, len)) {
            Some(part) => Self { range, whole: Some(part), ..*self },
            None => Self::new(self.memory, range),
        }
    }

    /// All of it, where it is one piece for the host.
    #[must_use]
    #[inline]
    pub fn whole(&self) -> Option<Chunk<'m>> {
        self.whole
    }

    /// Copies as much as fits into `into`; returns how many bytes.
    pub fn read(&self, into: &mut [u8]) -> usize {
        let mut done = 0;
        for chunk in self.chunks() {
            done += chunk.read(&mut into[done..]);
        }
        done
    }

    /// Appends a copy of its bytes to `bytes`. It cannot exhaust the host's addresses: the guest has the bytes in its memory.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + self.len() as usize, 0);
        self.read(&mut bytes[start..]);
    }

    /// A copy of its bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_to(&mut bytes);
        bytes
    }

    /// Copies as much of `from` as fits; returns how many bytes.
    pub fn write(&self, from: &[u8]) -> usize {
        let mut done = 0;
        for chunk in self.chunks() {
            done += chunk.write(&from[done..]);
        }
        done
    }
}

/// Where a structure `T` lies in guest memory that has been checked.
#[derive(Clone, Copy)]
pub enum GuestPtr<'m, T> {
    /// In one piece for the host.
    Whole(ChunkOf<'m, T>),
    /// In several.
    Pieces(GuestSlice<'m>),
}

impl<T: FromBytes + IntoBytes> GuestPtr<'_, T> {
    /// A copy of the structure.
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

    /// Copies a value to the bytes from `offset` on: as much of it as fits.
    #[inline]
    pub fn store<V: IntoBytes + Immutable>(&self, offset: usize, value: &V) {
        let from = value.as_bytes();
        match self {
            Self::Whole(whole) => _ = whole.chunk().skip(offset).write(from),
            Self::Pieces(slice) => _ = slice.skip(offset as u64).write(from),
        }
    }
}
