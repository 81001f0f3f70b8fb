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
    #[inline]
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
    #[inline]
    pub fn slice(&self, at: Gpa, len: u64, access: Access) -> Result<GuestSlice<'m>, Violation> {
        match GuestRange::new(at, len) {
            Some(range) if self.allows(range, access) => {
                let slice = GuestSlice::new(self.memory, range);
                // What is one piece of host memory lies in memory.
                if slice.whole.is_some() || range.end().0 <= self.memory.size() {
                    Ok(slice)
                } else {
                    Err(Violation { at, len, access })
                }
            }
            _ => Err(Violation { at, len, access }),
        }
    }

    #[inline]
    fn allows(&self, range: GuestRange, access: Access) -> bool {
        match access {
            Access::READ => self.layout.all(range, |region| region.access.intersects(Access::READ | Access::EXECUTE)),
            _ => self.layout.allows(range, access),
        }
    }

    /// Copies in the structure that the guest alleges to have at `at`.
    ///
    /// # Errors
    /// [`Violation`] when the guest may not read all of it.
    pub fn read<T: FromBytes + IntoBytes>(&self, at: Gpa) -> Result<T, Violation> {
        Ok(self.slice(at, size_of::<T>() as u64, Access::READ)?.place().load())
    }

    /// Copies a value out to `at`.
    ///
    /// # Errors
    /// [`Violation`] when the guest may not write all of it.
    pub fn write<T: IntoBytes + Immutable>(&self, at: Gpa, value: &T) -> Result<(), Violation> {
        self.slice(at, size_of::<T>() as u64, Access::WRITE)?.place().store(0, value);
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
    /// All of it, where it is one piece for the host and not empty: nearly always, and to ask again costs a call.
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
        let range = GuestRange::new(self.range.start(), len).unwrap_or(self.range);
        Self::new(self.memory, range)
    }

    /// What follows its first `len` bytes: nothing where it is shorter.
    #[must_use]
    #[inline]
    pub fn skip(&self, len: u64) -> Self {
        // The start cannot wrap: it lies inside this range, or at its end.
        let start = Gpa(self.range.start().0 + len.min(self.len()));
        let range = GuestRange::between(start, self.range.end()).unwrap_or(self.range);
        Self::new(self.memory, range)
    }

    /// As a place for structures.
    #[must_use]
    #[inline]
    pub fn place(&self) -> Place<'m> {
        Place { slice: *self }
    }

    /// All of it, where it is one piece for the host and not empty.
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

    /// Copies as much of `from` as fits; returns how many bytes.
    pub fn write(&self, from: &[u8]) -> usize {
        let mut done = 0;
        for chunk in self.chunks() {
            done += chunk.write(&from[done..]);
        }
        done
    }
}

/// Where a structure lies in guest memory that has been checked. Where it is one piece for the host, the compiler knows
/// how many bytes are copied.
#[derive(Clone, Copy)]
pub struct Place<'m> {
    slice: GuestSlice<'m>,
}

impl Place<'_> {
    /// A copy of the structure. Where the place is shorter, the rest of the copy is zeros.
    #[must_use]
    #[inline]
    pub fn load<T: FromBytes + IntoBytes>(&self) -> T {
        let mut object = T::new_zeroed();
        let into = object.as_mut_bytes();
        match self.slice.whole {
            Some(chunk) if chunk.len() == into.len() => _ = chunk.read(into),
            _ => self.load_piecewise(into),
        }
        object
    }

    /// Copies a value to the bytes from `offset` on: as much of it as fits.
    #[inline]
    pub fn store<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) {
        let from = value.as_bytes();
        match self.slice.whole.map(|chunk| chunk.skip(offset)) {
            Some(chunk) if chunk.len() >= from.len() => _ = chunk.write(from),
            _ => self.store_piecewise(offset, from),
        }
    }

    // Apart, so that the usual way does not save the registers that these need.
    #[cold]
    #[inline(never)]
    fn load_piecewise(&self, into: &mut [u8]) {
        self.slice.read(into);
    }

    #[cold]
    #[inline(never)]
    fn store_piecewise(&self, offset: usize, from: &[u8]) {
        self.slice.skip(offset as u64).write(from);
    }
}
