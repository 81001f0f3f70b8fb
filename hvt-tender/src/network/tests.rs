use super::*;

use std::thread;
use std::time::{Duration, Instant};

use crate::cancel::CancelToken;
use crate::device::testing::Buffer;
use crate::device::{FdPoller, Net, Pollable, Poller};
use crate::virtual_time::VirtualTime;

const LONG: Duration = Duration::from_secs(20);

fn frame(to: [u8; 6], from: [u8; 6], number: u32) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xb5], &number.to_be_bytes()].concat()
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

fn pair(impairment: Impairment) -> (Port, Port) {
    Link::new().impairment(impairment).queue(100_000).ports().unwrap()
}

/// Sends `frames` numbered frames and returns the numbers of the received frames in order of
/// arrival.
fn exchange(impairment: Impairment, frames: u32) -> Vec<u32> {
    let (a, b) = pair(impairment);
    (0..frames).for_each(|number| a.send(&frame(b.mac(), a.mac(), number)).unwrap());
    std::iter::from_fn(|| b.receive(Duration::from_millis(20)).ok()).map(|frame| number(&frame)).collect()
}

#[test]
fn a_link_carries_frames_both_ways() {
    let (a, b) = pair(Impairment::new());
    assert_ne!(a.mac(), b.mac());
    a.send(&frame(b.mac(), a.mac(), 1)).unwrap();
    b.send(&frame(a.mac(), b.mac(), 2)).unwrap();
    assert_eq!(number(&b.receive(LONG).unwrap()), 1);
    assert_eq!(number(&a.receive(LONG).unwrap()), 2);
    assert_eq!(a.receive(Duration::from_millis(1)).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    for wrong in [0, 13, 1519] {
        assert!(a.send(&vec![0; wrong]).is_err());
    }
    a.send(&[0; 1518]).unwrap();
}

#[test]
fn full_queues_lose_what_comes() {
    let (a, b) = Link::new().queue(2).ports().unwrap();
    (0..3).for_each(|number| a.send(&frame(b.mac(), a.mac(), number)).unwrap());
    assert_eq!([b.try_receive(), b.try_receive(), b.try_receive()].iter().flatten().count(), 2);
}

#[test]
fn a_seed_decides_the_fate_of_every_frame() {
    let impairment = Impairment::new().loss(0.1).duplication(0.05).seed(7);
    let first = exchange(impairment.clone(), 10_000);
    assert!((9_000..10_000).contains(&first.len()), "{}", first.len());
    assert!(first.windows(2).any(|two| two[0] == two[1]) && first.is_sorted());
    assert!(first == exchange(impairment.clone(), 10_000));
    assert!(first != exchange(impairment.seed(8), 10_000));
    assert!(exchange(Impairment::new().loss(1.0), 100).is_empty());
    assert_eq!(exchange(Impairment::new().duplication(1.0), 2), [0, 0, 1, 1]);
}

/// No value panics, and a frame with an infinite delay never arrives.
#[test]
fn extreme_impairments() {
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 2.0, f64::MIN_POSITIVE];
    let longest = [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(i64::MAX as u64)];
    for (number, delay) in longest.into_iter().enumerate() {
        let probability = odd[number];
        let impairment = Impairment::new().delay(delay).reordering(1.0).duplication(probability).seed(u64::MAX);
        for time in [None, Some(VirtualTime::new())] {
            let link = Link::new().impairment(impairment.clone()).mtu(u16::MAX).queue(usize::MAX);
            let link = time.iter().fold(link, |link, time| link.virtual_time(time));
            let (a, b) = link.ports().unwrap();
            a.send(&[1; 60]).unwrap();
            assert_eq!(b.try_receive(), None);
            if time.is_none() {
                let mut poller = FdPoller::new(CancelToken::new().unwrap(), [(1, b.endpoint())]);
                assert_eq!(poller.poll(1_000_000), Ok(0));
            }
            assert!(b.arrivals().is_none_or(|arrivals| arrivals.next().is_none()));
        }
    }
    for probability in odd {
        let impairment = Impairment::new().loss(probability).duplication(probability).reordering(probability);
        let (a, b) = Link::new().impairment(impairment).queue(0).mtu(0).ports().unwrap();
        a.send(&[1; 14]).unwrap();
        assert_eq!(b.receive(Duration::ZERO).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }
    let (a, b) = Link::new().ports().unwrap();
    a.send(&[1; 60]).unwrap();
    assert_eq!(b.receive(Duration::MAX).unwrap(), [1; 60]);
}

#[test]
fn frames_overtake_each_other() {
    let numbers = exchange(Impairment::new().reordering(0.3).seed(1), 50);
    assert!(!numbers.is_sorted() && numbers.len() == 50, "{numbers:?}");
}

#[test]
fn a_delayed_frame_wakes_the_poller_on_arrival() {
    const DELAY: Duration = Duration::from_millis(20);
    let (a, mut b) = pair(Impairment::new().delay(DELAY));
    let mut poller = FdPoller::new(CancelToken::new().unwrap(), [(3, b.endpoint())]);
    let start = Instant::now();
    a.send(&frame(b.mac(), a.mac(), 1)).unwrap();
    a.send(&frame(b.mac(), a.mac(), 2)).unwrap();
    assert_eq!(poller.poll(0), Ok(0));
    assert_eq!(poller.poll(u64::MAX), Ok(8));
    assert!(start.elapsed() >= DELAY);
    let buffer = Buffer::zeroed(1518);
    assert_eq!(buffer.with(|slice| Net::receive(&mut b, slice)), Ok(Some(18)));
    assert_eq!(poller.poll(u64::MAX), Ok(8));
    assert_eq!(b.receive(LONG).map(|frame| number(&frame)).unwrap(), 2);
    assert_eq!(poller.poll(0), Ok(0));
}

/// A poll reports every queued frame, and reports none while the queue is empty, with a concurrent
/// sender.
#[test]
fn readiness_follows_the_queue() {
    const FRAMES: u32 = 20_000;
    let (a, b) = Link::new().queue(4).ports().unwrap();
    let mut poller = FdPoller::new(CancelToken::new().unwrap(), [(1, b.endpoint())]);
    let to = b.mac();
    let sender = thread::spawn(move || {
        (0..=FRAMES).for_each(|number| a.send(&frame(to, a.mac(), number)).unwrap());
        // The queue may have been full for the last frame: it is sent again until it is received.
        a
    });
    let mut last = None;
    let mut sender = Some(sender);
    let mut sending = None;
    while last != Some(FRAMES) {
        if let Some(thread) = sender.take_if(|thread| thread.is_finished()) {
            sending = Some(thread.join().unwrap());
        }
        if let Some(a) = &sending {
            a.send(&frame(to, a.mac(), FRAMES)).unwrap();
        }
        if poller.poll(1_000_000).unwrap() == 2 {
            let number = number(&b.try_receive().expect("a frame is there"));
            assert!(last.is_none_or(|last| last <= number));
            last = Some(number);
        }
    }
    while b.try_receive().is_some() {}
    assert_eq!(poller.poll(0), Ok(0));
}

#[test]
fn a_switch_learns_where_addresses_are() {
    let switch = Switch::new();
    let ports: Vec<Port> = (0..3).map(|_| switch.port().unwrap()).collect();
    let [a, b, c] = &ports[..] else { panic!("three ports") };
    let heard = || [a, b, c].map(|port| port.try_receive().map(|frame| number(&frame)));
    a.send(&frame(b.mac(), a.mac(), 1)).unwrap();
    assert_eq!(heard(), [None, Some(1), Some(1)], "b's port is unknown");
    b.send(&frame(a.mac(), b.mac(), 2)).unwrap();
    assert_eq!(heard(), [Some(2), None, None]);
    a.send(&frame(b.mac(), a.mac(), 3)).unwrap();
    assert_eq!(heard(), [None, Some(3), None]);
    c.send(&frame([0xff; 6], c.mac(), 4)).unwrap();
    assert_eq!(heard(), [Some(4), Some(4), None]);
    c.send(&frame(c.mac(), c.mac(), 5)).unwrap();
    assert_eq!(heard(), [None; 3], "to itself");
    // An address moves to another port.
    c.send(&frame(a.mac(), b.mac(), 6)).unwrap();
    a.send(&frame(b.mac(), a.mac(), 7)).unwrap();
    assert_eq!(heard(), [Some(6), None, Some(7)]);
    // Frames to the address of a dropped port are flooded.
    let (a_mac, b_mac) = (a.mac(), b.mac());
    let mut ports = ports.into_iter();
    let (a, b) = (ports.next().unwrap(), ports.next().unwrap());
    drop(ports);
    a.send(&frame(b_mac, a_mac, 8)).unwrap();
    assert_eq!(b.try_receive().map(|frame| number(&frame)), Some(8));
}

#[test]
fn a_recording_holds_what_passed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (a, b) = pair(Impairment::new());
    let a = a.with_pcap(file.path()).unwrap();
    let (sent, received) = (frame(b.mac(), a.mac(), 1), frame(a.mac(), b.mac(), 2));
    a.send(&sent).unwrap();
    b.send(&received).unwrap();
    a.receive(LONG).unwrap();
    let recorded = std::fs::read(file.path()).unwrap();
    assert_eq!(recorded.len(), 24 + 2 * (16 + 18));
    assert_eq!(recorded[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
    assert_eq!(recorded[20..24], [1, 0, 0, 0]);
    assert_eq!(recorded[32..40], [18, 0, 0, 0, 18, 0, 0, 0]);
    assert_eq!((&recorded[40..58], &recorded[74..]), (&sent[..], &received[..]));
    assert!(a.with_pcap("/nothing/here").is_err());
}
