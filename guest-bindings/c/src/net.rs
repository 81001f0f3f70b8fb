//! Network devices.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use core::ffi::c_char;

use guest_bindings::{DeviceError, Net, OneCpu};

use crate::device::{self, Acquired, CResult};

static NETS: OneCpu<Acquired<Net>> = Acquired::none();

/// `struct solo5_net_info`.
#[repr(C)]
struct NetInfo {
    mac_address: [u8; 6],
    mtu: usize,
}

/// # Safety
///
/// `name` must be a NUL-terminated string. `handle` and `info` must be null or valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_net_acquire(
    name: *const c_char,
    handle: Option<&mut u64>,
    info: Option<&mut NetInfo>,
) -> CResult {
    let acquire = || {
        let (Some(handle), Some(info)) = (handle, info) else { return Err(DeviceError::Invalid) };
        // SAFETY: Guaranteed by the caller.
        let device = Net::open(unsafe { device::name(name)? })?;
        let number = device.handle().number();
        let properties = NETS.keep(number, device)?.info();
        *handle = number;
        *info = NetInfo { mac_address: properties.mac, mtu: properties.mtu };
        Ok(())
    };
    CResult::of(acquire())
}

/// # Safety
///
/// `size` bytes at `buf` must be valid for reads.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_net_write(handle: u64, buf: *const u8, size: usize) -> CResult {
    let write = || {
        // SAFETY: Guaranteed by the caller.
        let frame = unsafe { device::bytes(buf, size) }.ok_or(DeviceError::Invalid)?;
        NETS.get(handle)?.write(frame)
    };
    CResult::of(write())
}

/// # Safety
///
/// `size` bytes at `buf` must be valid for writes. `read_size` must be null or valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_net_read(handle: u64, buf: *mut u8, size: usize, read_size: Option<&mut usize>) -> CResult {
    let read = || {
        // SAFETY: Guaranteed by the caller.
        let buffer = unsafe { device::bytes_mut(buf, size) }.ok_or(DeviceError::Invalid)?;
        let read_size = read_size.ok_or(DeviceError::Invalid)?;
        *read_size = NETS.get(handle)?.read(buffer)?;
        Ok(())
    };
    CResult::of(read())
}
