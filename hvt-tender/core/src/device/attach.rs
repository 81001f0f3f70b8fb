//! Matching of the devices in a manifest with the devices that the user attaches.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem;

use hvt_abi::manifest::{BlockProperties, Entry, Header, Kind, NAME_SIZE, NetProperties, VERSION};
use zerocopy::IntoBytes;

use super::{Block, Net, Slot};
use crate::image::{Device, DeviceKind, Manifest};

/// All devices of a manifest, attached.
pub struct Attached {
    /// Devices by handle, for [`Devices`](super::Devices).
    pub slots: Vec<Slot>,
    /// The guest's copy of its manifest, with the properties of each device.
    pub manifest: Vec<u8>,
}

/// Matches each device of `manifest` with the attachment of the same name.
///
/// # Errors
/// Returns [`AttachError`], which names the device, unless devices and attachments match one to
/// one.
pub fn attach(
    manifest: &Manifest,
    attachments: impl IntoIterator<Item = (String, Slot)>,
) -> Result<Attached, AttachError> {
    let mut attachments: Vec<_> = attachments.into_iter().collect();
    check(manifest, attachments.iter().map(|(name, slot)| (name.as_str(), kind(slot))))?;
    let devices = manifest.devices();
    let header = Header { version: VERSION, entries: devices.len() as u32 + 1 };
    let mut bytes = [header.as_bytes(), Entry::RESERVED_FIRST.as_bytes()].concat();
    let mut slots = Vec::from([Slot::Reserved]);
    for Device { name, kind } in devices {
        let Some(index) = attachments.iter().position(|(attached, _)| attached == name) else {
            return Err(AttachError::NotAttached { name: name.clone(), kind: *kind });
        };
        let (_, slot) = attachments.swap_remove(index);
        bytes.extend_from_slice(entry(name, &slot)?.as_bytes());
        slots.push(slot);
    }
    Ok(Attached { slots, manifest: bytes })
}

/// Checks that attachments with these names and kinds match `manifest`. [`attach`] performs the
/// same check first; this function allows it before any device is opened. The kind is `None` for
/// [`Slot::Reserved`].
///
/// # Errors
/// Returns [`AttachError`], which names the device, unless devices and attachments match one to
/// one.
pub fn check<'n>(
    manifest: &Manifest,
    attachments: impl IntoIterator<Item = (&'n str, Option<DeviceKind>)>,
) -> Result<(), AttachError> {
    let devices = manifest.devices();
    let mut given: Vec<bool> = devices.iter().map(|_| false).collect();
    for (name, attached) in attachments {
        let found = devices.iter().zip(&mut given).find(|(device, _)| device.name == name);
        let Some((device, given)) = found else {
            return Err(AttachError::NotDeclared { declared: list(devices), name: name.into() });
        };
        if attached != Some(device.kind) {
            return Err(AttachError::WrongKind { declared: device.kind, attached, name: name.into() });
        }
        if mem::replace(given, true) {
            return Err(AttachError::Twice { name: name.into() });
        }
    }
    match devices.iter().zip(given).find(|(_, given)| !given) {
        Some((Device { name, kind }, _)) => Err(AttachError::NotAttached { name: name.clone(), kind: *kind }),
        None => Ok(()),
    }
}

/// Manifest entry of an attached device.
fn entry(name: &str, slot: &Slot) -> Result<Entry, AttachError> {
    let mut padded = [0; NAME_SIZE];
    padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    let mut entry = match slot {
        Slot::Reserved => return Ok(Entry::RESERVED_FIRST),
        Slot::Block(device) => block_entry(name, padded, device.as_ref())?,
        Slot::Net(device) => net_entry(padded, device.as_ref()),
    };
    entry.attached = 1;
    Ok(entry)
}

fn block_entry(name: &str, padded: [u8; NAME_SIZE], device: &dyn Block) -> Result<Entry, AttachError> {
    let (capacity, block_size) = (device.capacity(), device.block_size());
    let size_valid = block_size.is_power_of_two() && block_size >= BLOCK_SIZE_MIN;
    if !size_valid || capacity == 0 || !capacity.is_multiple_of(u64::from(block_size)) {
        return Err(AttachError::Geometry { name: name.into(), capacity, block_size });
    }
    let properties = BlockProperties { capacity, block_size, reserved: [0; 6] };
    let mut entry = Entry::new(padded, Kind::Block);
    entry.properties.copy_from_slice(properties.as_bytes());
    Ok(entry)
}

fn net_entry(padded: [u8; NAME_SIZE], device: &dyn Net) -> Entry {
    let properties = NetProperties { mac: device.mac(), mtu: device.mtu() };
    let mut entry = Entry::new(padded, Kind::Net);
    entry.properties[..size_of::<NetProperties>()].copy_from_slice(properties.as_bytes());
    entry
}

/// Smallest block size in bytes that Solo5 allows.
const BLOCK_SIZE_MIN: u16 = 512;

fn kind(slot: &Slot) -> Option<DeviceKind> {
    match slot {
        Slot::Reserved => None,
        Slot::Block(_) => Some(DeviceKind::Block),
        Slot::Net(_) => Some(DeviceKind::Net),
    }
}

fn list(devices: &[Device]) -> String {
    let names: Vec<_> = devices.iter().map(|device| format!("{} ({})", device.name, device.kind)).collect();
    if names.is_empty() { "no devices".into() } else { names.join(", ") }
}

/// Mismatch between manifest and attachments. The message is one line that names the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The manifest has no device with this name.
    #[error("device '{name}' not declared in manifest; the unikernel declares {declared}")]
    NotDeclared {
        /// Name of the attachment.
        name: String,
        /// Devices that the manifest declares, for people to read.
        declared: String,
    },
    /// A device of the manifest was not attached.
    #[error("{kind} device '{name}' declared but not attached; attach one by that name")]
    NotAttached {
        /// Name of the device.
        name: String,
        /// Kind of the device.
        kind: DeviceKind,
    },
    /// The attached device is of another kind than the manifest declares.
    #[error("{}device '{name}' not declared in manifest: '{name}' is a {declared} device there", of(*attached))]
    WrongKind {
        /// Name of the device.
        name: String,
        /// Kind that the manifest declares.
        declared: DeviceKind,
        /// Kind of the attached device, `None` for [`Slot::Reserved`].
        attached: Option<DeviceKind>,
    },
    /// Two attachments for one device.
    #[error("device '{name}' attached twice; attach it once")]
    Twice {
        /// Name of the device.
        name: String,
    },
    /// The size of a block device is not a multiple of its block size, or its block size is
    /// invalid.
    #[error(
        "block device '{name}' has {capacity} bytes in blocks of {block_size}; its size must be a non-zero multiple \
         of its block size, and the block size a power of two of at least 512"
    )]
    Geometry {
        /// Name of the device.
        name: String,
        /// Size of the device in bytes.
        capacity: u64,
        /// Block size of the device in bytes.
        block_size: u16,
    },
}

fn of(attached: Option<DeviceKind>) -> String {
    attached.map_or_else(String::new, |kind| format!("{kind} "))
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, MAC, MTU};
    use super::*;
    use crate::image::Image;
    use crate::image::fixture::Elf;
    use alloc::string::ToString;
    use zerocopy::FromBytes;

    fn attach_to(
        devices: &[(&str, Kind)],
        attachments: impl IntoIterator<Item = (&'static str, Slot)>,
    ) -> Result<Attached, AttachError> {
        let file = Elf::unikernel(devices).build();
        let image = Image::parse(&file).unwrap();
        attach(image.manifest(), attachments.into_iter().map(|(name, slot)| (name.into(), slot)))
    }

    const BOTH: [(&str, Kind); 2] = [("disk", Kind::Block), ("net0", Kind::Net)];

    fn error(attachments: impl IntoIterator<Item = (&'static str, Slot)>) -> (AttachError, String) {
        let Err(error) = attach_to(&BOTH, attachments) else { panic!("attached") };
        let message = error.to_string();
        assert!(!message.contains('\n'));
        (error, message)
    }

    #[test]
    fn attachments_in_any_order_fill_the_manifest() {
        let fake = Fake::new();
        let attached = attach_to(&BOTH, [("net0", fake.net()), ("disk", fake.block())]).unwrap();
        assert!(matches!(attached.slots[..], [Slot::Reserved, Slot::Block(_), Slot::Net(_)]));
        let (header, entries) = Header::read_from_prefix(&attached.manifest).unwrap();
        assert_eq!(header, Header { version: 1, entries: 3 });
        let entries: Vec<_> = entries.chunks(104).map(|entry| Entry::read_from_bytes(entry).unwrap()).collect();
        assert_eq!(entries[0], Entry::RESERVED_FIRST);
        let mut name = [0; NAME_SIZE];
        name[..4].copy_from_slice(b"disk");
        let mut properties = [0; 16];
        properties[..10].copy_from_slice(&[0, 16, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(entries[1], Entry { properties, attached: 1, ..Entry::new(name, Kind::Block) });
        name[..4].copy_from_slice(b"net0");
        let mut properties = [0; 16];
        properties[..6].copy_from_slice(&MAC);
        properties[6..8].copy_from_slice(&MTU.to_le_bytes());
        assert_eq!(entries[2], Entry { properties, attached: 1, ..Entry::new(name, Kind::Net) });
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn no_devices_at_all() {
        let attached = attach_to(&[], []).unwrap();
        assert_eq!((attached.slots.len(), attached.manifest.len()), (1, 8 + 104));
        let Err(error) = attach_to(&[], [("disk", Fake::new().block())]) else { panic!("attached") };
        assert_eq!(error.to_string(), "device 'disk' not declared in manifest; the unikernel declares no devices");
    }

    #[test]
    fn mismatches_are_named() {
        let fake = Fake::new();
        let (_, message) = error([("disk", fake.block()), ("net0", fake.net()), ("x", fake.net())]);
        assert_eq!(message, "device 'x' not declared in manifest; the unikernel declares disk (block), net0 (net)");
        let (missing, message) = error([("disk", fake.block())]);
        assert_eq!(missing, AttachError::NotAttached { name: "net0".into(), kind: DeviceKind::Net });
        assert_eq!(message, "net device 'net0' declared but not attached; attach one by that name");
        let (_, message) = error([("disk", fake.net())]);
        assert_eq!(message, "net device 'disk' not declared in manifest: 'disk' is a block device there");
        let (_, message) = error([("disk", Slot::Reserved)]);
        assert_eq!(message, "device 'disk' not declared in manifest: 'disk' is a block device there");
        let (twice, _) = error([("disk", fake.block()), ("disk", fake.block())]);
        assert_eq!(twice, AttachError::Twice { name: "disk".into() });
    }

    #[test]
    fn disks_must_be_made_of_blocks() {
        for (capacity, block_size) in [(0, 512), (511, 512), (513, 512), (4096, 0), (4096, 256), (4096, 768)] {
            let fake = Fake::new();
            fake.0.borrow_mut().disk.resize(capacity, 0);
            fake.0.borrow_mut().block_size = block_size;
            let (geometry, _) = error([("disk", fake.block()), ("net0", fake.net())]);
            let capacity = capacity as u64;
            assert_eq!(geometry, AttachError::Geometry { name: "disk".into(), capacity, block_size });
        }
    }
}
