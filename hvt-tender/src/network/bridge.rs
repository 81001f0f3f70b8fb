//! Bridge between an in-memory network and a tap interface of the host.

use std::io;
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{HEADER, Port, VLAN_TAG};
use crate::cancel::CancelToken;
use crate::device::{HostInterface, Pollable};

/// Bridge between a [`Port`] and a tap interface of the host: guests on a link or a switch reach
/// the networks that the host reaches.
///
/// A dedicated thread, `hvt-bridge`, carries the frames. It ends when the bridge is dropped.
///
/// ```no_run
/// use hvt_tender::device::Tap;
/// use hvt_tender::network::{Bridge, Switch};
///
/// let switch = Switch::new();
/// let _bridge = Bridge::new(switch.port()?, Tap::attach("tap0".as_ref(), None)?)?;
/// let for_a_guest = switch.port()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bridge {
    stop: CancelToken,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Starts to carry frames between `port` and `tap`. Frames that exceed the MTU of the receiving
    /// side and frames that find its queue full are dropped.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if the port uses a virtual time, because frames of
    /// the host arrive in real time, or if the tap puts a header before its frames. Returns the
    /// error of eventfd(2) or clone(2) if the process has no descriptor or thread left.
    pub fn new(port: Port, tap: HostInterface) -> io::Result<Self> {
        if port.arrivals().is_some() {
            let what = "cannot bridge a port in virtual time to a host interface";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if !tap.is_plain() {
            let what = "cannot bridge a tap with packet headers: attach it with IFF_NO_PI and without IFF_VNET_HDR";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let stop = CancelToken::new()?;
        let ended = stop.clone();
        let carry = move || {
            if let Err(error) = carry(&port, &tap, &ended) {
                log::warn!("bridge: tap failed, no more frames are carried: {error}");
            }
        };
        let thread = thread::Builder::new().name("hvt-bridge".into()).spawn(carry)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic already.
            let _ = thread.join();
        }
    }
}

/// Carries frames in both directions until `stop` is requested or the tap fails.
fn carry(port: &Port, tap: &HostInterface, stop: &CancelToken) -> io::Result<()> {
    /// Maximum size of a frame at the largest MTU.
    const LONGEST: usize = HEADER + VLAN_TAG + u16::MAX as usize;
    let (inside, outside) = (port.endpoint(), tap.endpoint());
    let mut frame = vec![0; LONGEST];
    loop {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [watch(stop.event()), watch(inside.as_fd()), watch(outside.as_fd())];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let [stopped, from_inside, from_outside] = fds.map(|fd| fd.any().unwrap_or(true));
        if stopped {
            return Ok(());
        }
        if from_inside && let Some(frame) = port.try_receive() {
            // The write fails if the tap's queue is full or the interface is down.
            if let Err(errno) = nix::unistd::write(outside.as_fd(), &frame) {
                log::debug!("bridge: frame of {} bytes to the tap dropped: {errno}", frame.len());
            }
        }
        if from_outside {
            match nix::unistd::read(outside.as_fd(), &mut frame) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    if let Err(error) = port.send(&frame[..length]) {
                        log::debug!("bridge: frame from the tap dropped: {error}");
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Tap;
    use crate::device::testing::in_own_namespace;
    use crate::network::{Impairment, Link, Switch};
    use crate::virtual_time::VirtualTime;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::time::Duration;

    use nix::sched::CloneFlags;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn carries_frames_both_ways_until_it_is_dropped() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let outside = UnixDatagram::from(theirs);
        outside.set_read_timeout(Some(LONG)).unwrap();
        let (port, inside) = Link::new().impairment(Impairment::new().delay(Duration::from_micros(1))).ports().unwrap();
        let bridge = Bridge::new(port, Tap::from_fd(ours, None).unwrap()).unwrap();
        let mut received = [0; 2000];
        for number in 0..200 {
            inside.send(&[number; 100]).unwrap();
            outside.send(&[number; 60]).unwrap();
            // Dropped: longer than the link's MTU.
            outside.send(&[number; 1900]).unwrap();
            assert_eq!(inside.receive(LONG).unwrap(), [number; 60]);
            assert_eq!(outside.recv(&mut received).unwrap(), 100);
            assert_eq!(received[..100], [number; 100]);
        }
        drop(bridge);
        // The bridge has closed its end of the socket, possibly with unread data.
        let gone = outside.recv(&mut received).map_err(|error| error.kind());
        assert!(matches!(gone, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{gone:?}");
    }

    #[test]
    fn time_must_be_that_of_the_host() {
        let (ours, _theirs) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let port = Switch::in_virtual_time(&VirtualTime::new()).port().unwrap();
        let error = Bridge::new(port, Tap::from_fd(ours, None).unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    /// Two hosts on a switch resolve the address of the kernel behind a tap (ARP, RFC 826).
    #[test]
    fn reaches_the_kernel_through_a_tap() {
        in_own_namespace(CloneFlags::CLONE_NEWNET, || {
            for words in ["tuntap add tap0 mode tap", "addr add 10.0.0.1/24 dev tap0", "link set tap0 up"] {
                assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
            }
            let switch = Switch::new();
            let hosts = [switch.port().unwrap(), switch.port().unwrap()];
            let _bridge = Bridge::new(switch.port().unwrap(), Tap::attach("tap0".as_ref(), None).unwrap()).unwrap();
            for (host, number) in hosts.iter().zip(2..) {
                let (us, them) = ([10, 0, 0, number], [10, 0, 0, 1]);
                let arp = |operation: u8| [8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
                let request = [&[0xff; 6][..], &host.mac(), &arp(1), &host.mac(), &us, &[0; 6], &them].concat();
                // The kernel may drop frames until it has noticed that a process attached to the
                // tap: repeat the request.
                let answer = (0..600).find_map(|_| {
                    host.send(&request).unwrap();
                    let mut frames = std::iter::from_fn(|| host.receive(Duration::from_millis(50)).ok());
                    frames.find(|frame| frame[..6] == host.mac() && frame[12..22] == arp(2))
                });
                let answer = answer.expect("the kernel answers");
                assert_eq!((&answer[28..32], &answer[38..42]), (&them[..], &us[..]));
            }
        });
    }
}
