//! Guests of a few instructions with page tables that permit writes everywhere: only this backend
//! stops them.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

/// Declares tests that need `/dev/kvm`.
macro_rules! kvm_tests {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)+) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            if available() $body
        }
    )+};
}

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hvt_abi::native::EntryState;
use hvt_abi::{Gpa, GuestRange};
use nix::sys::eventfd::{EfdFlags, EventFd};

#[cfg(target_arch = "aarch64")]
use self::aarch64 as cpu;
#[cfg(target_arch = "x86_64")]
use self::x86_64 as cpu;
use super::{Kvm, KvmMachine};
use crate::Vcpu;
use crate::backend::{CancelToken, Machine};
use crate::exit::{Exit, Fault};
use crate::memory::{GuestMemory, MemoryMap, Permissions, Region};

/// Memory of the guests in these tests. Their page tables map 2 MiB more, where no memory exists.
const SIZE: u64 = 0x40_0000;
const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x10_1000;

/// Starts a guest at `code` with its stack below it.
fn start(code: &[u8], stop: &CancelToken) -> KvmMachine {
    start_on(Kvm::open().unwrap(), code, stop)
}

fn start_on(kvm: Kvm, code: &[u8], stop: &CancelToken) -> KvmMachine {
    let memory = kvm.memory(SIZE).unwrap();
    cpu::write_tables(|at, value| memory.write(at, &value.to_le_bytes()).unwrap());
    memory.write(Gpa(CODE), code).unwrap();
    let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
    let memory_map = MemoryMap::new([
        region(0x1_0000, CODE, Permissions::READ),
        region(CODE, DATA, Permissions::READ | Permissions::EXECUTE),
        region(DATA, SIZE, Permissions::READ | Permissions::WRITE),
    ]);
    kvm.start(memory, &memory_map.unwrap(), &EntryState::new(SIZE, Gpa(CODE)), stop).unwrap()
}

fn guest(code: &[u8]) -> KvmMachine {
    start(code, &CancelToken::new().unwrap())
}

/// Runs a guest once and returns the fault that ends it.
fn fault(code: &[u8]) -> Fault {
    match guest(code).run().unwrap() {
        Exit::Fault(fault) => fault,
        other => panic!("{other:?}"),
    }
}

/// Returns true if these tests can run. If `HVT_BACKENDS` names this backend, they must.
fn available() -> bool {
    let wanted = std::env::var("HVT_BACKENDS").is_ok_and(|names| names.split(',').any(|name| name == "kvm"));
    match Kvm::open() {
        Ok(_) => true,
        Err(error) if wanted => panic!("{error}"),
        Err(error) => {
            eprintln!("not tested: {error}");
            false
        }
    }
}

kvm_tests! {
    fn a_stop_ends_a_guest_that_spins() {
        let stop = CancelToken::new().unwrap();
        let mut guest = start(cpu::spin(), &stop);
        let stopper = thread::spawn({
            let stop = stop.clone();
            move || stop.request()
        });
        assert_eq!(guest.run().unwrap(), Exit::Interrupted);
        stopper.join().unwrap();
        assert_eq!(guest.run().unwrap(), Exit::Interrupted, "it stays");
        drop(guest);
        stop.request();
    }

    fn a_stop_made_before_the_start_counts() {
        let stop = CancelToken::new().unwrap();
        stop.request();
        assert_eq!(start(cpu::spin(), &stop).run().unwrap(), Exit::Interrupted);
    }

    fn other_signals_do_not_end_a_run() {
        let stop = CancelToken::new().unwrap();
        let mut guest = start(cpu::spin(), &stop);
        // SAFETY: has no preconditions.
        let runner = unsafe { libc::pthread_self() };
        let stopping = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..100 {
                    // SAFETY: the runner waits in this scope; the kick has installed a handler for
                    // the signal.
                    assert_eq!(unsafe { libc::pthread_kill(runner, libc::SIGRTMIN() + 4) }, 0);
                    thread::yield_now();
                }
                stopping.store(true, Ordering::SeqCst);
                stop.request();
            });
            assert_eq!(guest.run().unwrap(), Exit::Interrupted);
            assert!(stopping.load(Ordering::SeqCst), "a signal that is no request has ended the run");
        });
    }

    fn a_kick_of_the_network_ring_can_go_past_the_tender() {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let kvm = Kvm::open().unwrap();
        kvm.kick_rings(event.as_fd()).unwrap();
        let mut guest = start_on(kvm, cpu::kick_two_rings(), &CancelToken::new().unwrap());
        assert!(event.read().is_err());
        assert_eq!(guest.run().unwrap(), Exit::RingKick { ring: 1 }, "there is no such ring");
        assert!(event.read().is_ok());
        assert_eq!(guest.run().unwrap(), cpu::DONE);
    }

    fn frequency_is_that_of_the_host() {
        let kvm = Kvm::open().unwrap().cycle_frequency().unwrap();
        let host = crate::backend::frequency::cycle_frequency().unwrap();
        let error = kvm.hz.abs_diff(host.hz) as f64 / host.hz as f64;
        assert!(error < 1000e-6, "{kvm:?}, {host:?}");
    }

    /// Pages are counted when the guest first touches them.
    fn reports_the_memory_in_use() {
        let mut guest = guest(cpu::touch());
        let usage = guest.memory_usage().unwrap();
        let before = usage.bytes().unwrap();
        assert!((0x2000..0x10_0000).contains(&before), "{before:#x}");
        assert_eq!(guest.run().unwrap(), cpu::DONE);
        assert_eq!(usage.bytes().unwrap() - before, 64 * 0x1000);
    }
}
