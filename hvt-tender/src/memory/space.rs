//! Pointers from a guest: allegations, until they have passed through here.

use hvt_abi::{Gpa, GuestRange};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Access, Chunk, GuestMemory, Layout};

/// A guest's memory together with what the guest may do with it.
///
/// A guest can only name memory that it may itself access: a hypercall neither reads what is not mapped for the
/// guest nor writes what is read-only for it.
#[derive(Clone, Copy)]
pub struct GuestSpace<'m> {
    memory: &'m dyn GuestMemory,
    layout: &'m Layout,
}

impl<'m> GuestSpace<'m> {
    /// The space of a guest whose memory is laid out like this.
    #[must_use]
    pub fn new(memory: &'m dyn GuestMemory, layout: &'m Layout) -> Self {
        Self { memory, layout }
    }

    /// The buffer of `len` bytes at `at` that the guest alleges to have, once it is known that the guest may access
    /// all of it in this way.
    ///
    /// Segments that may only be executed can be named for reading: whether the guest itself could read them depends
    /// on the CPU.
    ///
    /// # Errors
    /// [`Violation`] when it may not, or the buffer wraps around or leaves memory.
    pub fn slice(&self, at: Gpa, len: u64, access: Access) -> Result<GuestSlice<'m>, Violation> {
        let violation = Violation { at, len, access };
        let range = GuestRange::new(at, len).ok_or(violation)?;
        if range.end().0 > self.memory.size() {
            return Err(violation);
        }
        let allowed = match access {
            Access::READ => self.layout.all(range, |region| region.access.intersects(Access::READ | Access::EXECUTE)),
            _ => self.layout.allows(range, access),
        };
        if !allowed {
            return Err(violation);
        }
        Ok(GuestSlice { memory: self.memory, range })
    }

    /// Copies in the structure that the guest alleges to have at `at`.
    ///
    /// # Errors
    /// [`Violation`] when the guest may not read all of it.
    pub fn read<T: FromBytes + IntoBytes>(&self, at: Gpa) -> Result<T, Violation> {
        let slice = self.slice(at, size_of::<T>() as u64, Access::READ)?;
        let mut object = T::new_zeroed();
        slice.read(object.as_mut_bytes());
        Ok(object)
    }

    /// Copies a value out to `at`.
    ///
    /// # Errors
    /// [`Violation`] when the guest may not write all of it.
    pub fn write<T: IntoBytes + Immutable>(&self, at: Gpa, value: &T) -> Result<(), Violation> {
        let slice = self.slice(at, size_of::<T>() as u64, Access::WRITE)?;
        slice.write(value.as_bytes());
        Ok(())
    }
}

/// A guest pointer that may not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where the guest pointed.
    pub at: Gpa,
    /// How many bytes it meant.
    pub len: u64,
    /// What would have been done to them.
    pub access: Access,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let verb = if self.access.contains(Access::WRITE) { "write" } else { "read" };
        write!(f, "{:#x} bytes at guest address {}, which the guest may not {verb}", self.len, self.at)
    }
}

impl core::error::Error for Violation {}

/// A buffer in guest memory that has been checked: the guest may access all of it, and all of it is backed.
#[derive(Clone, Copy)]
pub struct GuestSlice<'m> {
    memory: &'m dyn GuestMemory,
    range: GuestRange,
}

impl<'m> GuestSlice<'m> {
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
        let range = GuestRange::new(self.range.start(), len).unwrap_or(self.range);
        Self { memory: self.memory, range }
    }

    /// What follows its first `len` bytes: nothing where it is shorter.
    #[must_use]
    pub fn skip(&self, len: u64) -> Self {
        // The start cannot wrap: it lies inside this range, or at its end.
        let start = Gpa(self.range.start().0 + len.min(self.len()));
        let range = GuestRange::between(start, self.range.end()).unwrap_or(self.range);
        Self { memory: self.memory, range }
    }

    /// Copies as much as fits into `into`; returns how many bytes.
    pub fn read(&self, into: &mut [u8]) -> usize {
        let mut done = 0;
        for chunk in self.chunks() {
            done += chunk.read(&mut into[done..]);
        }
        done
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
