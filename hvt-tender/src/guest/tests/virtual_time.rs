//! Guests in virtual time, which only the process backend supports.

use std::sync::{Arc, Mutex};

use hvt_abi::hypercall::{BlockIo, NetIo};
use hvt_abi::manifest::Kind;

use super::*;
use crate::config::BackendChoice;
use crate::device::Disk;
use crate::measure::{Limit, Limits};
use crate::network::{Impairment, Link};
use crate::script::fixture::looping;
use crate::virtual_time::VirtualTime;

const HOUR: u64 = 3_600_000_000_000;

#[test]
fn an_hour_of_virtual_time_passes_in_no_time() {
    let (nap, halt) = (Poll { timeout_nsecs: HOUR, ..Poll::default() }, Halt::default());
    let made: &[(Number, &[u8])] = &[(Number::Poll, nap.as_bytes()), (Number::Halt, halt.as_bytes())];
    let time = VirtualTime::new();
    let output = guest(made).virtual_time(&time).output().unwrap();
    assert_eq!(output.status(), Some(0));
    assert_eq!(time.elapsed(), Duration::from_nanos(HOUR));
    assert!(output.wall_time < Duration::from_millis(50), "{output:?}");
}

#[test]
fn a_kill_ends_a_guest_that_waits_for_its_turn_or_for_ever() {
    let sleep = sleep();
    let sleeping = &[(Number::Poll, sleep.as_bytes())];
    let time = VirtualTime::new();
    // A frame may arrive at any time.
    let (port, _peer) = Link::new().virtual_time(&time).ports().unwrap();
    let for_ever = Unikernel::from_bytes(calls(&[("service", Kind::Net)], sleeping)).unwrap().mem(4 << 20);
    let for_ever = for_ever.net("service", port).virtual_time(&time).spawn().unwrap();
    let hold = time.hold();
    let held = guest(sleeping).virtual_time(&time).spawn().unwrap();
    for guest in [held, for_ever] {
        guest.kill();
        assert_eq!(guest.wait().unwrap().outcome, Outcome::Interrupted);
    }
    drop(hold);
    let halt = Halt::default();
    let output = guest(&[(Number::Halt, halt.as_bytes())]).virtual_time(&time).output().unwrap();
    assert_eq!(output.status(), Some(0), "the turn was passed on");
}

/// A guest without devices ends by itself, because its caller has no handle that could end it.
#[test]
fn a_guest_that_nothing_can_wake_ends() {
    let sleep = sleep();
    let time = VirtualTime::new();
    let output = guest(&[(Number::Poll, sleep.as_bytes())]).virtual_time(&time).output().unwrap();
    assert_eq!(output.outcome, Outcome::Asleep);
    assert_eq!(time.elapsed(), Duration::ZERO);
    // A guest that waits for an infinitely slow disk ends in the same way.
    let read = BlockIo { handle: 1, data: Gpa(CALLS_DATA + 0x1000), len: 512, ..BlockIo::default() };
    let disk = Disk::empty(512).virtual_time(&time);
    disk.slow_down(Duration::MAX);
    let reader = calls(&[("storage", Kind::Block)], &[(Number::BlockRead, read.as_bytes())]);
    let reader = Unikernel::from_bytes(reader).unwrap().mem(4 << 20).block("storage", disk).virtual_time(&time);
    assert_eq!(reader.output().unwrap().outcome, Outcome::Asleep);
}

/// A disk can be infinitely slow in real time, too.
#[test]
fn a_kill_ends_a_guest_that_waits_for_its_disk() {
    let read = BlockIo { handle: 1, data: Gpa(CALLS_DATA + 0x1000), len: 512, ..BlockIo::default() };
    let file = calls(&[("storage", Kind::Block)], &[(Number::BlockRead, read.as_bytes())]);
    let disk = Disk::empty(512);
    disk.slow_down(Duration::MAX);
    let reader = || Unikernel::from_bytes(file.clone()).unwrap().mem(4 << 20).block("storage", disk.clone());
    let guest = reader().spawn().unwrap();
    guest.kill();
    assert_eq!(guest.wait().unwrap().outcome, Outcome::Interrupted);
    let limits = Limits::new().wall_time(Duration::from_millis(20));
    assert_eq!(reader().limits(limits).output().unwrap().outcome, Outcome::Exceeded(Limit::WallTime));
}

#[test]
fn real_time_networks_and_kvm_are_rejected() {
    let time = VirtualTime::new();
    let file = calls(&[("service", Kind::Net)], &[]);
    let (port, _other) = Link::new().ports().unwrap();
    let unikernel = Unikernel::from_bytes(file).unwrap().backend(BackendChoice::Process);
    let error = unikernel.net("service", port).virtual_time(&time).spawn().unwrap_err();
    assert!(error.to_string().contains("'service' does not run in virtual time"), "{error}");
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        let error = guest(&[]).backend(BackendChoice::Kvm).virtual_time(&time).spawn().unwrap_err();
        assert_eq!(error.to_string(), "backend kvm does not support a virtual time; the process backend does");
    }
}

/// Shared buffer that can be read while the trace writes to it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[test]
fn a_trace_has_one_line_a_call() {
    let nap = Poll { timeout_nsecs: 1000, ..Poll::default() };
    let (said, wrong) = (puts(3), Puts { data: Gpa(0), len: 1 });
    let made: &[(Number, &[u8])] = &[
        (Number::Puts, said.as_bytes()),
        (Number::Walltime, &[0; 8]),
        (Number::Poll, nap.as_bytes()),
        (Number::Puts, wrong.as_bytes()),
    ];
    let trace = Shared::default();
    let time = VirtualTime::starting_at(Duration::ZERO);
    let output = guest(made).virtual_time(&time).trace(trace.clone()).output().unwrap();
    assert!(matches!(output.outcome, Outcome::Failed(_)));
    let expected = format!(
        r#"{{"number":2,"name":"puts","time":0,"argument":{a},"arguments":{{"data":{a},"len":3,"digest":"d916a2186be0e1f7"}},"result":{{}}}}
{{"number":1,"name":"walltime","time":0,"argument":{b},"arguments":{{}},"result":{{"nsecs":1}}}}
{{"number":3,"name":"poll","time":1,"argument":{c},"arguments":{{"timeout_nsecs":1000}},"result":{{"ready_set":0,"ret":0}}}}
{{"number":2,"name":"puts","time":1001,"argument":{d},"arguments":{{"data":0,"len":1}},"result":{{"invalid":true}}}}
"#,
        a = CALLS_DATA,
        b = CALLS_DATA + 256,
        c = CALLS_DATA + 512,
        d = CALLS_DATA + 768,
    );
    assert_eq!(trace.text(), expected);
}

/// Data written to a disk and read back has the same digest, and a received frame has the digest of
/// its bytes.
#[test]
fn a_trace_has_digests_of_transferred_data() {
    let buffer = Gpa(CALLS_DATA + 0x1000);
    let write = BlockIo { handle: 1, data: Gpa(CALLS_DATA & !0xfff), len: 512, ..BlockIo::default() };
    let read = BlockIo { data: buffer, ..write };
    let (refused, beyond) = (BlockIo { handle: 7, ..write }, BlockIo { data: Gpa(0), ..write });
    let send = NetIo { handle: 2, data: buffer, len: 60, ..NetIo::default() };
    let made: &[(Number, &[u8])] = &[
        (Number::BlockWrite, write.as_bytes()),
        (Number::BlockRead, read.as_bytes()),
        (Number::NetWrite, send.as_bytes()),
        (Number::NetRead, send.as_bytes()),
        (Number::NetRead, send.as_bytes()),
        (Number::BlockRead, refused.as_bytes()),
        (Number::BlockWrite, beyond.as_bytes()),
    ];
    let file = calls(&[("storage", Kind::Block), ("service", Kind::Net)], made);
    let time = VirtualTime::new();
    let (port, peer) = Link::new().virtual_time(&time).ports().unwrap();
    peer.send(&[7; 60]).unwrap();
    let trace = Shared::default();
    let unikernel = Unikernel::from_bytes(file).unwrap().mem(4 << 20).virtual_time(&time).trace(trace.clone());
    unikernel.block("storage", Disk::empty(512)).net("service", port).output().unwrap();
    let text = trace.text();
    let digests: Vec<_> = text
        .lines()
        .map(|line| {
            let (call, result) = line.split_once("\"result\"").unwrap();
            [call, result].map(|part| part.split_once("\"digest\":\"").map(|(_, rest)| &rest[..16]))
        })
        .collect();
    let [[Some(written), None], [None, Some(came)], [Some(_), None], [None, Some(received)], rest @ ..] = &digests[..]
    else {
        panic!("{text}")
    };
    assert_eq!(written, came);
    // FNV-1a of 60 bytes with the value 7.
    assert_eq!(*received, "b10414e46915edb9");
    assert_eq!(rest, [[None, None], [None, None], [None, None]], "no frame, no device, no memory");
}

/// Returns the traces of two guests that send each other `frames` frames each.
fn exchange(frames: u32, seed: u64) -> [String; 2] {
    let time = VirtualTime::new();
    let impairment = Impairment::new().loss(0.1).duplication(0.01).delay(Duration::from_micros(50)).seed(seed);
    let (a, b) = Link::new().impairment(impairment).virtual_time(&time).ports().unwrap();
    let frame = NetIo { handle: 1, data: Gpa(CALLS_DATA + 0x1000), len: 60, ..NetIo::default() };
    let nap = Poll { timeout_nsecs: 100_000, ..Poll::default() };
    let halt = Halt::default();
    let looped: &[(Number, &[u8])] =
        &[(Number::NetWrite, frame.as_bytes()), (Number::Poll, nap.as_bytes()), (Number::NetRead, frame.as_bytes())];
    let file = looping(&[("service", Kind::Net)], frames, looped, &[(Number::Halt, halt.as_bytes())]);
    let traces = [Shared::default(), Shared::default()];
    let hold = time.hold();
    let guests = [a, b].into_iter().zip(&traces).map(|(port, trace)| {
        let unikernel = Unikernel::from_bytes(file.clone()).unwrap().backend(BackendChoice::Process).mem(4 << 20);
        unikernel.net("service", port).virtual_time(&time).trace(trace.clone()).spawn().unwrap()
    });
    let guests: Vec<_> = guests.collect();
    drop(hold);
    for guest in guests {
        let output = guest.wait().unwrap();
        assert_eq!(output.status(), Some(0));
        assert_eq!(output.calls.of(Number::NetWrite).count, u64::from(frames));
    }
    traces.map(|trace| trace.text())
}

#[test]
fn the_same_seed_gives_the_same_traces() {
    let first = exchange(5_000, 7);
    // The successful writes match the pattern as well.
    let received = |trace: &String| trace.matches("\"len\":60,\"ret\":0").count() - 5_000;
    let counts = [received(&first[0]), received(&first[1])];
    assert!(counts.iter().all(|count| (4_200..4_900).contains(count)), "{counts:?}");
    assert!(first == exchange(5_000, 7));
    assert!(first != exchange(5_000, 8));
}
