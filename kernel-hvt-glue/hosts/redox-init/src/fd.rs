//! Descriptors, and the roots of the kernel's schemes, which all others come from.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hvt_core::kernel::Errno;

use crate::sys::{self, Result, flags};

/// End of user space (`src/arch/x86_64/consts.rs`), and what the kernel leaves below it for its first process.
const USER_END: usize = 0x0000_8000_0000_0000;
const METADATA: usize = USER_END - 4 * 4096;

/// Kernel schemes, by number (`redox_syscall::data::GlobalSchemes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// The kernel's own output.
    Debug = 1,
    /// Memory.
    Memory = 3,
    /// What the kernel tells of itself.
    Sys = 8,
    /// Contexts.
    Proc = 9,
}

/// Descriptor of a scheme's root.
pub(crate) fn root(scheme: Scheme) -> Result<usize> {
    let count: *const usize = core::ptr::with_exposed_provenance(METADATA);
    let table: *const [usize; 2] = core::ptr::with_exposed_provenance(METADATA + size_of::<usize>());
    // SAFETY: the kernel wrote both and never changes them; an entry is the scheme's number in one byte, padding that
    // it zeroed, and a descriptor.
    let roots = unsafe { core::slice::from_raw_parts(table, *count) };
    let found = roots.iter().find(|[number, _]| *number as u8 == scheme as u8);
    found.map(|[_, fd]| *fd).ok_or(Errno(2))
}

/// Descriptors that are in use: the kernel leaves their numbers to the process.
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

/// An open descriptor, closed when dropped.
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

    /// What a kernel scheme makes of its root when asked for `how`.
    pub(crate) fn of_root(scheme: Scheme, how: &str) -> Result<Self> {
        let root = root(scheme)?;
        Self::make(|new| sys::dup_into(root, how.as_bytes(), new))
    }

    /// What the scheme behind it makes of it when asked for `how`.
    pub(crate) fn dup(&self, how: &str) -> Result<Self> {
        Self::make(|new| sys::dup_into(self.0, how.as_bytes(), new))
    }

    /// Its number.
    pub(crate) fn number(&self) -> usize {
        self.0
    }

    /// Reads from it.
    #[inline]
    pub(crate) fn read(&self, into: &mut [u8]) -> Result<usize> {
        sys::read(self.0, into)
    }

    /// Writes words to it, and closes it.
    ///
    /// # Safety
    /// What that does is sound; see [`sys::write`].
    pub(crate) unsafe fn write_words(self, words: &[usize]) -> Result<()> {
        let mut bytes = [0; 4 * size_of::<usize>()];
        let bytes = bytes.get_mut(..size_of_val(words)).ok_or(Errno(22))?;
        for (to, word) in bytes.chunks_exact_mut(size_of::<usize>()).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        // SAFETY: the caller's promise.
        unsafe { sys::write(self.0, bytes) }?;
        give_number_back(self.0);
        // SAFETY: the caller's promise.
        let closed = unsafe { sys::close(self.0) };
        core::mem::forget(self);
        closed.map(drop)
    }

    /// Calls the scheme behind it, with a payload that the scheme reads and writes.
    ///
    /// # Safety
    /// What the scheme does is sound.
    pub(crate) unsafe fn call(&self, payload: &mut [u8], words: &[u64]) -> Result<usize> {
        // SAFETY: the caller's promise.
        unsafe { sys::call(self.0, payload.as_mut_ptr(), payload.len(), flags::CALL_READ | flags::CALL_WRITE, words) }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: what takes effect at a close is written by `write_words` alone, which closes itself. The number is
        // free afterwards whatever the scheme says.
        let _ = unsafe { sys::close(self.0) };
        give_number_back(self.0);
    }
}

/// Frames of memory that the kernel has free.
pub(crate) fn free_frames() -> Result<u64> {
    /// `StdFsCallKind::Fstatvfs`; `StatVfs` is four numbers, the first of 32 bits, the third what is free.
    const FSTATVFS: u64 = 5;
    let mut answer = [0u64; 4];
    let root = root(Scheme::Memory)?;
    let flags = flags::CALL_READ | flags::CALL_STD_FS;
    // SAFETY: the kernel writes the structure.
    unsafe { sys::call(root, answer.as_mut_ptr().cast(), size_of_val(&answer), flags, &[FSTATVFS, 0, 0]) }?;
    Ok(answer[2])
}
