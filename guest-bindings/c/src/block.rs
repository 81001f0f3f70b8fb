//! Block devices.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use core::ffi::c_char;

use guest_bindings::{Block, DeviceError, OneCpu};

use crate::device::{self, Acquired, CResult};

static BLOCKS: OneCpu<Acquired<Block>> = Acquired::none();

/// `struct solo5_block_info`.
#[repr(C)]
struct BlockInfo {
    capacity: u64,
    block_size: u64,
}

/// # Safety
///
/// `name` must be a NUL-terminated string. `handle` and `info` must be null or valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_block_acquire(
    name: *const c_char,
    handle: Option<&mut u64>,
    info: Option<&mut BlockInfo>,
) -> CResult {
    let acquire = || {
        let (Some(handle), Some(info)) = (handle, info) else { return Err(DeviceError::Invalid) };
        // SAFETY: Guaranteed by the caller.
        let device = Block::open(unsafe { device::name(name)? })?;
        let number = device.handle().number();
        let properties = BLOCKS.keep(number, device)?.info();
        *handle = number;
        *info = BlockInfo { capacity: properties.capacity, block_size: properties.block_size as u64 };
        Ok(())
    };
    CResult::of(acquire())
}

/// # Safety
///
/// `size` bytes at `buf` must be valid for reads.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_block_write(handle: u64, offset: u64, buf: *const u8, size: usize) -> CResult {
    let write = || {
        // SAFETY: Guaranteed by the caller.
        let data = unsafe { device::bytes(buf, size) }.ok_or(DeviceError::Invalid)?;
        BLOCKS.get(handle)?.write(offset, data)
    };
    CResult::of(write())
}

/// # Safety
///
/// `size` bytes at `buf` must be valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_block_read(handle: u64, offset: u64, buf: *mut u8, size: usize) -> CResult {
    let read = || {
        // SAFETY: Guaranteed by the caller.
        let buffer = unsafe { device::bytes_mut(buf, size) }.ok_or(DeviceError::Invalid)?;
        BLOCKS.get(handle)?.read(offset, buffer)
    };
    CResult::of(read())
}
