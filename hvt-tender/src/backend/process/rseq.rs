//! Undoing a restartable sequence that a child inherited.
//!
//! The C library registers a `struct rseq` for every thread, and the kernel writes to it whenever the thread has been
//! preempted. A child keeps its parent's registration. Once that memory is unmapped, such a write kills the child.

use std::arch::{asm, global_asm};

/// glibc's signature for x86 (`RSEQ_SIG` in `sysdeps/unix/sysv/linux/x86/bits/rseq.h`).
const SIGNATURE: u32 = 0x5305_3053;
/// `RSEQ_FLAG_UNREGISTER`.
const UNREGISTER: u64 = 1;
/// Lengths that a registration may have: what glibc 2.35 used, and multiples for the kernels that know more fields.
const LENGTHS: [u64; 8] = [32, 64, 96, 128, 160, 192, 224, 256];

// glibc 2.35 and later say where the area is, relative to the thread pointer. Other C libraries do not have the
// symbol: a weak reference is null there.
global_asm!(".weak __rseq_offset");

/// Makes sure that this thread has no restartable sequence registered.
///
/// Async-signal-safe. On failure returns the errno: the area belongs to somebody unknown.
pub(super) fn unregister() -> Result<(), i32> {
    if let Some(area) = area() {
        for length in LENGTHS {
            if rseq(area, length, UNREGISTER) == 0 {
                break;
            }
        }
    }
    // A registration succeeds only where none is in force.
    #[repr(C, align(256))]
    struct Area([u8; 256]);
    let mut own = Area([0; 256]);
    let own = own.0.as_mut_ptr() as u64;
    for length in LENGTHS {
        match rseq(own, length, 0) {
            0 => {
                return match rseq(own, length, UNREGISTER) {
                    0 => Ok(()),
                    error => Err(error),
                };
            }
            libc::ENOSYS => return Ok(()),
            libc::EINVAL => {}
            error => return Err(error),
        }
    }
    Err(libc::EINVAL)
}

/// Address of the area that glibc registered for this thread.
fn area() -> Option<u64> {
    let offset: *const isize;
    let thread: u64;
    // SAFETY: loads the address of a weak symbol from the global offset table, and the thread pointer from where the
    // x86_64 ABI keeps it.
    unsafe {
        asm!(
            "mov {offset}, [rip + __rseq_offset@GOTPCREL]",
            "mov {thread}, fs:[0]",
            offset = out(reg) offset,
            thread = out(reg) thread,
            options(nostack, preserves_flags, readonly),
        );
    }
    // SAFETY: null, or glibc's constant.
    let offset = unsafe { offset.as_ref() }?;
    Some(thread.wrapping_add_signed(*offset as i64))
}

/// The system call; returns 0 or the errno.
fn rseq(area: u64, length: u64, flags: u64) -> i32 {
    let result: i64;
    // SAFETY: registers or unregisters memory of this thread; whoever registers keeps the memory alive until it
    // unregisters, before it returns. The call is made directly, because errno is not ours to touch in a child.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") libc::SYS_rseq => result,
            in("rdi") area,
            in("rsi") length,
            in("rdx") flags,
            in("r10") u64::from(SIGNATURE),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    -result as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_nothing_registered() {
        // In a thread of its own, so that the test harness keeps its registration.
        std::thread::spawn(|| {
            assert_eq!(unregister(), Ok(()));
            assert_eq!(unregister(), Ok(()), "the second time there is nothing to undo");
        })
        .join()
        .unwrap();
    }
}
