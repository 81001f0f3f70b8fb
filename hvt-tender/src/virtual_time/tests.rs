use super::*;
use crate::cancel::CancelToken;
use crate::device::testing::Buffer;
use crate::device::{Arrivals, Block, Disk, Interrupted, Pollable, Poller};
use crate::network::{Link, Port, Switch};
use std::thread;

const HOUR: u64 = 3_600_000_000_000;

struct At(AtomicU64);

impl Arrivals for At {
    fn next(&self) -> Option<u64> {
        Some(self.0.load(Ordering::SeqCst)).filter(|at| *at != u64::MAX)
    }
}

fn guest(time: &VirtualTime, devices: &[(u32, Arc<At>)]) -> (VirtualPoller, CancelToken) {
    let stop = CancelToken::new().unwrap();
    let devices = devices.iter().map(|(handle, at)| (*handle, at.clone() as Arc<dyn Arrivals>)).collect();
    (VirtualPoller::new(time.clone(), devices, stop.clone()).unwrap(), stop)
}

#[test]
fn time_moves_to_what_comes_first() {
    let time = VirtualTime::starting_at(Duration::from_secs(7));
    let frame = Arc::new(At(AtomicU64::new(5_000)));
    let (mut poller, _) = guest(&time, &[(3, frame.clone())]);
    poller.begin().unwrap();
    assert_eq!(time.elapsed(), Duration::ZERO);
    assert_eq!(poller.poll(1_000), Ok(0));
    assert_eq!(time.nanos(), 1_000);
    assert_eq!(poller.poll(u64::MAX), Ok(8));
    assert_eq!(poller.poll(HOUR), Ok(8), "until it is received");
    assert_eq!(time.nanos(), 5_000);
    frame.0.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(poller.poll(HOUR), Ok(0));
    assert_eq!(time.elapsed(), Duration::from_nanos(HOUR + 5_000));
    assert_eq!(time.wall_clock().now(), 7_000_000_000 + HOUR + 5_001, "a reading takes a nanosecond");
    assert_eq!(poller.poll(0), Ok(0));
    assert_eq!(time.nanos(), HOUR + 5_002, "and so does a poll for nothing");
}

#[test]
fn guests_take_turns() {
    let time = VirtualTime::new();
    let hold = time.hold();
    let (said, heard) = crossbeam_channel::unbounded();
    let threads: Vec<_> = [300, 200]
        .into_iter()
        .map(|nap| {
            let (mut poller, _) = guest(&time, &[]);
            let (time, said) = (time.clone(), said.clone());
            thread::spawn(move || {
                poller.begin().unwrap();
                for _ in 0..3 {
                    poller.poll(nap).unwrap();
                    said.send((nap, time.nanos())).unwrap();
                }
            })
        })
        .collect();
    assert_eq!(time.nanos(), 0);
    drop((hold, said));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let order: Vec<_> = heard.iter().collect();
    assert_eq!(order, [(200, 200), (300, 300), (200, 400), (300, 600), (200, 600), (300, 900)]);
}

#[test]
fn a_stop_ends_a_wait_that_nothing_else_ends() {
    let time = VirtualTime::new();
    let frames = Arc::new(At(AtomicU64::new(u64::MAX)));
    let (mut sleeper, stop) = guest(&time, &[(1, frames)]);
    let (mut other, _) = guest(&time, &[]);
    let sleeping = thread::spawn(move || {
        sleeper.begin().unwrap();
        assert_eq!(sleeper.poll(u64::MAX), Err(Interrupted));
    });
    other.begin().unwrap();
    assert_eq!(other.poll(HOUR), Ok(0));
    stop.request();
    sleeping.join().unwrap();
    assert_eq!(other.poll(HOUR), Ok(0), "without the other");
}

/// Other guests have their turns while a guest waits for a slow disk.
#[test]
fn a_slow_disk_takes_virtual_time() {
    let time = VirtualTime::new();
    let disk = Disk::empty(512).virtual_time(&time);
    disk.slow_down(Duration::from_secs(3600));
    let read = |mut disk: Disk| Buffer::zeroed(512).with(|slice| disk.read(0, slice)).unwrap();
    read(disk.clone());
    assert_eq!(time.nanos(), HOUR, "time passes without a guest too");
    let hold = time.hold();
    let ((mut reader, stop), (mut other, _)) = (guest(&time, &[]), guest(&time, &[]));
    let reading = thread::spawn({
        let (time, disk) = (time.clone(), disk.clone());
        move || {
            reader.begin().unwrap();
            read(disk.clone());
            let first = time.nanos();
            read(disk);
            (first, reader)
        }
    });
    drop(hold);
    other.begin().unwrap();
    assert_eq!(other.poll(HOUR / 2), Ok(0));
    assert_eq!(time.nanos(), HOUR + HOUR / 2);
    assert_eq!(other.poll(HOUR), Ok(0));
    assert_eq!(time.nanos(), 2 * HOUR + HOUR / 2);
    // A guest that has been requested to stop does not wait for the disk.
    stop.request();
    let (first, _reader) = reading.join().unwrap();
    assert_eq!(first, 2 * HOUR);
}

/// Ports of a link in virtual time: one for a guest and one for the test.
fn linked(time: &VirtualTime) -> (Port, Port) {
    Link::new().virtual_time(time).ports().unwrap()
}

/// Starts a guest with this port that polls with an infinite timeout. Returns whether it ended
/// asleep.
fn waits_for_ever(time: &VirtualTime, port: Option<Port>) -> thread::JoinHandle<bool> {
    let arrivals = port.iter().map(|port| (1, port.arrivals().unwrap())).collect();
    let mut poller = VirtualPoller::new(time.clone(), arrivals, CancelToken::new().unwrap()).unwrap();
    thread::spawn(move || {
        let _port = port;
        poller.begin().unwrap();
        // The largest deadline in signed nanoseconds since 1970.
        while poller.poll(i64::MAX as u64 - 1_735_689_600_000_000_000).is_ok_and(|ready| ready == 0) {}
        poller.asleep()
    })
}

#[test]
fn a_guest_that_nothing_can_wake_ends() {
    let time = VirtualTime::new();
    assert!(waits_for_ever(&time, None).join().unwrap());
    // Even while other guests are busy, and while the clock is held.
    let (mut busy, _) = guest(&time, &[]);
    let sleeping = waits_for_ever(&time, None);
    busy.begin().unwrap();
    assert_eq!(busy.poll(1000), Ok(0));
    let hold = time.hold();
    assert!(sleeping.join().unwrap());
    drop(hold);
    assert_eq!(busy.poll(1000), Ok(0));
}

#[test]
fn possible_senders_keep_a_guest_waiting() {
    let time = VirtualTime::new();
    let (port, other) = linked(&time);
    let sleeping = waits_for_ever(&time, Some(port));
    let (port, third) = linked(&time);
    let woken = waits_for_ever(&time, Some(port));
    third.send(&[1; 60]).unwrap();
    assert!(!woken.join().unwrap(), "woken by a frame");
    assert!(!sleeping.is_finished());
    drop(other);
    assert!(sleeping.join().unwrap());
    // A switch can create a port.
    let switch = Switch::in_virtual_time(&time);
    let sleeping = waits_for_ever(&time, Some(switch.port().unwrap()));
    let other = switch.port().unwrap();
    drop(switch);
    assert!(!sleeping.is_finished());
    drop(other);
    assert!(sleeping.join().unwrap());
    let switch = Switch::in_virtual_time(&time);
    let sleeping = waits_for_ever(&time, Some(switch.port().unwrap()));
    assert!(!sleeping.is_finished());
    drop(switch.clone());
    assert!(!sleeping.is_finished());
    drop(switch);
    assert!(sleeping.join().unwrap());
}

#[test]
fn guests_that_wait_for_each_other_end_together() {
    let time = VirtualTime::new();
    let hold = time.hold();
    let (first, second) = linked(&time);
    let (third, test) = linked(&time);
    let pair = [first, second].map(|port| waits_for_ever(&time, Some(port)));
    let last = waits_for_ever(&time, Some(third));
    drop(hold);
    // The test's port could wake the last guest.
    assert!(pair.iter().chain([&last]).all(|guest| !guest.is_finished()));
    drop(test);
    for guest in pair.into_iter().chain([last]) {
        assert!(guest.join().unwrap());
    }
    // A guest that sleeps for an hour may still send a frame; it then ends without having sent one.
    let (first, second) = linked(&time);
    let hold = time.hold();
    let (mut busy, _stop) = {
        let arrivals = vec![(1, second.arrivals().unwrap())];
        let stop = CancelToken::new().unwrap();
        (VirtualPoller::new(time.clone(), arrivals, stop.clone()).unwrap(), stop)
    };
    let sleeping = waits_for_ever(&time, Some(first));
    drop(hold);
    busy.begin().unwrap();
    assert_eq!(busy.poll(HOUR), Ok(0));
    assert!(!sleeping.is_finished());
    drop(busy);
    drop(second);
    assert!(sleeping.join().unwrap());
}
