//! System calls that the C library makes on its own in confined threads.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::process::Command;
use std::{env, thread};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::*;

/// Environment variable with the case for the process that runs it.
const CASE: &str = "HVT_TEST_ALLOCATOR";

/// Kinds of threads, by the calls that they make beyond the calls of every thread.
const KINDS: [&str; 4] = ["guest", "internet", "cable", "memory"];

/// Threads that free the allocations of another thread.
const FREEING: [&str; 2] = ["first", "other"];

/// Size of a block, below the size from which `malloc` maps each block separately.
const BLOCK: usize = 64 << 10;
/// Number of blocks passed to the other thread at once. Together they exceed the memory that `free`
/// keeps in an arena.
const BLOCKS: usize = 64;

fn calls(kind: &str, stop: &CancelToken) -> Calls {
    let mut calls = Sandbox::new().calls(stop);
    match kind {
        "guest" => calls.allow_uses([Descriptor::new(stop.event(), Uses::READ)]),
        #[cfg(feature = "user-net")]
        "internet" => calls.allow_internet(),
        "cable" => calls.allow_uses([Descriptor::new(stop.event(), Uses::MEET)]),
        _ => calls.allow(libc::SYS_mincore),
    }
    calls
}

fn confine(kind: &str, stop: &CancelToken) {
    Sandbox::new().confine(calls(kind, stop)).unwrap();
}

/// Allocates blocks in the arena of the calling thread, for another thread to free.
fn allocate(to: &Sender<Vec<Vec<u8>>>) {
    for _ in 0..4 {
        // Sending fails if the other thread has failed, which fails the test.
        let _ = to.send((0..BLOCKS).map(|_| Vec::with_capacity(BLOCK)).collect());
    }
}

/// Frees the blocks, and uses `malloc` in ways that make it issue system calls.
fn free(blocks: &Receiver<Vec<Vec<u8>>>) {
    for some in blocks {
        drop(some);
        // Larger than the address space. glibc tries every possible arena, and counts the CPUs for
        // that.
        // SAFETY: the pointer is null, and is only compared.
        let huge = unsafe { libc::malloc(1 << 60 | 1 << 47) };
        assert!(huge.is_null());
        // Grows in the arena, in a separate mapping, and by moving the mapping.
        let mut grown: Vec<u8> = Vec::new();
        for size in (0..12).map(|doublings| BLOCK << doublings) {
            grown.reserve_exact(size);
        }
        grown.shrink_to(1);
    }
    // Calls of other versions of the C library.
    for path in [c"/proc/sys/vm/overcommit_memory", c"/sys/devices/system/cpu/online"] {
        // SAFETY: the path is a string that ends with a NUL.
        let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if file >= 0 {
            // SAFETY: the descriptor is open and has no other owner.
            unsafe { libc::close(file) };
        }
    }
    const PR_SET_VMA: libc::c_int = 0x5356_4d41;
    // SAFETY: the kernel only reads the arguments: the range is empty.
    assert_eq!(unsafe { libc::prctl(PR_SET_VMA, 0, 0, 0, 0) }, -1);
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL));
}

/// Runs the case in the only thread of a process, and in threads that it creates.
fn run(kind: &str, freeing: &str) {
    rights::gain_none().unwrap();
    let stop = CancelToken::new().unwrap();
    let (to, blocks) = bounded(1);
    thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            confine(kind, stop);
            allocate(&to);
        });
        let frees = move || {
            confine(kind, stop);
            free(&blocks);
        };
        if freeing == "first" { frees() } else { drop(scope.spawn(frees)) }
    });
}

/// Not a test by itself: it runs a case in a process that the test below starts.
#[test]
fn confined_allocator() {
    let Ok(case) = env::var(CASE) else { return };
    let (kind, freeing) = case.split_once(' ').unwrap();
    // The child has one thread, its first.
    // SAFETY: the C library keeps `malloc` usable across a fork, and the child uses no other locks.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            run(kind, freeing);
            // SAFETY: the call only ends the process.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0)),
    }
}

/// `free` reads the kernel's overcommit mode once per process, so each case runs in a separate
/// process.
#[test]
fn malloc_works_in_every_thread_that_is_confined() {
    let cases = KINDS.iter().flat_map(|kind| FREEING.map(|freeing| format!("{kind} {freeing}")));
    for case in cases {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "sandbox::tests::confined_allocator"]).env(CASE, &case);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
