//! Types for guest addresses and ranges of guest addresses.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A guest-physical address.
///
/// An HVT guest runs with an identity mapping, so a guest-virtual address, which the guest calls a
/// pointer, equals the guest-physical address. A `Gpa` is never a host address. Only guest memory
/// translates one into the other, and it checks the address.
///
/// In a structure written by a guest, a `Gpa` is an *allegation*: it may hold any 64-bit value.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Gpa(pub u64);

impl Gpa {
    /// Returns the address plus `bytes`, or `None` if the sum overflows.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }

    /// Returns `true` if the address is a multiple of `alignment`, which must be a power of two.
    #[must_use]
    pub const fn is_aligned(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }

    /// Returns the address rounded down to a multiple of `alignment`, which must be a power of two.
    #[must_use]
    pub const fn align_down(self, alignment: u64) -> Self {
        Self(self.0 & !(alignment - 1))
    }

    /// Returns the address rounded up to a multiple of `alignment`, which must be a power of two,
    /// or `None` if the result overflows.
    #[must_use]
    pub const fn checked_align_up(self, alignment: u64) -> Option<Self> {
        match self.0.checked_add(alignment - 1) {
            Some(address) => Some(Self(address).align_down(alignment)),
            None => None,
        }
    }
}

impl fmt::Debug for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpa({:#x})", self.0)
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::LowerHex for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// A half-open range of guest addresses, `start..end`. It never wraps around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestRange {
    start: Gpa,
    end: Gpa,
}

impl GuestRange {
    /// Returns the range of `len` bytes at `start`, or `None` if the range would wrap around.
    #[must_use]
    pub const fn new(start: Gpa, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Returns the range `start..end`, or `None` if `end` is below `start`.
    #[must_use]
    pub const fn between(start: Gpa, end: Gpa) -> Option<Self> {
        if start.0 <= end.0 { Some(Self { start, end }) } else { None }
    }

    /// Returns the first address of the range.
    #[must_use]
    pub const fn start(&self) -> Gpa {
        self.start
    }

    /// Returns the first address after the range.
    #[must_use]
    pub const fn end(&self) -> Gpa {
        self.end
    }

    /// Returns the length of the range in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Returns `true` if the range contains no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start.0 == self.end.0
    }

    /// Returns `true` if the range contains `address`.
    #[must_use]
    pub const fn contains(&self, address: Gpa) -> bool {
        self.start.0 <= address.0 && address.0 < self.end.0
    }

    /// Returns `true` if the range contains every byte of `other`.
    #[must_use]
    pub const fn covers(&self, other: &Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// Returns `true` if the two ranges have a byte in common.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }
}

impl fmt::Display for GuestRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_never_wrap() {
        assert_eq!(Gpa(u64::MAX).checked_add(1), None);
        assert_eq!(Gpa(u64::MAX).checked_align_up(0x1000), None);
        assert_eq!(Gpa(0x1001).checked_align_up(0x1000), Some(Gpa(0x2000)));
        assert_eq!(GuestRange::new(Gpa(u64::MAX), 2), None);
        assert_eq!(GuestRange::between(Gpa(2), Gpa(1)), None);
    }

    #[test]
    fn ranges_are_half_open() {
        let range = GuestRange::new(Gpa(0x1000), 0x1000).unwrap();
        assert!(range.contains(Gpa(0x1fff)) && !range.contains(Gpa(0x2000)));
        let next = GuestRange::new(Gpa(0x2000), 1).unwrap();
        assert!(!range.overlaps(&next));
        assert!(range.covers(&GuestRange::new(Gpa(0x2000), 0).unwrap()));
    }
}
