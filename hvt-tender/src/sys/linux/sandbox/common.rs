//! System calls of every thread of the tender: memory, locks, clocks, messages and exit.

use libc::c_long;

use super::calls::{Calls, OPENS_TO_READ};
use super::condition::Condition;
use crate::cancel::CancelToken;
use crate::descriptor::{Descriptor, Uses};

/// Calls that affect only the thread itself, its memory, and clocks.
const ALWAYS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Reports whether descriptors are ready, but not their contents.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    // The kernel substitutes this call when a stopped process continues an interrupted call.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    // The standard library removes a thread's signal stack when the thread ends.
    libc::SYS_sigaltstack,
];

/// Returns the calls of a thread that has no other task than to cancel the run.
pub(super) fn calls(stop: &CancelToken) -> Calls {
    let mut calls = Calls::none();
    ALWAYS.iter().for_each(|number| calls.allow(*number));
    // Private anonymous memory that is not executable.
    let anonymous = Condition::set(3, (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE).cast_unsigned());
    let no_code = Condition::clear(2, libc::PROT_EXEC.cast_unsigned());
    calls.allow_if(libc::SYS_mmap, &[no_code, anonymous]);
    calls.allow_if(libc::SYS_mprotect, &[no_code]);
    // Locks and hand-overs, without priority inheritance, which has been exploited to attack
    // kernels.
    for operation in [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET] {
        let flags = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
        let any_kind = Condition::equal_but_for(1, operation.cast_unsigned(), flags.cast_unsigned());
        calls.allow_if(libc::SYS_futex, &[any_kind]);
    }
    // With debug assertions, the standard library checks that a descriptor is open before it closes
    // the descriptor.
    calls.allow_if(libc::SYS_fcntl, &[Condition::equal(1, libc::F_GETFD.cast_unsigned())]);
    // Signals to threads of this process: to kick the vCPU, and to abort after a panic.
    calls.allow_if(libc::SYS_tgkill, &[Condition::equal(0, std::process::id())]);
    refuse_to_the_c_library(&mut calls);
    let stderr = Descriptor { number: libc::STDERR_FILENO, uses: Uses::WRITE };
    calls.allow_uses([stderr, Descriptor::new(stop.event(), Uses::WRITE)]);
    calls
}

/// Refuses calls that glibc's `malloc` and `free` make at unpredictable times, in any thread. Each
/// call is a query or a hint; glibc continues without the result.
fn refuse_to_the_c_library(calls: &mut Calls) {
    /// `prctl` option that names a mapping, and its one suboption (`include/uapi/linux/prctl.h`).
    const PR_SET_VMA: u32 = 0x5356_4d41;
    // `free` reads /proc/sys/vm/overcommit_memory before it shrinks an arena other than the main
    // arena (glibc `check_may_shrink_heap`). glibc before 2.35 reads files in /sys and /proc to
    // count the CPUs.
    calls.refuse(libc::SYS_openat, &[OPENS_TO_READ], libc::EACCES as u16);
    // `malloc` counts the CPUs to limit the number of arenas, also when the first arena cannot
    // grow.
    calls.refuse(libc::SYS_sched_getaffinity, &[], libc::EPERM as u16);
    // `malloc` names a new arena if the tunable glibc.mem.decorate_maps is set (glibc 2.39). A
    // kernel without names returns EINVAL, after which glibc does not try again.
    calls.refuse(libc::SYS_prctl, &[Condition::equal(0, PR_SET_VMA)], libc::EINVAL as u16);
}
