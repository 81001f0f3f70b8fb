//! What network and block devices share: results, handles, buffers.

use core::cell::OnceCell;
use core::ffi::{CStr, c_char, c_int};
use core::slice;

use guest_bindings::abi::hypercall::Status;
use guest_bindings::abi::manifest::MAX_ENTRIES;
use guest_bindings::{Error, OneCpu};

/// `solo5_result_t`, an `enum` of C. Its values are those of a hypercall's result.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct CResult(c_int);

impl CResult {
    /// `SOLO5_R_OK`.
    pub(crate) const OK: Self = Self(Status::Ok as c_int);
    /// `SOLO5_R_EINVAL`.
    pub(crate) const INVALID: Self = Self(Status::Invalid as c_int);

    /// What C is told of `result`.
    pub(crate) fn of(result: Result<(), Error>) -> Self {
        match result {
            Ok(()) => Self::OK,
            Err(Error::Again) => Self(Status::Again as c_int),
            Err(Error::Invalid | Error::NoSuchDevice) => Self::INVALID,
            Err(Error::Failed) => Self(Status::Unspecified as c_int),
        }
    }
}

/// The devices of one kind that the application has acquired, by their handles.
pub(crate) struct Acquired<T>([OnceCell<T>; MAX_ENTRIES]);

impl<T> Acquired<T> {
    /// None yet.
    pub(crate) const fn none() -> OneCpu<Self> {
        OneCpu::new(Self([const { OnceCell::new() }; _]))
    }

    /// The device of this handle.
    pub(crate) fn get(&self, handle: u64) -> Result<&T, Error> {
        let index = usize::try_from(handle).map_err(|_| Error::Invalid)?;
        self.0.get(index).and_then(OnceCell::get).ok_or(Error::Invalid)
    }

    /// Keeps a device that has just been opened. A second time is an error.
    pub(crate) fn keep(&self, handle: u64, device: T) -> Result<&T, Error> {
        let index = usize::try_from(handle).map_err(|_| Error::Invalid)?;
        let slot = self.0.get(index).ok_or(Error::Invalid)?;
        slot.set(device).map_err(|_| Error::Invalid)?;
        self.get(handle)
    }
}

/// A device's name.
///
/// # Safety
///
/// `name` is null or a string that ends with a NUL, and stays as long as the result.
pub(crate) unsafe fn name<'a>(name: *const c_char) -> Result<&'a str, Error> {
    if name.is_null() {
        return Err(Error::Invalid);
    }
    // SAFETY: The caller's promise.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Error::NoSuchDevice)
}

/// A buffer to read from, or `None` for a null pointer.
///
/// # Safety
///
/// `size` bytes at `buffer` are valid to read, and stay so and unchanged as long as the result.
pub(crate) unsafe fn bytes<'a>(buffer: *const u8, size: usize) -> Option<&'a [u8]> {
    // SAFETY: The caller's promise.
    (!buffer.is_null()).then(|| unsafe { slice::from_raw_parts(buffer, size) })
}

/// A buffer to write to, or `None` for a null pointer.
///
/// # Safety
///
/// `size` bytes at `buffer` are valid to write, and nobody else's as long as the result.
pub(crate) unsafe fn bytes_mut<'a>(buffer: *mut u8, size: usize) -> Option<&'a mut [u8]> {
    // SAFETY: The caller's promise. What C has not written yet has some value: the compiler sees nothing of C.
    (!buffer.is_null()).then(|| unsafe { slice::from_raw_parts_mut(buffer, size) })
}
