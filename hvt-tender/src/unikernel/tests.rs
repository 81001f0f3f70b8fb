use super::*;
use std::thread;

use crossbeam_channel::{Sender, unbounded};
use hvt_abi::Gpa;
use hvt_abi::hypercall::{BlockIo, Halt, Number, Poll, Puts};
use hvt_abi::manifest::Kind;
use zerocopy::IntoBytes;

use crate::backend::auto::FOR_TESTS;
use crate::device::{CapturedOutput, DeviceError, Disk};
use crate::image::fixture::manifest;
use crate::memory::GuestSlice;
use crate::script::fixture::{CALLS_DATA, calls};

const BUFFER: u64 = CALLS_DATA + 0x1000;

fn guest(devices: &[(&str, Kind)], made: &[(Number, &[u8])]) -> Unikernel {
    let unikernel = Unikernel::from_bytes(calls(devices, made)).unwrap();
    unikernel.backend(FOR_TESTS).mem(4 << 20)
}

#[test]
fn runs_with_the_devices_that_it_is_given() {
    let contents: Vec<u8> = (0..4096).map(|index| (index / 512 + index) as u8).collect();
    let (disk, console) = (Disk::from_bytes(contents.clone()), CapturedOutput::new());
    let read = BlockIo { handle: 1, offset: 512, data: Gpa(BUFFER), len: 1024, ..BlockIo::default() };
    let puts = Puts { data: Gpa(BUFFER), len: 1024 };
    let halt = Halt { exit_status: -2, ..Halt::default() };
    let calls: &[(Number, &[u8])] =
        &[(Number::BlockRead, read.as_bytes()), (Number::Puts, puts.as_bytes()), (Number::Halt, halt.as_bytes())];
    let unikernel = guest(&[("storage", Kind::Block)], calls);
    assert_eq!(unikernel.manifest().devices()[0].name, "storage");
    let outcome = unikernel.block("storage", disk).console(console.clone()).run().unwrap();
    assert_eq!(outcome, Outcome::Exited { status: -2, cookie: None });
    assert_eq!(console.bytes(), contents[512..512 + 1024]);
}

/// Console that reports each write through a channel.
struct BellConsole(Sender<()>);

impl Console for BellConsole {
    fn write(&mut self, _: GuestSlice<'_>) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn a_stop_ends_a_guest_that_spins_or_sleeps() {
    let sleep = Poll { timeout_nsecs: u64::MAX, ..Poll::default() };
    let puts = Puts { data: Gpa(BUFFER), len: 1 };
    let spinning = &[(Number::Puts, puts.as_bytes())][..];
    let sleeping = &[(Number::Puts, puts.as_bytes()), (Number::Poll, sleep.as_bytes())];
    for calls in [spinning, sleeping] {
        let stop = CancelToken::new().unwrap();
        let (doorbell, rings) = unbounded();
        let unikernel = guest(&[], calls).stop(stop.clone()).console(BellConsole(doorbell));
        let stopper = thread::spawn(move || {
            rings.recv().unwrap();
            stop.request();
        });
        assert_eq!(unikernel.run().unwrap(), Outcome::Interrupted);
        stopper.join().unwrap();
    }
}

#[test]
fn a_stop_that_comes_early_is_not_lost() {
    let stop = CancelToken::new().unwrap();
    let unikernel = guest(&[], &[]).stop(stop.clone());
    stop.request();
    assert_eq!(unikernel.run().unwrap(), Outcome::Interrupted);
}

#[test]
fn a_device_that_is_missing_is_an_error() {
    let error = guest(&[("storage", Kind::Block)], &[]).run().unwrap_err().to_string();
    assert!(error.contains("'storage' declared but not attached"), "{error}");
}

#[test]
fn is_checked_when_it_is_loaded() {
    assert!(matches!(Unikernel::load("/dev/null"), Err(UnikernelError::Read { .. })));
    assert!(Unikernel::from_bytes(Vec::new()).is_err());
    assert!(Unikernel::from_bytes(manifest(&[])).is_err());
}

/// Disk that reports its operations through a channel and fails to flush.
struct Lossy(Sender<&'static str>);

impl Block for Lossy {
    fn capacity(&self) -> u64 {
        512
    }

    fn block_size(&self) -> u16 {
        512
    }

    fn read(&mut self, _: u64, _: GuestSlice<'_>) -> Result<(), DeviceError> {
        Err(DeviceError)
    }

    fn write(&mut self, _: u64, _: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.0.send("write").map_err(|_| DeviceError)
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        self.0.send("sync").unwrap();
        Err(DeviceError)
    }
}

#[test]
fn disks_are_synchronised_however_a_guest_ends() {
    let write = BlockIo { handle: 1, data: Gpa(BUFFER), len: 512, ..BlockIo::default() };
    let halt = Halt::default();
    let (write, halt) = ((Number::BlockWrite, write.as_bytes()), (Number::Halt, halt.as_bytes()));
    // The guest has no memory at address 8: the hypercall is invalid and ends the guest.
    let puts = Puts { data: Gpa(8), len: 200 };
    let run = |last| {
        let (sender, done) = unbounded();
        let unikernel = guest(&[("storage", Kind::Block)], &[write, last]).block("storage", Lossy(sender));
        (unikernel.run(), done.into_iter().collect::<Vec<_>>())
    };
    let (ended, done) = run(halt);
    assert!(matches!(ended, Err(UnikernelError::Unsynced)) && done == ["write", "sync"], "{done:?}");
    let (ended, done) = run((Number::Puts, puts.as_bytes()));
    assert!(matches!(ended, Ok(Outcome::Failed(_))) && done == ["write", "sync"], "{done:?}");
    let (sender, done) = unbounded();
    let stop = CancelToken::new().unwrap();
    stop.request();
    let unikernel = guest(&[("storage", Kind::Block)], &[]).block("storage", Lossy(sender)).stop(stop);
    assert_eq!(unikernel.run().unwrap(), Outcome::Interrupted);
    assert_eq!(done.into_iter().collect::<Vec<_>>(), ["sync"]);
}
