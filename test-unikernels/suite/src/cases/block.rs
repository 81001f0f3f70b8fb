//! Block devices.

use crate::{Case, Contents, Device, DeviceKind, Disk};

/// Contents of the device before the guest `block` runs.
pub const BEFORE: Contents = Contents::Pattern(1);
/// Contents of the device afterwards.
pub const AFTER: Contents = Contents::Pattern(2);

const fn storage(capacity: u64, block_size: u16) -> Device {
    Device { name: "storage", kind: DeviceKind::Block(Disk { capacity, block_size, before: BEFORE, after: AFTER }) }
}

const fn block(name: &'static str, arguments: &'static [&'static str], devices: &'static [Device]) -> Case {
    Case { name, guest: "block", arguments, devices, ..Case::ORDINARY }
}

/// The arguments are the expected properties of the device.
pub const CASES: &[Case] = &[
    block("block-512", &["4194304", "512"], &[storage(4 << 20, 512)]),
    block("block-1024", &["1048576", "1024"], &[storage(1 << 20, 1024)]),
    block("block-2048", &["1048576", "2048"], &[storage(1 << 20, 2048)]),
    block("block-4096", &["1048576", "4096"], &[storage(1 << 20, 4096)]),
    block("block-one-block", &["512", "512"], &[storage(512, 512)]),
    block("block-odd-number", &["49152", "16384"], &[storage(3 * 16384, 16384)]),
    Case { guest: "churn", ..block("block-churn", &["write", "1024", "2"], &[storage(64 << 10, 512)]) },
];
