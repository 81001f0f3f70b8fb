use super::*;
use crate::cancel::CancelToken;
use crate::device::testing::Buffer;
use crate::device::{FdPoller, Poller};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use tempfile::TempDir;

/// Returns a path that no other test uses.
fn place() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cable");
    (folder, path)
}

fn attach(path: &Path) -> UnixNet {
    UnixNet::attach(path, None).unwrap()
}

fn send(from: &mut UnixNet, byte: u8) {
    Buffer::of(&[byte; 60]).in_pieces(|slice| from.send(slice)).unwrap();
}

/// Returns whether a frame of these bytes arrives within a minute, while the guest polls.
fn comes(to: &mut UnixNet, byte: u8) -> bool {
    let mut poller = FdPoller::new(CancelToken::new().unwrap(), [(1, to.endpoint())]);
    let buffer = Buffer::zeroed(100);
    while poller.poll(60_000_000_000).unwrap() != 0 {
        if let Some(len) = buffer.in_pieces(|slice| to.receive(slice)).unwrap() {
            return buffer.bytes()[..len as usize] == [byte; 60];
        }
    }
    false
}

fn is_quiet(net: &mut UnixNet) -> bool {
    Buffer::zeroed(100).with(|slice| net.receive(slice)) == Ok(None)
        && FdPoller::new(CancelToken::new().unwrap(), [(1, net.endpoint())]).poll(1000) == Ok(0)
}

#[test]
fn only_two_tenders_meet() {
    let (_folder, path) = place();
    let mut first = attach(&path);
    assert!(path.exists() && is_quiet(&mut first));
    send(&mut first, 0);
    let mut second = attach(&path);
    assert!(!path.exists() && first.mac() != second.mac());
    // Frames sent before the second tender connected are lost.
    assert!(is_quiet(&mut second));
    send(&mut second, 1);
    assert!(comes(&mut first, 1));
    send(&mut first, 2);
    assert!(comes(&mut second, 2) && is_quiet(&mut first) && is_quiet(&mut second));
    let mut third = attach(&path);
    let mut fourth = attach(&path);
    send(&mut third, 3);
    assert!(comes(&mut fourth, 3) && is_quiet(&mut first) && is_quiet(&mut second));
}

#[test]
fn the_remaining_tender_waits_for_the_next() {
    let (_folder, path) = place();
    let (mut first, second) = (attach(&path), attach(&path));
    let next = |mut left: UnixNet, gone: UnixNet, byte| {
        drop(gone);
        // The tender notices at its next poll.
        assert!(is_quiet(&mut left) && path.exists());
        let mut next = attach(&path);
        send(&mut next, byte);
        assert!(comes(&mut left, byte));
        (left, next)
    };
    send(&mut first, 1);
    let (first, third) = next(first, second, 2);
    // Now the tender that connected is left.
    let (mut third, fourth) = next(third, first, 3);
    drop(fourth);
    // Or the tender notices when it sends.
    send(&mut third, 4);
    assert!(path.exists());
    // The next tender may come first.
    let (mut third, mut fifth) = (third, attach(&path));
    drop(fifth);
    fifth = attach(&path);
    send(&mut third, 5);
    send(&mut third, 6);
    assert!(comes(&mut fifth, 6), "the frame at which it noticed is lost");
    drop(third);
    drop(fifth);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_a_killed_tender_left_is_taken_away() {
    let (_folder, path) = place();
    let address = UnixAddr::new(&path).unwrap();
    let dead = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(dead.as_raw_fd(), &address).unwrap();
    drop(dead);
    assert!(path.exists());
    let (mut first, mut second) = (attach(&path), attach(&path));
    send(&mut first, 1);
    assert!(comes(&mut second, 1));
}

#[test]
fn many_at_once_find_a_partner_each() {
    let (_folder, path) = place();
    let nets: Vec<_> = (0..16)
        .map(|_| {
            thread::spawn({
                let path = path.clone();
                move || attach(&path)
            })
        })
        .collect();
    let mut nets: Vec<_> = nets.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(nets.iter_mut().all(|net| net.other_end().is_some()));
    nets.iter_mut().for_each(|net| send(net, 7));
    assert!(nets.iter_mut().all(|net| comes(net, 7)));
    assert!(!path.exists());
}

#[test]
fn a_slow_reader_loses_frames_and_nothing_else() {
    let (_folder, path) = place();
    let (mut first, mut second) = (attach(&path), attach(&path));
    assert!(is_quiet(&mut first));
    for _ in 0..10_000 {
        send(&mut first, 1);
    }
    assert!(comes(&mut second, 1));
    assert_eq!(Buffer::zeroed(13).with(|slice| first.send(slice)), Err(DeviceError));
    assert_eq!(Buffer::zeroed(16 << 20).with(|slice| first.send(slice)), Err(DeviceError));
    send(&mut second, 2);
    assert!(comes(&mut first, 2));
}

#[test]
fn says_what_is_wrong_with_a_path() {
    let (folder, path) = place();
    let problem = |path: &Path| {
        let error = UnixNet::attach(path, None).unwrap_err();
        assert!(!error.to_string().contains('\n'));
        error.problem
    };
    fs::write(&path, "words").unwrap();
    assert!(matches!(problem(&path), Problem::NoSocket));
    assert_eq!(fs::read(&path).unwrap(), b"words");
    assert!(matches!(problem(&folder.path().join("none/cable")), Problem::Folder(_)));
    assert!(matches!(problem(&folder.path().join("x".repeat(200))), Problem::Name));
    let stream = folder.path().join("stream");
    let _listener = UnixListener::bind(&stream).unwrap();
    assert!(matches!(problem(&stream), Problem::Foreign));
    assert!(matches!(problem(folder.path()), Problem::NoSocket), "a folder");
}

/// A lock that is never released must delay neither the start nor the end of a guest.
#[test]
fn another_programs_lock_holds_up_the_cable_and_nothing_else() {
    let (folder, path) = place();
    let lock = File::open(folder.path()).unwrap();
    lock.lock().unwrap();
    let mut first = attach(&path);
    send(&mut first, 1);
    assert!(!path.exists() && matches!(first.plug, Plug::Loose));
    assert!(first.warning.is_failing());
    let waiting = thread::spawn(move || (comes(&mut first, 2), first));
    lock.unlock().unwrap();
    // The sleeping guest's device also listens or connects at the path.
    let mut second = attach(&path);
    while !path.exists() && second.other_end().is_none() {
        thread::yield_now();
    }
    while second.other_end().is_none() {
        thread::yield_now();
    }
    send(&mut second, 2);
    let (came, first) = waiting.join().unwrap();
    assert!(came && !first.warning.is_failing());
    // The same after a disconnect: once while the lock is held, once at the end of both.
    lock.lock().unwrap();
    let mut left = second;
    drop(first);
    assert!(Buffer::zeroed(100).with(|slice| left.receive(slice)) == Ok(None) && matches!(left.plug, Plug::Loose));
    let waiting = thread::spawn(move || (comes(&mut left, 3), left));
    lock.unlock().unwrap();
    let mut next = attach(&path);
    while next.other_end().is_none() {
        thread::yield_now();
    }
    send(&mut next, 3);
    let (came, left) = waiting.join().unwrap();
    assert!(came);
    drop(left);
    assert!(is_quiet(&mut next) && path.exists());
    lock.lock().unwrap();
    drop(next);
    assert!(path.exists(), "its socket is left to the next tender");
    lock.unlock().unwrap();
    let (mut first, mut second) = (attach(&path), attach(&path));
    // A child of another test holds the old socket between fork and exec. The first tender can meet
    // that socket, whose frames are lost, before it meets the second tender.
    let waiting = thread::spawn(move || comes(&mut second, 4));
    while !waiting.is_finished() {
        send(&mut first, 4);
        thread::yield_now();
    }
    assert!(waiting.join().unwrap());
}

/// Opening a FIFO waits for a writer.
#[test]
fn a_folder_that_is_none_is_an_error() {
    let (folder, _) = place();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = UnixNet::attach(fifo.join("cable"), None).unwrap_err();
    assert!(matches!(error.problem, Problem::Folder(_)), "{error}");
}

/// A guest that sends faster than the other one receives is slowed down, and no frame is lost.
#[test]
fn the_slower_end_sets_the_pace() {
    const FRAMES: u32 = 5000;
    let (_folder, path) = place();
    let (mut receiver, mut sender) = (attach(&path), attach(&path));
    // As long as a receiver may be kept from its CPU.
    sender.back_pressure = 60_000;
    assert!(receiver.other_end().is_some());
    let sending = thread::spawn(move || {
        let buffer = Buffer::zeroed(1514);
        for number in 0..FRAMES {
            buffer.fill(&[&number.to_ne_bytes()[..], &[0; 1510]].concat());
            buffer.with(|slice| sender.send(slice)).unwrap();
        }
        sender
    });
    let mut poller = FdPoller::new(CancelToken::new().unwrap(), [(1, receiver.endpoint())]);
    let buffer = Buffer::zeroed(1514);
    let mut next = 0;
    while next < FRAMES {
        assert_ne!(poller.poll(60_000_000_000), Ok(0), "frame {next} is lost");
        while let Some(len) = buffer.with(|slice| receiver.receive(slice)).unwrap() {
            let number = u32::from_ne_bytes(buffer.bytes()[..4].try_into().unwrap());
            assert_eq!((len, number), (1514, next), "frames are lost");
            next += 1;
        }
    }
    sending.join().unwrap();
}

/// A receiver that has stopped slows the sender down once, not with each frame.
#[test]
fn an_end_that_receives_nothing_is_waited_for_once() {
    let (_folder, path) = place();
    let (mut receiver, mut sender) = (attach(&path), attach(&path));
    sender.back_pressure = 1;
    assert!(receiver.other_end().is_some());
    while !sender.stuck {
        send(&mut sender, 1);
    }
    sender.back_pressure = u16::MAX;
    for _ in 0..1000 {
        send(&mut sender, 2);
    }
    assert!(sender.stuck && comes(&mut receiver, 1));
    while Buffer::zeroed(100).with(|slice| receiver.receive(slice)).unwrap().is_some() {}
    send(&mut sender, 3);
    assert!(!sender.stuck && comes(&mut receiver, 3));
}
