use super::*;
use std::thread;

use crossbeam_channel::{Sender, unbounded};
use hvt_abi::Gpa;
use hvt_abi::hypercall::{BlockIo, Halt, Number, Poll, Puts};
use hvt_abi::manifest::Kind;
use zerocopy::IntoBytes;

use crate::backend::auto::FOR_TESTS;
use crate::device::{CapturedOutput, DeviceError, Disk};
use crate::gdb::Debugger;
use crate::image::fixture::manifest;
use crate::memory::GuestSlice;
use crate::network::Switch;
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
        let unikernel = guest(&[], calls).cancel_token(stop.clone()).console(BellConsole(doorbell));
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
    let unikernel = guest(&[], &[]).cancel_token(stop.clone());
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
    let unikernel = guest(&[("storage", Kind::Block)], &[]).block("storage", Lossy(sender)).cancel_token(stop);
    assert_eq!(unikernel.run().unwrap(), Outcome::Interrupted);
    assert_eq!(done.into_iter().collect::<Vec<_>>(), ["sync"]);
}

/// Guest that prints the first byte of its only argument and exits with status 0.
fn prints_and_exits() -> Unikernel {
    let puts = Puts { data: Gpa(CALLS_DATA), len: 1 };
    guest(&[], &[(Number::Puts, puts.as_bytes()), (Number::Halt, Halt::default().as_bytes())])
}

#[test]
fn runs_as_often_as_one_likes() {
    let console = CapturedOutput::new();
    let unikernel = prints_and_exits().console(console.clone()).clock(SystemClock);
    for runs in 1..=3 {
        assert_eq!(unikernel.run().unwrap(), Outcome::Exited { status: 0, cookie: None });
        assert_eq!(console.bytes().len(), runs);
    }
    let (first, second) = (unikernel.spawn().unwrap(), unikernel.clone().spawn().unwrap());
    assert_eq!([first.wait().unwrap().console.len(), second.wait().unwrap().console.len()], [1, 1]);
    assert_eq!(console.bytes().len(), 5);
}

/// A device, a console, a sink, a debugger and a token serve one run, of any clone.
#[test]
fn a_part_for_one_run_is_not_there_for_the_next() {
    let spent = |unikernel: Unikernel| {
        let clone = unikernel.clone();
        unikernel.run().unwrap();
        let Err(error) = clone.run() else { panic!("run") };
        error.to_string()
    };
    let halt = Halt::default();
    let halt: &[(Number, &[u8])] = &[(Number::Halt, halt.as_bytes())];
    let (sender, _done) = unbounded();
    let disk = guest(&[("storage", Kind::Block)], halt).block("storage", Lossy(sender));
    assert!(matches!(disk.run(), Err(UnikernelError::Unsynced)));
    let error = disk.run().unwrap_err();
    assert!(
        matches!(&error, UnikernelError::Spent { part: RunPart::Block { name } } if name == "storage"),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "block device 'storage': used by another run: give each run its own");
    let net = guest(&[("service", Kind::Net)], halt).net("service", Switch::new().port().unwrap());
    assert_eq!(spent(net), "net device 'service': used by another run: give each run its own");
    let shared = CancelToken::new().unwrap();
    let token = prints_and_exits().cancel_token(shared.clone());
    assert_eq!(spent(token), "cancel token: used by another run: give each run its own");
    let other = prints_and_exits().cancel_token(shared).run().unwrap_err();
    assert!(matches!(other, UnikernelError::Spent { part: RunPart::CancelToken }), "{other:?}");
    let trace = prints_and_exits().trace(io::sink());
    assert_eq!(spent(trace), "trace: used by another run: give each run its own");
    let (doorbell, _rings) = unbounded();
    let console = prints_and_exits().console(BellConsole(doorbell));
    assert_eq!(spent(console), "console: used by another run: give each run its own");
    let debugger = Debugger::listen("127.0.0.1:0").unwrap();
    let address = debugger.address().unwrap();
    let token = CancelToken::new().unwrap();
    let debugged = prints_and_exits().debugger(debugger);
    let first = debugged.clone().cancel_token(token.clone());
    token.request();
    assert_eq!(first.run().unwrap(), Outcome::Interrupted);
    assert_eq!(debugged.run().unwrap_err().to_string(), "debugger: used by another run: give each run its own");
    assert!(std::net::TcpStream::connect(address).is_err(), "the first run has closed its port");
}

#[test]
fn each_run_gets_a_device_of_its_own() {
    let write = BlockIo { handle: 1, data: Gpa(BUFFER), len: 512, ..BlockIo::default() };
    let halt = Halt::default();
    let made: &[(Number, &[u8])] = &[(Number::BlockWrite, write.as_bytes()), (Number::Halt, halt.as_bytes())];
    let (sender, disks) = unbounded();
    let unikernel = guest(&[("storage", Kind::Block)], made).block_from("storage", move || {
        let disk = Disk::from_bytes([7; 512]);
        sender.send(disk.clone()).map(|()| disk)
    });
    for _ in 0..2 {
        unikernel.output().unwrap().assert_success();
    }
    let contents: Vec<_> = disks.try_iter().map(|disk| disk.contents().unwrap()).collect();
    assert_eq!(contents.len(), 2);
    drop(disks);
    let error = unikernel.run().unwrap_err();
    assert!(
        matches!(&error, UnikernelError::Make { part: RunPart::Block { name }, .. } if name == "storage"),
        "{error:?}"
    );
}

#[test]
fn its_configuration_can_be_printed() {
    let unikernel = prints_and_exits().arg("--verbose").block("storage", Disk::empty(512));
    let text = format!("{unikernel:?}");
    for words in ["--verbose", r#"Block { name: "storage" }"#, "memory: 4194304", "cancel_token: None"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
