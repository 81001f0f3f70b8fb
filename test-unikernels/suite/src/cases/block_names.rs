//! The 62 block devices of `devices63`.

use crate::{Contents, Device, DeviceKind, Disk};

const COUNT: usize = 62;

/// `block01` to `block62` as bytes.
const BYTES: &[[u8; 7]; COUNT] = &{
    let mut names = [*b"block00"; COUNT];
    let mut index = 0;
    while index < COUNT {
        let number = index as u8 + 1;
        names[index][5] += number / 10;
        names[index][6] += number % 10;
        index += 1;
    }
    names
};

/// `block01` to `block62`. The number is the handle.
pub const NAMES: [&str; COUNT] = {
    let mut names = [""; COUNT];
    let mut index = 0;
    while index < COUNT {
        names[index] = match str::from_utf8(&BYTES[index]) {
            Ok(name) => name,
            Err(_) => unreachable!(),
        };
        index += 1;
    }
    names
};

/// Returns the capacity in bytes of the device with this handle.
#[must_use]
pub const fn capacity(handle: u64) -> u64 {
    handle * 512
}

/// Returns the constant contents of the device with this handle.
#[must_use]
pub const fn contents(handle: u64) -> Contents {
    Contents::Pattern(handle)
}

/// Returns the device whose name has this index.
pub(super) const fn device(index: usize) -> Device {
    let handle = index as u64 + 1;
    let contents = contents(handle);
    let disk = Disk { capacity: capacity(handle), block_size: 512, before: contents, after: contents };
    Device { name: NAMES[index], kind: DeviceKind::Block(disk) }
}
