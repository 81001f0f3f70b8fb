use super::*;
use crate::device::testing::Buffer;
use crate::device::{Arrivals, Block, Disk, Interrupted, Poller};
use crate::stop::Stop;
use std::sync::mpsc;
use std::thread;

const HOUR: u64 = 3_600_000_000_000;

struct At(AtomicU64);

impl Arrivals for At {
    fn next(&self) -> Option<u64> {
        Some(self.0.load(Ordering::SeqCst)).filter(|at| *at != u64::MAX)
    }
}

fn guest(time: &VirtualTime, devices: &[(u32, Arc<At>)]) -> (VirtualPoller, Stop) {
    let stop = Stop::new().unwrap();
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
    assert_eq!(poller.poll(HOUR), Ok(8), "until it is taken");
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
    let (said, heard) = mpsc::channel();
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
    let (mut sleeper, stop) = guest(&time, &[]);
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

/// A guest that waits for a slow disk waits as any other does: the others have their turns meanwhile.
#[test]
fn a_slow_disk_takes_virtual_time() {
    let time = VirtualTime::new();
    let disk = Disk::empty(512).virtual_time(&time);
    disk.slow_down(Duration::from_secs(3600));
    let read = |mut disk: Disk| Buffer::zeroed(512).with(|slice| disk.read(0, slice)).unwrap();
    read(disk.clone());
    assert_eq!(time.nanos(), HOUR, "where there is no guest time passes as well");
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
    // Whoever is to end does not wait any more.
    stop.request();
    let (first, _reader) = reading.join().unwrap();
    assert_eq!(first, 2 * HOUR);
}
