//! Page shared with the monitor. The monitor may change the page at any time, so every access is
//! volatile and no reference to the page exists.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use core::mem::offset_of;

use hvt_abi::{
    kernel::{Exit, ExitRecord, Io, KernelError, Request, RunPage},
    native::Registers,
};
use zerocopy::transmute;

use super::kernel::Kernel;
use crate::host::Hpa;

/// Reference to a frame that holds a [`RunPage`].
pub(super) struct SharedPage<K: Kernel> {
    kernel: K,
    frame: Hpa,
}

/// Number of words of an [`ExitRecord`] that may be different from 0.
const RECORD_WORDS: usize = offset_of!(ExitRecord, reserved) / 8 + 1;

impl<K: Kernel> SharedPage<K> {
    pub(super) fn new(kernel: &K) -> Result<Self, KernelError> {
        let frame = kernel.allocate_shared().ok_or(KernelError::OutOfMemory)?;
        Ok(Self { kernel: kernel.clone(), frame })
    }

    pub(super) fn frame(&self) -> Hpa {
        self.frame
    }

    /// Returns the address of a field.
    #[inline]
    fn at<T>(&self, offset: usize) -> *mut T {
        self.kernel.phys_to_virt(self.frame).wrapping_add(offset).cast()
    }

    /// Reads and clears the monitor's request.
    #[inline]
    pub(super) fn take_request(&self) -> Result<Request, KernelError> {
        let word = self.at::<u32>(offset_of!(RunPage, request));
        // SAFETY: the field is in a frame that this value holds a reference to.
        let bits = unsafe { word.read_volatile() };
        if bits != 0 {
            // SAFETY: as above.
            unsafe { word.write_volatile(0) };
        }
        Request::from_bits(bits)
            .filter(|request| !request.contains(Request::INPUT | Request::SET_REGISTERS))
            .ok_or(KernelError::BadArgument)
    }

    pub(super) fn input(&self) -> u32 {
        // SAFETY: as in `take_request`.
        unsafe { self.at::<u32>(offset_of!(RunPage, input)).read_volatile() }
    }

    pub(super) fn registers(&self) -> Registers {
        // SAFETY: as in `take_request`; any bytes are a valid `Registers`.
        unsafe { self.at::<Registers>(offset_of!(RunPage, registers)).read_volatile() }
    }

    pub(super) fn set_registers(&self, registers: &Registers) {
        // SAFETY: as in `take_request`.
        unsafe { self.at::<Registers>(offset_of!(RunPage, registers)).write_volatile(*registers) };
    }

    /// Writes the record of an exit, and returns the exit's reason.
    #[inline(never)]
    pub(super) fn set_exit(&self, exit: Exit) -> u32 {
        self.set_record(ExitRecord::from(exit))
    }

    /// [`set_exit`](Self::set_exit) for the exit that must be fast.
    #[inline]
    pub(super) fn set_io(&self, io: Io) -> u32 {
        self.set_record(ExitRecord::from(io))
    }

    #[inline(always)]
    fn set_record(&self, record: ExitRecord) -> u32 {
        let words: [u64; size_of::<ExitRecord>() / 8] = transmute!(record);
        let start = self.at::<u64>(offset_of!(RunPage, exit));
        for (i, word) in words.into_iter().take(RECORD_WORDS).enumerate() {
            // SAFETY: as in `take_request`; the words are in the field.
            unsafe { start.wrapping_add(i).write_volatile(word) };
        }
        record.reason
    }
}

impl<K: Kernel> Drop for SharedPage<K> {
    fn drop(&mut self) {
        // SAFETY: this value owns the reference.
        unsafe { self.kernel.release(self.frame) }
    }
}
