//! System calls of the kernel at commit 663e66410 (`redox_syscall` 0.9.3).
//!
//! `rax` is the number of the call, `rdi`, `rsi`, `rdx`, `r10`, `r8`, `r9` are the arguments, and
//! `rax` is the result. A result in the last page of all values is the negated number of an error.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::arch::asm;

use hvt_core::kernel::Errno;

const OPENAT_INTO: usize = 0x1010_03db;
const DUP_INTO: usize = 0x2010_03dc;
pub(crate) const READ2: usize = 0x2200_0023;
const WRITE: usize = 0x2100_0004;
const CLOSE: usize = 0x2000_0006;
const CALL: usize = 0x2300_ca11;
const FMAP: usize = 0x2100_0384;
const FUNMAP: usize = 0x2000_005c;
const MPROTECT: usize = 125;
const NANOSLEEP: usize = 162;
const YIELD: usize = 158;
const CLOCK_GETTIME: usize = 265;

/// `RwFlags` of [`READ2`]: the flags with which the descriptor was opened.
pub(crate) const AS_OPENED: usize = usize::MAX;

/// Largest error number.
const ERRNO_MAX: usize = 4095;

/// Result of a system call.
pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// `CallFlags` of [`call`].
pub(crate) mod flags {
    /// The scheme reads the payload.
    pub(crate) const CALL_WRITE: usize = 1 << 9;
    /// The scheme writes the payload.
    pub(crate) const CALL_READ: usize = 1 << 10;
    /// The call is a standard call for files.
    pub(crate) const CALL_STD_FS: usize = 1 << 16;
    /// Private mapping.
    pub(crate) const MAP_PRIVATE: usize = 2;
    /// Shared mapping.
    pub(crate) const MAP_SHARED: usize = 1;
    /// Writable.
    pub(crate) const PROT_WRITE: usize = 2 << 16;
    /// Readable.
    pub(crate) const PROT_READ: usize = 4 << 16;
}

/// Duration or point in time.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i32,
}

/// Executes a system call.
///
/// # Safety
/// The call's effect on memory must be sound.
#[inline]
unsafe fn syscall(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize> {
    let result: usize;
    // SAFETY: guaranteed by the caller; the kernel changes no other registers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    decode(result)
}

/// Decodes the value of `rax` after a system call.
#[inline]
pub(crate) fn decode(result: usize) -> Result<usize> {
    let errno = result.wrapping_neg();
    if (1..=ERRNO_MAX).contains(&errno) { Err(Errno(errno as i32)) } else { Ok(result) }
}

/// Opens `path` below `root` as descriptor `new`, which must be free.
pub(crate) fn openat_into(root: usize, path: &str, flags: usize, new: usize) -> Result<usize> {
    // SAFETY: the kernel only reads the path.
    unsafe { syscall(OPENAT_INTO, [root, path.as_ptr().addr(), path.len(), flags, 0, new]) }
}

/// Creates descriptor `new`, which must be free, from `fd`. The scheme interprets `how`.
pub(crate) fn dup_into(fd: usize, how: &[u8], new: usize) -> Result<usize> {
    // SAFETY: as above.
    unsafe { syscall(DUP_INTO, [fd, how.as_ptr().addr(), how.len(), new, 0, 0]) }
}

/// Reads from the start of `fd`, which has no position.
#[inline]
pub(crate) fn read(fd: usize, into: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes to the slice, whose bytes may have any value.
    unsafe { syscall(READ2, [fd, into.as_mut_ptr().addr(), into.len(), 0, AS_OPENED, 0]) }
}

/// Writes to `fd`.
///
/// # Safety
/// The effect of the bytes on `fd` must be sound: a write can replace a context's address space,
/// for example.
pub(crate) unsafe fn write(fd: usize, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads the slice; the caller guarantees the other requirements.
    unsafe { syscall(WRITE, [fd, bytes.as_ptr().addr(), bytes.len(), 0, 0, 0]) }
}

/// Closes `fd`. Some writes take effect only at the close.
///
/// # Safety
/// As for [`write`], whose effect the close may trigger.
pub(crate) unsafe fn close(fd: usize) -> Result<usize> {
    // SAFETY: guaranteed by the caller.
    unsafe { syscall(CLOSE, [fd, 0, 0, 0, 0, 0]) }
}

/// Calls the scheme of `fd`, with a payload that the scheme may read and write, and with words as
/// arguments.
///
/// # Safety
/// The effect of the call must be sound. `payload` must be valid for the call, and may be written
/// during the call.
#[inline]
pub(crate) unsafe fn call(fd: usize, payload: *mut u8, len: usize, flags: usize, words: &[u64]) -> Result<usize> {
    // SAFETY: guaranteed by the caller. The number of words shares a register with the flags.
    unsafe { syscall(CALL, [fd, payload.addr(), len, flags | words.len(), words.as_ptr().addr(), 0]) }
}

/// Maps `size` bytes of `fd`, or new memory if `fd` is `usize::MAX`, at an address that the kernel
/// chooses. Returns the address.
pub(crate) fn fmap(fd: usize, offset: usize, size: usize, flags: usize) -> Result<usize> {
    let map = [offset, size, flags, 0];
    // SAFETY: the kernel chooses the address, so no existing mapping changes.
    unsafe { syscall(FMAP, [fd, map.as_ptr().addr(), size_of_val(&map), 0, 0, 0]) }
}

/// Unmaps memory.
///
/// # Safety
/// No reference to the memory may exist any more.
pub(crate) unsafe fn funmap(address: usize, size: usize) -> Result<usize> {
    // SAFETY: guaranteed by the caller.
    unsafe { syscall(FUNMAP, [address, size, 0, 0, 0, 0]) }
}

/// Changes the protection of memory.
///
/// # Safety
/// No code may access the memory in a way that is no longer allowed.
pub(crate) unsafe fn mprotect(address: usize, size: usize, flags: usize) -> Result<usize> {
    // SAFETY: guaranteed by the caller.
    unsafe { syscall(MPROTECT, [address, size, flags, 0, 0, 0]) }
}

/// Sleeps for this many nanoseconds.
pub(crate) fn sleep(nanoseconds: u64) {
    let time =
        TimeSpec { seconds: (nanoseconds / 1_000_000_000) as i64, nanoseconds: (nanoseconds % 1_000_000_000) as i32 };
    // SAFETY: the kernel reads the structure. Callers must handle a sleep that ends early.
    let _ = unsafe { syscall(NANOSLEEP, [(&raw const time).addr(), 0, 0, 0, 0, 0]) };
}

/// Yields the CPU to other contexts.
pub(crate) fn yield_now() {
    // SAFETY: the call accesses no memory.
    let _ = unsafe { syscall(YIELD, [0; 6]) };
}

/// Returns the nanoseconds since the machine started.
pub(crate) fn now() -> u64 {
    /// `CLOCK_MONOTONIC`.
    const MONOTONIC: usize = 4;
    let mut time = TimeSpec::default();
    // SAFETY: the kernel writes the structure.
    match unsafe { syscall(CLOCK_GETTIME, [MONOTONIC, (&raw mut time).addr(), 0, 0, 0, 0]) } {
        Ok(_) => time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64,
        // The clock exists.
        Err(_) => 0,
    }
}
