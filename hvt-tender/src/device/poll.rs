//! Sleep of a guest on a host: `ppoll` on its network devices.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Interrupted, Poller};
use crate::cancel::CancelToken;
use crate::sys::sleep::{self, ppoll};

/// Descriptor of a network device, shared by the device and the poller of the guest. It must be
/// readable exactly while a frame is waiting.
#[derive(Debug)]
pub struct Endpoint {
    source: Arc<dyn Source>,
    gone: AtomicBool,
}

impl Endpoint {
    /// Creates an endpoint that owns `fd`.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self::of(Arc::new(fd))
    }

    /// An endpoint that is readable when `source` is.
    pub(crate) fn of(source: Arc<dyn Source>) -> Self {
        Self { source, gone: AtomicBool::new(false) }
    }

    /// Marks the network as disconnected: no more frames will arrive. Pollers then stop watching
    /// the descriptor, which would otherwise stay readable forever.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// Owner of a descriptor that becomes readable.
pub(crate) trait Source: AsFd + fmt::Debug + Send + Sync {}

impl<T: AsFd + fmt::Debug + Send + Sync> Source for T {}

/// Network device that a guest can wait for.
pub trait Pollable {
    /// Returns the descriptor that is readable while a frame is waiting.
    fn endpoint(&self) -> Arc<Endpoint>;

    /// Returns the arrival times of frames, for a device in virtual time.
    fn arrivals(&self) -> Option<Arc<dyn Arrivals>> {
        None
    }
}

/// Arrival times of the frames of a network device in virtual time.
pub trait Arrivals: Send + Sync {
    /// Returns the arrival time of the first frame that is not received yet, in nanoseconds of
    /// virtual time.
    fn next(&self) -> Option<u64>;

    /// Returns the senders that may still send a frame to the device.
    fn senders(&self) -> Senders {
        Senders::Anything
    }

    /// Sets whether a guest in the same virtual time uses the device.
    fn set_in_guest(&self, _in_guest: bool) {}
}

/// Senders of frames to a network device in virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Senders {
    /// No sender is left, and none can be created.
    None,
    /// Guests in the same virtual time.
    Guests,
    /// A sender outside of virtual time: a port that a test holds, or a switch that can create
    /// ports.
    Anything,
}

/// Waits for frames, for a timeout, and for a [cancelled](CancelToken) run.
///
/// On Linux, creating a poller sets the timer slack of the calling thread to 1 ns, so the thread
/// that polls must create it. Linux's default slack of 50 us would prolong every sleep of a guest.
pub(crate) struct FdPoller {
    stop: CancelToken,
    watched: Vec<Watched>,
    /// Descriptors of `stop`, then of `watched` in order (-1 once an endpoint is gone), then of
    /// [`CancelToken::ended`] if there is one. Those fields keep the descriptors open.
    fds: Vec<libc::pollfd>,
}

/// Endpoint with the handle of its device.
struct Watched {
    handle: u32,
    endpoint: Arc<Endpoint>,
}

impl FdPoller {
    /// Watches these endpoints, each with the handle of its device. Endpoints with a handle of 64
    /// or more are ignored.
    #[must_use]
    pub(crate) fn new(stop: CancelToken, endpoints: impl IntoIterator<Item = (u32, Arc<Endpoint>)>) -> Self {
        sleep::prepare();
        // The poll result has no bit for a larger handle, so its endpoint would end every sleep
        // without being reported.
        let endpoints = endpoints.into_iter().filter(|(handle, _)| *handle < u64::BITS);
        let watched: Vec<_> = endpoints.map(|(handle, endpoint)| Watched { handle, endpoint }).collect();
        let fds = std::iter::once(stop.event().as_raw_fd())
            .chain(watched.iter().map(|watched| watched.endpoint.as_fd().as_raw_fd()))
            .map(watch)
            .collect();
        Self { stop, watched, fds }
    }

    /// Returns whether the last `ppoll` reported that the run is cancelled or the guest's process
    /// has exited.
    fn interrupted(&self) -> bool {
        let ended = self.fds.get(1 + self.watched.len());
        self.fds.first().into_iter().chain(ended).any(|fd| fd.revents != 0)
    }

    /// Returns the handles that the last `ppoll` reported as ready.
    fn ready_set(&mut self) -> u64 {
        let mut ready = 0;
        for (watched, fd) in self.watched.iter().zip(&mut self.fds[1..]) {
            if fd.revents == 0 {
                continue;
            }
            // Errors and hang-ups are reported on every poll. As long as there is data to read,
            // they are ignored.
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
                    // Only endpoints that are no longer watched were reported.
                    0 => {}
                    ready => return Ok(ready),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The guest cannot cause this error; the kernel may be out of memory.
                    log::error!("cannot wait for network devices: {error}");
                    return Err(Interrupted);
                }
            }
            if self.stop.requested() {
                return Err(Interrupted);
            }
        }
    }

    /// Watches the guest's process too, if there is one. It exists by now.
    fn begin(&mut self) -> Result<(), Interrupted> {
        self.fds.truncate(1 + self.watched.len());
        self.fds.extend(self.stop.ended().map(|ended| watch(ended.as_raw_fd())));
        Ok(())
    }
}

/// End of a sleep.
struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    fn after(nanoseconds: u64) -> Self {
        Self { start: Instant::now(), timeout: Duration::from_nanos(nanoseconds) }
    }

    /// Returns the remaining time, zero after the end.
    fn left(&self) -> Duration {
        if self.timeout.is_zero() { Duration::ZERO } else { self.timeout.saturating_sub(self.start.elapsed()) }
    }
}

/// Returns the timeout of the next `ppoll` if `left` remains.
///
/// Independent of the timer slack, Linux lets a `ppoll` oversleep by a thousandth of its timeout
/// (0.1 s at most), to save wake-ups. A long sleep is therefore shortened a little, and a second,
/// short one sleeps the rest.
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
    fn sleeps_for_the_timeout() {
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

    /// A frame that arrives while the guest sleeps wakes the guest.
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
