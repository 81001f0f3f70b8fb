//! Descriptors, and the root descriptors of the kernel's schemes, from which all others are
//! created.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hvt_core::kernel::Errno;

use crate::sys::{self, Result, flags};

/// End of user space (`src/arch/x86_64/consts.rs`), and the address of the kernel's data for the
/// first process below it.
const USER_END: usize = 0x0000_8000_0000_0000;
const METADATA: usize = USER_END - 4 * 4096;

/// Kernel schemes, by number (`redox_syscall::data::GlobalSchemes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// The kernel's own output.
    Debug = 1,
    /// Memory.
    Memory = 3,
    /// Information about the kernel.
    Sys = 8,
    /// Contexts.
    Proc = 9,
}

/// Returns the root descriptor of a scheme.
pub(crate) fn root(scheme: Scheme) -> Result<usize> {
    let count: *const usize = core::ptr::with_exposed_provenance(METADATA);
    let table: *const [usize; 2] = core::ptr::with_exposed_provenance(METADATA + size_of::<usize>());
    // SAFETY: the kernel wrote both and never changes them. An entry is the scheme's number in one
    // byte, zeroed padding, and a descriptor.
    let roots = unsafe { core::slice::from_raw_parts(table, *count) };
    let found = roots.iter().find(|[number, _]| *number as u8 == scheme as u8);
    found.map(|[_, fd]| *fd).ok_or(Errno(2))
}

/// Descriptor numbers in use. The kernel leaves their allocation to the process.
static USED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

fn take_number() -> Result<usize> {
    for (index, word) in USED.iter().enumerate() {
        let free = |bits: u64| (bits != u64::MAX).then(|| bits | (bits + 1));
        if let Ok(before) = word.fetch_update(Relaxed, Relaxed, free) {
            return Ok(index * 64 + before.trailing_ones() as usize);
        }
    }
    Err(Errno(24))
}

fn give_number_back(number: usize) {
    USED[number / 64].fetch_and(!(1 << (number % 64)), Relaxed);
}

/// Open descriptor, closed when dropped.
#[derive(Debug)]
pub(crate) struct Fd(usize);

impl Fd {
    fn make(make: impl FnOnce(usize) -> Result<usize>) -> Result<Self> {
        let number = take_number()?;
        match make(number) {
            Ok(_) => Ok(Self(number)),
            Err(error) => {
                give_number_back(number);
                Err(error)
            }
        }
    }

    /// Opens `path` of a kernel scheme, for reading and writing.
    pub(crate) fn open(scheme: Scheme, path: &str) -> Result<Self> {
        const O_RDWR: usize = 0x0003_0000;
        let root = root(scheme)?;
        Self::make(|new| sys::openat_into(root, path, O_RDWR, new))
    }

    /// Calls `dup` with the name `how` on the root of a kernel scheme.
    pub(crate) fn of_root(scheme: Scheme, how: &str) -> Result<Self> {
        let root = root(scheme)?;
        Self::make(|new| sys::dup_into(root, how.as_bytes(), new))
    }

    /// Calls `dup` with the name `how` on this descriptor.
    pub(crate) fn dup(&self, how: &str) -> Result<Self> {
        Self::make(|new| sys::dup_into(self.0, how.as_bytes(), new))
    }

    /// Returns the descriptor's number.
    pub(crate) fn number(&self) -> usize {
        self.0
    }

    /// Reads from the descriptor.
    #[inline]
    pub(crate) fn read(&self, into: &mut [u8]) -> Result<usize> {
        sys::read(self.0, into)
    }

    /// Writes words to the descriptor, and closes it.
    ///
    /// # Safety
    /// The effect of the write must be sound; see [`sys::write`].
    pub(crate) unsafe fn write_words(self, words: &[usize]) -> Result<()> {
        let mut bytes = [0; 4 * size_of::<usize>()];
        let bytes = bytes.get_mut(..size_of_val(words)).ok_or(Errno(22))?;
        for (to, word) in bytes.chunks_exact_mut(size_of::<usize>()).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        // SAFETY: guaranteed by the caller.
        unsafe { sys::write(self.0, bytes) }?;
        give_number_back(self.0);
        // SAFETY: guaranteed by the caller.
        let closed = unsafe { sys::close(self.0) };
        core::mem::forget(self);
        closed.map(drop)
    }

    /// Calls the descriptor's scheme, with a payload that the scheme reads and writes.
    ///
    /// # Safety
    /// The effect of the call must be sound.
    pub(crate) unsafe fn call(&self, payload: &mut [u8], words: &[u64]) -> Result<usize> {
        // SAFETY: guaranteed by the caller.
        unsafe { sys::call(self.0, payload.as_mut_ptr(), payload.len(), flags::CALL_READ | flags::CALL_WRITE, words) }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: only `write_words` writes data that takes effect at a close, and it closes the
        // descriptor itself. The number is free afterwards, regardless of the result.
        let _ = unsafe { sys::close(self.0) };
        give_number_back(self.0);
    }
}

/// Returns the number of the kernel's free frames.
pub(crate) fn free_frames() -> Result<u64> {
    /// `StdFsCallKind::Fstatvfs`; `StatVfs` is four numbers: the first has 32 bits, the third is
    /// the number of free frames.
    const FSTATVFS: u64 = 5;
    let mut answer = [0u64; 4];
    let root = root(Scheme::Memory)?;
    let flags = flags::CALL_READ | flags::CALL_STD_FS;
    // SAFETY: the kernel writes the structure.
    unsafe { sys::call(root, answer.as_mut_ptr().cast(), size_of_val(&answer), flags, &[FSTATVFS, 0, 0]) }?;
    Ok(answer[2])
}
