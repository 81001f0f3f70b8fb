//! How a guest sleeps on a host: `ppoll` over its network devices.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Interrupted, Poller};
use crate::cancel::CancelToken;
use crate::sys::sleep::{self, ppoll};

/// The descriptor of a network device, shared by the device and the guest's [`FdPoller`]. It must be readable exactly
/// while a frame is waiting.
#[derive(Debug)]
pub struct Endpoint {
    fd: OwnedFd,
    gone: AtomicBool,
}

impl Endpoint {
    /// An endpoint that owns `fd`.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, gone: AtomicBool::new(false) }
    }

    /// Says that no frame will come any more: the network hung up. A poller then stops watching it, where it would
    /// otherwise be told for ever that there is something to read.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A network device that a guest can wait for.
pub trait Pollable {
    /// What is readable while a frame is waiting.
    fn endpoint(&self) -> Arc<Endpoint>;

    /// When its frames arrive, if it lives in a virtual time.
    fn arrivals(&self) -> Option<Arc<dyn Arrivals>> {
        None
    }
}

/// A network device in a virtual time, which knows when its frames arrive.
pub trait Arrivals: Send + Sync {
    /// When the first frame arrives or has arrived that has not been taken, in nanoseconds of that time.
    fn next(&self) -> Option<u64>;

    /// Senders that may still send a frame to the device.
    fn senders(&self) -> Senders {
        Senders::Anything
    }

    /// Tells the device whether a guest of its time has it.
    fn set_in_guest(&self, _in_guest: bool) {}
}

/// Senders of frames to a network device in a virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Senders {
    /// No sender is left, and none can be made.
    None,
    /// Guests that live in the same time.
    Guests,
    /// A sender that the time knows nothing of: a port in a test's hands, or a switch that makes new ports.
    Anything,
}

/// Waits for frames, for time to pass, and for the run to be [stopped](CancelToken).
///
/// On Linux, making one sets the timer slack of the calling thread, which is to be the one that polls, to 1 ns: with Linux's usual
/// 50 us every sleep of a guest would be as much longer.
pub struct FdPoller {
    stop: CancelToken,
    watched: Vec<Watched>,
    /// First that of `stop`, then those of `watched` in order, -1 once an endpoint is gone, then that of [`CancelToken::ended`] if there
    /// is one. These keep the descriptors open.
    fds: Vec<libc::pollfd>,
}

/// An endpoint and the handle of its device.
struct Watched {
    handle: u32,
    endpoint: Arc<Endpoint>,
}

impl FdPoller {
    /// Watches these endpoints, each with the handle of its device. Those with a handle of 64 or more are left out.
    #[must_use]
    pub fn new(stop: CancelToken, endpoints: impl IntoIterator<Item = (u32, Arc<Endpoint>)>) -> Self {
        sleep::prepare();
        // A handle that no guest can be told of would end every sleep and be reported by none.
        let endpoints = endpoints.into_iter().filter(|(handle, _)| *handle < u64::BITS);
        let watched: Vec<_> = endpoints.map(|(handle, endpoint)| Watched { handle, endpoint }).collect();
        let fds = std::iter::once(stop.event().as_raw_fd())
            .chain(watched.iter().map(|watched| watched.endpoint.fd.as_raw_fd()))
            .map(watch)
            .collect();
        Self { stop, watched, fds }
    }

    /// Whether the run is to end, or what runs the guest has, by the answer of the kernel.
    fn interrupted(&self) -> bool {
        let ended = self.fds.get(1 + self.watched.len());
        self.fds.first().into_iter().chain(ended).any(|fd| fd.revents != 0)
    }

    /// What is ready by the answer of the kernel.
    fn ready_set(&mut self) -> u64 {
        let mut ready = 0;
        for (watched, fd) in self.watched.iter().zip(&mut self.fds[1..]) {
            if fd.revents == 0 {
                continue;
            }
            // Errors and hang-ups are reported for as long as one asks. While there is still something to read they
            // can wait.
            let hung_up = watched.endpoint.gone.load(Ordering::Relaxed) || fd.revents == libc::POLLHUP;
            if hung_up {
                fd.fd = -1;
                log::info!("the network behind the device with handle {} has hung up", watched.handle);
            } else if fd.revents & libc::POLLIN == 0 {
                fd.fd = -1;
                log::warn!("the network device with handle {} is gone", watched.handle);
            } else {
                ready |= 1u64.checked_shl(watched.handle).unwrap_or(0);
            }
        }
        ready
    }
}

fn watch(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

impl Poller for FdPoller {
    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted> {
        let end = Deadline::after(timeout);
        loop {
            let left = end.left();
            match ppoll(&mut self.fds, nap(left)) {
                Ok(0) if left.is_zero() => return Ok(0),
                Ok(0) => {}
                Ok(_) if self.interrupted() => return Err(Interrupted),
                Ok(_) => match self.ready_set() {
                    // Only what is not watched from now on has said something.
                    0 => {}
                    ready => return Ok(ready),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Nothing that a guest does leads here: the kernel has no memory left, say.
                    log::error!("cannot wait for network devices: {error}");
                    return Err(Interrupted);
                }
            }
            if self.stop.requested() {
                return Err(Interrupted);
            }
        }
    }

    /// Watches the guest's process as well, if there is one: it exists by now.
    fn begin(&mut self) -> Result<(), Interrupted> {
        self.fds.truncate(1 + self.watched.len());
        self.fds.extend(self.stop.ended().map(|ended| watch(ended.as_raw_fd())));
        Ok(())
    }
}

/// When a sleep ends.
struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    fn after(nanoseconds: u64) -> Self {
        Self { start: Instant::now(), timeout: Duration::from_nanos(nanoseconds) }
    }

    /// What is left of the sleep: zero once it is over.
    fn left(&self) -> Duration {
        if self.timeout.is_zero() { Duration::ZERO } else { self.timeout.saturating_sub(self.start.elapsed()) }
    }
}

/// How long to sleep at once when `left` is left to sleep.
///
/// Whatever the timer slack, Linux lets a `ppoll` oversleep by a thousandth of its timeout, to save wake-ups (0.1 s at
/// most). A long sleep is therefore cut a little short, and the rest is slept in a second, short one.
fn nap(left: Duration) -> Duration {
    if left < Duration::from_millis(1) { left } else { left - left / 512 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::pipe;
    use std::thread;

    use nix::unistd::{read, write};

    const SECOND: u64 = 1_000_000_000;

    fn endpoint() -> (Arc<Endpoint>, OwnedFd) {
        let (reader, writer) = pipe();
        (Arc::new(Endpoint::new(reader)), writer)
    }

    fn poller(endpoints: impl IntoIterator<Item = (u32, Arc<Endpoint>)>) -> FdPoller {
        FdPoller::new(CancelToken::new().unwrap(), endpoints)
    }

    #[test]
    fn sleeps_as_long_as_it_is_told_to() {
        let mut poller = poller([]);
        for timeout in [0, 1, 1000, 1_000_000, 20_000_000, 20_000_001] {
            let start = Instant::now();
            assert_eq!(poller.poll(timeout), Ok(0));
            assert!(start.elapsed() >= Duration::from_nanos(timeout), "{timeout} ns");
        }
    }

    #[test]
    fn a_device_stays_ready_until_it_is_read() {
        let (endpoint, writer) = endpoint();
        let mut poller = poller([(63, endpoint.clone())]);
        assert_eq!(poller.poll(0), Ok(0));
        write(&writer, b"x").unwrap();
        for timeout in [0, SECOND, u64::MAX] {
            assert_eq!(poller.poll(timeout), Ok(1 << 63));
        }
        read(endpoint.as_fd(), &mut [0]).unwrap();
        assert_eq!(poller.poll(0), Ok(0));
    }

    #[test]
    fn tells_63_devices_apart() {
        let (endpoints, writers): (Vec<_>, Vec<_>) = (0..63).map(|_| endpoint()).unzip();
        let mut poller = poller((1..).zip(endpoints));
        for index in [0, 1, 30, 31, 32, 62] {
            write(&writers[index], b"x").unwrap();
        }
        let handles = [1, 2, 31, 32, 33, 63];
        assert_eq!(poller.poll(u64::MAX), Ok(handles.iter().map(|handle| 1 << handle).sum()));
    }

    #[test]
    fn a_stop_ends_every_sleep() {
        let (endpoint, _writer) = endpoint();
        let stop = CancelToken::new().unwrap();
        let mut poller = FdPoller::new(stop.clone(), [(1, endpoint)]);
        let sleeping = thread::spawn(move || {
            assert_eq!(poller.poll(u64::MAX), Err(Interrupted));
            poller
        });
        stop.request();
        let mut poller = sleeping.join().unwrap();
        assert_eq!(poller.poll(0), Err(Interrupted));
    }

    #[test]
    fn the_end_of_the_guests_process_ends_a_sleep() {
        let (process, alive) = pipe();
        let stop = CancelToken::new().unwrap();
        let mut poller = FdPoller::new(stop.clone(), [(1, endpoint().0)]);
        stop.set_ended(Arc::new(process));
        assert_eq!(poller.begin(), Ok(()));
        assert_eq!(poller.poll(0), Ok(0));
        drop(alive);
        assert_eq!(poller.poll(u64::MAX), Err(Interrupted));
    }

    #[test]
    fn a_handle_that_is_none_ends_no_sleep() {
        let (endpoint, writer) = endpoint();
        let mut poller = poller([(64, endpoint.clone())]);
        write(&writer, b"x").unwrap();
        assert_eq!(poller.poll(1000), Ok(0));
    }

    /// A frame that comes while the guest sleeps wakes it.
    #[test]
    fn a_frame_ends_a_sleep() {
        let (endpoint, writer) = endpoint();
        let mut poller = poller([(1, endpoint)]);
        let sleeping = thread::spawn(move || poller.poll(u64::MAX));
        write(&writer, b"x").unwrap();
        assert_eq!(sleeping.join().unwrap(), Ok(2));
    }

    #[test]
    fn what_hung_up_is_watched_no_longer() {
        let (first, first_writer) = endpoint();
        let (second, second_writer) = endpoint();
        let mut poller = poller([(1, first), (2, second.clone())]);
        write(&second_writer, b"x").unwrap();
        drop((first_writer, second_writer));
        assert_eq!(poller.poll(u64::MAX), Ok(4), "what was sent before the hang-up can still be read");
        read(second.as_fd(), &mut [0]).unwrap();
        assert_eq!(poller.poll(1000), Ok(0));
    }

    #[test]
    fn a_network_that_says_it_is_gone_is_watched_no_longer() {
        let (endpoint, writer) = endpoint();
        let mut poller = poller([(1, endpoint.clone())]);
        write(&writer, b"x").unwrap();
        endpoint.set_gone();
        assert_eq!(poller.poll(1000), Ok(0));
    }
}
