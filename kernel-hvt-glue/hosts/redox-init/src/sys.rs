//! System calls, as the kernel of commit 663e66410 has them (`redox_syscall` 0.9.3).
//!
//! `rax` is the number, `rdi`, `rsi`, `rdx`, `r10`, `r8`, `r9` are arguments, `rax` the result: an error's number,
//! negated, when it lies in the last page of all values.

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

/// `RwFlags` of [`READ2`]: those that the descriptor was opened with.
pub(crate) const AS_OPENED: usize = usize::MAX;

/// Largest number of an error.
const ERRNO_MAX: usize = 4095;

/// Result of a system call.
pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// `CallFlags` of [`call`].
pub(crate) mod flags {
    /// The payload is read by the scheme.
    pub(crate) const CALL_WRITE: usize = 1 << 9;
    /// The payload is written by the scheme.
    pub(crate) const CALL_READ: usize = 1 << 10;
    /// The call is one of the standard ones for files.
    pub(crate) const CALL_STD_FS: usize = 1 << 16;
    /// Mapped for this process alone.
    pub(crate) const MAP_PRIVATE: usize = 2;
    /// Mapped for whoever maps it.
    pub(crate) const MAP_SHARED: usize = 1;
    /// May be written.
    pub(crate) const PROT_WRITE: usize = 2 << 16;
    /// May be read.
    pub(crate) const PROT_READ: usize = 4 << 16;
}

/// A span of time, or a moment.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i32,
}

/// A system call.
///
/// # Safety
/// Whatever this call does to memory is sound.
#[inline]
unsafe fn syscall(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize> {
    let result: usize;
    // SAFETY: the caller's promise; the kernel changes no other registers.
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

/// What `rax` means after a system call.
#[inline]
pub(crate) fn decode(result: usize) -> Result<usize> {
    let errno = result.wrapping_neg();
    if (1..=ERRNO_MAX).contains(&errno) { Err(Errno(errno as i32)) } else { Ok(result) }
}

/// Opens `path` below `root` as descriptor `new`, which is free.
pub(crate) fn openat_into(root: usize, path: &str, flags: usize, new: usize) -> Result<usize> {
    // SAFETY: the kernel reads the path and nothing else.
    unsafe { syscall(OPENAT_INTO, [root, path.as_ptr().addr(), path.len(), flags, 0, new]) }
}

/// Makes descriptor `new`, which is free, of `fd`: what comes of it the scheme makes of `how`.
pub(crate) fn dup_into(fd: usize, how: &[u8], new: usize) -> Result<usize> {
    // SAFETY: as above.
    unsafe { syscall(DUP_INTO, [fd, how.as_ptr().addr(), how.len(), new, 0, 0]) }
}

/// Reads from the start of `fd`, which has no position of its own.
#[inline]
pub(crate) fn read(fd: usize, into: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes into the slice, whose bytes may be anything.
    unsafe { syscall(READ2, [fd, into.as_mut_ptr().addr(), into.len(), 0, AS_OPENED, 0]) }
}

/// Writes to `fd`.
///
/// # Safety
/// What the bytes mean to `fd` is sound: a context's address space can be exchanged in this way.
pub(crate) unsafe fn write(fd: usize, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads the slice; the caller promises the rest.
    unsafe { syscall(WRITE, [fd, bytes.as_ptr().addr(), bytes.len(), 0, 0, 0]) }
}

/// Closes `fd`, which some effects wait for.
///
/// # Safety
/// As with [`write`], whose effect it may be.
pub(crate) unsafe fn close(fd: usize) -> Result<usize> {
    // SAFETY: the caller's promise.
    unsafe { syscall(CLOSE, [fd, 0, 0, 0, 0, 0]) }
}

/// Calls the scheme behind `fd`, with a payload that it may read and write, and with words of its own.
///
/// # Safety
/// What the scheme does with that is sound. `payload` may be written while the call runs, and is valid for it.
#[inline]
pub(crate) unsafe fn call(fd: usize, payload: *mut u8, len: usize, flags: usize, words: &[u64]) -> Result<usize> {
    // SAFETY: the caller's promise. The number of words shares a register with the flags.
    unsafe { syscall(CALL, [fd, payload.addr(), len, flags | words.len(), words.as_ptr().addr(), 0]) }
}

/// Maps `size` bytes of `fd`, or new memory for `usize::MAX`, wherever the kernel likes; returns the address.
pub(crate) fn fmap(fd: usize, offset: usize, size: usize, flags: usize) -> Result<usize> {
    let map = [offset, size, flags, 0];
    // SAFETY: nothing that is mapped already is touched, for the address is the kernel's choice.
    unsafe { syscall(FMAP, [fd, map.as_ptr().addr(), size_of_val(&map), 0, 0, 0]) }
}

/// Unmaps memory.
///
/// # Safety
/// Nothing refers to it any more.
pub(crate) unsafe fn funmap(address: usize, size: usize) -> Result<usize> {
    // SAFETY: the caller's promise.
    unsafe { syscall(FUNMAP, [address, size, 0, 0, 0, 0]) }
}

/// Changes what may be done to memory.
///
/// # Safety
/// Nothing does what is not allowed any more.
pub(crate) unsafe fn mprotect(address: usize, size: usize, flags: usize) -> Result<usize> {
    // SAFETY: the caller's promise.
    unsafe { syscall(MPROTECT, [address, size, flags, 0, 0, 0]) }
}

/// Sleeps for this many nanoseconds.
pub(crate) fn sleep(nanoseconds: u64) {
    let time =
        TimeSpec { seconds: (nanoseconds / 1_000_000_000) as i64, nanoseconds: (nanoseconds % 1_000_000_000) as i32 };
    // SAFETY: the kernel reads the structure. A sleep that ends too early is its callers' business.
    let _ = unsafe { syscall(NANOSLEEP, [(&raw const time).addr(), 0, 0, 0, 0, 0]) };
}

/// Lets other contexts run.
pub(crate) fn yield_now() {
    // SAFETY: it touches no memory.
    let _ = unsafe { syscall(YIELD, [0; 6]) };
}

/// Nanoseconds since the machine started.
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
