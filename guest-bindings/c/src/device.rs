//! Code shared by network and block devices: results, handles, buffers.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use core::cell::OnceCell;
use core::ffi::{CStr, c_char, c_int};
use core::slice;

use guest_bindings::abi::hypercall::Status;
use guest_bindings::abi::manifest::MAX_ENTRIES;
use guest_bindings::{DeviceError, OneCpu};

/// `solo5_result_t`, a C `enum`. Its values equal the results of hypercalls.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct CResult(c_int);

impl CResult {
    /// `SOLO5_R_OK`.
    pub(crate) const OK: Self = Self(Status::Ok as c_int);
    /// `SOLO5_R_EINVAL`.
    pub(crate) const INVALID: Self = Self(Status::Invalid as c_int);

    /// Converts `result` to the value returned to C.
    pub(crate) fn of(result: Result<(), DeviceError>) -> Self {
        match result {
            Ok(()) => Self::OK,
            Err(DeviceError::Again) => Self(Status::Again as c_int),
            Err(DeviceError::Invalid | DeviceError::NoSuchDevice) => Self::INVALID,
            Err(DeviceError::Failed) => Self(Status::Unspecified as c_int),
        }
    }
}

/// Devices of one type that the application has acquired, indexed by handle.
pub(crate) struct Acquired<T>([OnceCell<T>; MAX_ENTRIES]);

impl<T> Acquired<T> {
    /// Creates a table without devices.
    pub(crate) const fn none() -> OneCpu<Self> {
        OneCpu::new(Self([const { OnceCell::new() }; _]))
    }

    /// Returns the device with the given handle.
    pub(crate) fn get(&self, handle: u64) -> Result<&T, DeviceError> {
        let index = usize::try_from(handle).map_err(|_| DeviceError::Invalid)?;
        self.0.get(index).and_then(OnceCell::get).ok_or(DeviceError::Invalid)
    }

    /// Stores a newly opened device. Storing a device twice is an error.
    pub(crate) fn keep(&self, handle: u64, device: T) -> Result<&T, DeviceError> {
        let index = usize::try_from(handle).map_err(|_| DeviceError::Invalid)?;
        let slot = self.0.get(index).ok_or(DeviceError::Invalid)?;
        slot.set(device).map_err(|_| DeviceError::Invalid)?;
        self.get(handle)
    }
}

/// Converts a device name from C.
///
/// # Safety
///
/// `name` must be null or a NUL-terminated string that lives as long as the result.
pub(crate) unsafe fn name<'a>(name: *const c_char) -> Result<&'a str, DeviceError> {
    if name.is_null() {
        return Err(DeviceError::Invalid);
    }
    // SAFETY: Guaranteed by the caller.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| DeviceError::NoSuchDevice)
}

/// Returns the buffer as a slice, or `None` for a null pointer.
///
/// # Safety
///
/// `size` bytes at `buffer` must be valid for reads and must not change during the lifetime of the
/// result.
pub(crate) unsafe fn bytes<'a>(buffer: *const u8, size: usize) -> Option<&'a [u8]> {
    // SAFETY: Guaranteed by the caller.
    (!buffer.is_null()).then(|| unsafe { slice::from_raw_parts(buffer, size) })
}

/// Returns the buffer as a mutable slice, or `None` for a null pointer.
///
/// # Safety
///
/// `size` bytes at `buffer` must be valid for writes and must have no other users during the
/// lifetime of the result.
pub(crate) unsafe fn bytes_mut<'a>(buffer: *mut u8, size: usize) -> Option<&'a mut [u8]> {
    // SAFETY: Guaranteed by the caller. Memory that C has not written yet has an unspecified value,
    // because the compiler cannot see the C code.
    (!buffer.is_null()).then(|| unsafe { slice::from_raw_parts_mut(buffer, size) })
}
