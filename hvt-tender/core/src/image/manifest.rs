//! Devices declared by a unikernel.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use hvt_abi::manifest::{Entry, Header, Kind, MAX_ENTRIES, NAME_MAX, NAME_SIZE, VERSION};
use zerocopy::FromBytes;

use super::error::ManifestError;

/// Devices declared by a unikernel, in the order of their handles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    devices: Vec<Device>,
}

/// Device declared by a unikernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Unique name: 1 to 67 letters and digits.
    pub name: String,
    /// Kind of the device.
    pub kind: DeviceKind,
}

/// Kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Block device.
    Block,
    /// Network device.
    Net,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Net => "net",
        })
    }
}

impl Manifest {
    /// Returns the devices. The first one has handle 1, because entry 0 of a manifest is reserved.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Parses the contents of the manifest note.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let size = |entries, expected: usize| ManifestError::Size {
            entries,
            expected: expected as u64,
            found: bytes.len() as u64,
        };
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| size(0, size_of::<Header>()))?;
        if header.version != VERSION {
            return Err(ManifestError::Version(header.version));
        }
        let count = header.entries as usize;
        if !(1..=MAX_ENTRIES).contains(&count) {
            return Err(ManifestError::Entries(header.entries));
        }
        let expected = count * size_of::<Entry>();
        if rest.len() != expected {
            return Err(size(header.entries, size_of::<Header>() + expected));
        }
        let mut manifest = Self::default();
        for (index, bytes) in rest.chunks_exact(size_of::<Entry>()).enumerate() {
            // Cannot fail: the chunk has the length of an entry, and every bit pattern is a valid
            // entry.
            let Ok(entry) = Entry::read_from_bytes(bytes) else { continue };
            manifest.push(index, &entry)?;
        }
        Ok(manifest)
    }

    fn push(&mut self, index: usize, entry: &Entry) -> Result<(), ManifestError> {
        if entry.attached != 0 {
            return Err(ManifestError::Attached(index));
        }
        let kind = Kind::from_u32(entry.kind);
        if index == 0 {
            let reserved = kind == Some(Kind::ReservedFirst) && entry.name[0] == 0;
            return if reserved { Ok(()) } else { Err(ManifestError::FirstEntry) };
        }
        let kind = match kind {
            Some(Kind::Block) => DeviceKind::Block,
            Some(Kind::Net) => DeviceKind::Net,
            _ => return Err(ManifestError::Kind { index, kind: entry.kind }),
        };
        let name = name(&entry.name).ok_or(ManifestError::Name(index))?;
        if self.devices.iter().any(|device| device.name == name) {
            return Err(ManifestError::DuplicateName(name.into()));
        }
        self.devices.push(Device { name: name.into(), kind });
        Ok(())
    }
}

/// Returns the name up to its NUL, if it is NUL-terminated and valid.
fn name(bytes: &[u8; NAME_SIZE]) -> Option<&str> {
    let name = bytes.split(|byte| *byte == 0).next().filter(|name| name.len() < NAME_SIZE)?;
    if is_device_name(name) { core::str::from_utf8(name).ok() } else { None }
}

/// Returns true if `bytes` is a valid device name: 1 to 67 letters and digits.
#[must_use]
pub fn is_device_name(bytes: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_alphanumeric)
}
