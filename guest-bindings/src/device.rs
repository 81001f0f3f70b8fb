//! Device lookup by name, device handles, and device errors.

use core::fmt;

use hvt_abi::hypercall::Status;
use hvt_abi::manifest::{Entry, Kind};

use crate::boot;

/// Index of a device in the manifest, 1 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub(crate) u8);

impl Handle {
    /// Returns the handle as the ABI represents it.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 as u64
    }
}

/// Errors of device operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The manifest contains no device with this name and type.
    NoSuchDevice,
    /// No frame is waiting.
    Again,
    /// The range lies outside the device or does not consist of whole blocks, or the frame is too
    /// long.
    Invalid,
    /// The device failed.
    Failed,
}

impl DeviceError {
    /// Converts the `ret` field of a hypercall to a result.
    pub(crate) const fn check(ret: i32) -> Result<(), Self> {
        match Status::from_i32(ret) {
            Status::Ok => Ok(()),
            Status::Again => Err(Self::Again),
            Status::Invalid => Err(Self::Invalid),
            Status::Unspecified => Err(Self::Failed),
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchDevice => "the manifest has no such device",
            Self::Again => "no frame is waiting",
            Self::Invalid => "bad offset, length or alignment",
            Self::Failed => "the device failed",
        })
    }
}

impl core::error::Error for DeviceError {}

/// A set of devices, the result of [`yield_until`](crate::yield_until).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandleSet(pub(crate) u64);

impl HandleSet {
    /// Returns `true` if the set contains no devices.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the number of devices in the set.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns the set as a bit mask: bit N is set if the set contains the device with handle N.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns `true` if the set contains `device`.
    #[must_use]
    pub const fn contains(self, device: Handle) -> bool {
        self.0 >> device.0 & 1 == 1
    }

    /// Returns an iterator over the devices in ascending order of their handles.
    pub fn iter(self) -> impl Iterator<Item = Handle> {
        (0..64).map(Handle).filter(move |&handle| self.contains(handle))
    }
}

/// Looks up a device in the manifest that the tender passed to the guest.
pub(crate) fn find(name: &str, kind: Kind) -> Result<(Handle, &'static Entry), DeviceError> {
    find_in(boot::manifest(), name, kind)
}

fn find_in<'a>(manifest: &'a [Entry], name: &str, kind: Kind) -> Result<(Handle, &'a Entry), DeviceError> {
    let matches = |entry: &Entry| entry.kind == kind as u32 && entry.attached != 0 && name_of(entry) == name.as_bytes();
    let index = manifest.iter().position(matches).ok_or(DeviceError::NoSuchDevice)?;
    Ok((Handle(index as u8), &manifest[index]))
}

/// Returns the name of an entry without the padding.
fn name_of(entry: &Entry) -> &[u8] {
    let end = entry.name.iter().position(|&byte| byte == 0).unwrap_or(entry.name.len());
    &entry.name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use hvt_abi::manifest::NAME_SIZE;

    fn entry(name: &str, kind: Kind) -> Entry {
        let mut bytes = [0; NAME_SIZE];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Entry { attached: 1, ..Entry::new(bytes, kind) }
    }

    #[test]
    fn devices_are_found_by_name_and_kind() {
        let detached = Entry { attached: 0, ..entry("gone", Kind::Net) };
        let manifest = [Entry::RESERVED_FIRST, entry("a", Kind::Block), entry("ab", Kind::Net), detached];
        assert_eq!(find_in(&manifest, "a", Kind::Block).unwrap().0, Handle(1));
        assert_eq!(find_in(&manifest, "ab", Kind::Net).unwrap().0, Handle(2));
        for (name, kind) in [("a", Kind::Net), ("abc", Kind::Net), ("", Kind::Block), ("gone", Kind::Net)] {
            assert_eq!(find_in(&manifest, name, kind).unwrap_err(), DeviceError::NoSuchDevice);
        }
    }

    #[test]
    fn sets_list_their_handles() {
        let set = HandleSet(1 << 63 | 1 << 2);
        assert!(set.iter().map(Handle::number).eq([2, 63]));
        assert_eq!(set.len(), 2);
        assert!(!set.contains(Handle(3)));
    }
}
