//! Network device on a tap interface of the host.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use super::interface::Interface;
use super::tap::{self, Attached, Problem};
use crate::device::frame_fd::FrameFd;
use crate::device::{Descriptor, DeviceError, Endpoint, Net, Pollable, Uses, random_mac};
use crate::memory::GuestSlice;

/// Tap interface of the host, or a socket with one frame per message, as a network device of the
/// guest.
#[derive(Debug)]
pub struct Tap {
    frames: FrameFd,
    mac: [u8; 6],
    mtu: u16,
}

impl Tap {
    /// Attaches to the tap or macvtap interface `name`, which must exist and be up. The device gets
    /// the interface's MTU. Its hardware address is `mac`, or by default a random one. The default
    /// for a macvtap is the interface's own address, because a macvtap receives only frames for
    /// that address.
    ///
    /// # Errors
    /// Returns [`TapError`] if the interface cannot be attached.
    pub fn attach(name: &OsStr, mac: Option<[u8; 6]>) -> Result<Self, TapError> {
        let label = format!("network interface {}", name.display());
        Self::new(tap::by_name(name), label, mac)
    }

    /// Takes a descriptor that is attached to a tap (`IFF_TAP`), is the open node of a macvtap, or
    /// is a socket with message boundaries. The descriptor becomes non-blocking. The MTU is the
    /// interface's, or 1500 if the interface cannot be queried. Packet information and virtio
    /// headers before the frames of a tap stay enabled; the guest does not see them.
    ///
    /// # Errors
    /// Returns [`TapError`] if the descriptor is of another kind.
    pub fn from_fd(fd: OwnedFd, mac: Option<[u8; 6]>) -> Result<Self, TapError> {
        let label = match Interface::of(fd.as_fd()) {
            Ok((interface, _)) => format!("descriptor of network interface {}", interface.name().display()),
            Err(_) => format!("network descriptor {}", fd.as_raw_fd()),
        };
        Self::new(tap::by_descriptor(fd), label, mac)
    }

    fn new(attached: Result<Attached, Problem>, label: String, mac: Option<[u8; 6]>) -> Result<Self, TapError> {
        let result = attached.and_then(|attached| {
            let mac = mac.or(attached.mac).map_or_else(random_mac, Ok)?;
            Ok((attached, mac))
        });
        match result {
            Ok((Attached { fd, mtu, mac: own, headers }, mac)) => {
                if own.is_some_and(|own| own != mac) {
                    log::warn!("{label}: a macvtap receives only broadcasts and frames for its own hardware address");
                }
                Ok(Self { frames: FrameFd::new(fd, label, headers), mac, mtu })
            }
            Err(problem) => Err(TapError { label, problem }),
        }
    }
}

impl Tap {
    /// Returns whether the descriptor carries frames without headers.
    pub(crate) fn is_plain(&self) -> bool {
        self.frames.headers() == 0
    }
}

impl Pollable for Tap {
    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(self.frames.endpoint())
    }
}

impl Net for Tap {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.frames.send(frame)
    }

    fn second_end(&self) -> Option<Box<dyn Net + Send>> {
        Some(Box::new(Self { frames: self.frames.second_end(), mac: self.mac, mtu: self.mtu }))
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        self.frames.receive(into)
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        vec![Descriptor::new(&**self.frames.endpoint(), Uses::READ | Uses::WRITE)]
    }
}

/// Network device that cannot be attached.
#[derive(Debug)]
pub struct TapError {
    /// Name of the interface or descriptor.
    pub label: String,
    /// Reason for the failure.
    pub problem: Problem,
}

/// The reason completes the text, and its cause is the source.
impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.label, self.problem)
    }
}

impl Error for TapError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::CancelToken;
    use crate::device::testing::{Buffer, in_own_namespace, pipe};
    use crate::device::{FdPoller, Poller};
    use std::io;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use nix::sched::CloneFlags;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn attach(name: &str) -> Result<Tap, TapError> {
        Tap::attach(OsStr::new(name), Some(MAC))
    }

    fn problem(result: Result<Tap, TapError>) -> Problem {
        let error = result.unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
        error.problem
    }

    /// Runs `ip` with these words in this thread's network namespace.
    fn ip(words: &str) {
        let status = Command::new("ip").args(words.split(' ')).status().expect("iproute2 is needed");
        assert!(status.success(), "ip {words}: {status}");
    }

    /// Returns a device on one end of a socket pair, and the other end.
    fn pair(kind: SockType) -> (Tap, UnixDatagram) {
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Tap::from_fd(ours, Some(MAC)).unwrap(), theirs.into())
    }

    #[test]
    fn carries_one_frame_a_call() {
        for kind in [SockType::Datagram, SockType::SeqPacket] {
            let (mut tap, network) = pair(kind);
            assert_eq!((tap.mac(), tap.mtu()), (MAC, 1500));
            let buffer = Buffer::zeroed(9000);
            assert_eq!(buffer.with(|slice| tap.receive(slice)), Ok(None));
            network.send(&[1; 60]).unwrap();
            network.send(&[2; 9000]).unwrap();
            network.send(&[3; 9001]).unwrap();
            assert_eq!(buffer.with(|slice| tap.receive(slice)), Ok(Some(60)));
            assert!(buffer.bytes().iter().take(61).eq([[1; 60].as_slice(), &[0]].concat().iter()));
            assert_eq!(buffer.in_pieces(|slice| tap.receive(slice)), Ok(Some(9000)));
            assert_eq!(buffer.bytes(), [2; 9000]);
            assert_eq!(buffer.with(|slice| tap.receive(slice)), Ok(Some(9000)), "its end is lost");
            assert_eq!(buffer.with(|slice| tap.receive(slice)), Ok(None));
            let frame: Vec<u8> = (0..8192).map(|index| (index / 32) as u8).collect();
            Buffer::of(&frame).with(|slice| tap.send(slice)).unwrap();
            Buffer::of(&frame).in_pieces(|slice| tap.send(slice)).unwrap();
            let mut received = [0; 10_000];
            for _ in 0..2 {
                assert_eq!(network.recv(&mut received).unwrap(), 8192);
                assert_eq!(received[..8192], frame);
            }
        }
    }

    #[test]
    fn what_is_shorter_than_a_header_is_no_frame() {
        let (mut tap, network) = pair(SockType::Datagram);
        network.set_nonblocking(true).unwrap();
        for len in [0, 1, 13] {
            assert_eq!(Buffer::zeroed(len).with(|slice| tap.send(slice)), Err(DeviceError));
        }
        assert_eq!(network.recv(&mut [0; 100]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(Buffer::zeroed(14).with(|slice| tap.send(slice)), Ok(()));
    }

    #[test]
    fn a_full_network_drops_frames() {
        let (mut tap, network) = pair(SockType::Datagram);
        let frame = Buffer::zeroed(1000);
        for _ in 0..10_000 {
            frame.with(|slice| tap.send(slice)).unwrap();
        }
        assert!(tap.frames.is_failing());
        assert_eq!(network.recv(&mut [0; 2000]).unwrap(), 1000);
    }

    #[test]
    fn a_network_that_hung_up_wakes_no_poller() {
        let (mut tap, network) = pair(SockType::SeqPacket);
        let mut poller = FdPoller::new(CancelToken::new().unwrap(), [(1, tap.endpoint())]);
        network.send(&[1; 60]).unwrap();
        drop(network);
        let buffer = Buffer::zeroed(100);
        assert_eq!(poller.poll(0), Ok(2));
        assert_eq!(buffer.with(|slice| tap.receive(slice)), Ok(Some(60)));
        assert_eq!(buffer.with(|slice| tap.receive(slice)), Ok(None));
        assert_eq!(poller.poll(1000), Ok(0));
        assert_eq!(buffer.with(|slice| tap.send(slice)), Err(DeviceError));
    }

    #[test]
    fn refuses_descriptors_that_carry_no_frames() {
        let (reader, writer) = pipe();
        assert!(matches!(problem(Tap::from_fd(reader, None)), Problem::OneWay));
        assert!(matches!(problem(Tap::from_fd(writer, None)), Problem::OneWay));
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(problem(Tap::from_fd(stream.into(), None)), Problem::NoFrames));
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(problem(Tap::from_fd(file.into(), None)), Problem::NoFrames));
    }

    #[test]
    fn random_addresses_are_local_and_unicast() {
        let macs = [(); 16].map(|()| random_mac().unwrap());
        assert!(macs.iter().all(|mac| mac[0] & 3 == 2));
        assert!(macs.iter().any(|mac| mac != &macs[0]));
    }

    #[test]
    fn attaches_to_a_tap() {
        in_own_namespace(CloneFlags::CLONE_NEWNET, || {
            ip("tuntap add tap0 mode tap");
            assert!(matches!(problem(attach("tap0")), Problem::Down(name) if name == "tap0"));
            ip("link set tap0 mtu 1400 up");
            let tap = attach("tap0").unwrap();
            assert_eq!((tap.mtu(), tap.mac()), (1400, MAC));
            assert!(matches!(problem(attach("tap0")), Problem::Busy));
            // As a descriptor that another process attached.
            let fd = tap.endpoint().as_fd().try_clone_to_owned().unwrap();
            let tap = Tap::from_fd(fd, None).unwrap();
            assert_eq!(tap.mtu(), 1400);
            assert!(tap.frames.label().contains("tap0"), "{}", tap.frames.label());
            // From a namespace in which the name refers to another interface, and from one without
            // such an interface.
            let mtu_elsewhere = |make: &'static str| {
                let fd = tap.endpoint().as_fd().try_clone_to_owned().unwrap();
                let asked = in_own_namespace(CloneFlags::CLONE_NEWNET, move || {
                    make.split(';').filter(|words| !words.is_empty()).for_each(ip);
                    Tap::from_fd(fd, None).unwrap().mtu()
                });
                asked.unwrap()
            };
            assert_eq!(mtu_elsewhere("tuntap add tap0 mode tap;link set tap0 mtu 1300 up"), 1400);
            assert_eq!(mtu_elsewhere(""), 1400);
        });
    }

    #[test]
    fn says_what_is_wrong_with_an_interface() {
        in_own_namespace(CloneFlags::CLONE_NEWNET, || {
            ip("link set lo up");
            ip("tuntap add tun0 mode tun");
            ip("link set tun0 up");
            assert!(matches!(problem(attach("lo")), Problem::NotATap));
            assert!(matches!(problem(attach("tun0")), Problem::NotATap));
            assert!(matches!(problem(attach("tap7")), Problem::Missing(name) if name == "tap7"));
            assert!(matches!(problem(attach("a15letterslong0")), Problem::Missing(_)));
            for name in ["", "a16letterslong00", "tap%d", "lo:1", "a/b", "a\0b"] {
                assert!(matches!(problem(attach(name)), Problem::Name), "{name}");
            }
        });
    }

    #[test]
    fn refuses_a_tun() {
        in_own_namespace(CloneFlags::CLONE_NEWNET, || {
            let fd = tap::attached_with("tun0", libc::IFF_TUN | libc::IFF_NO_PI);
            assert!(matches!(problem(Tap::from_fd(fd, None)), Problem::Packets));
        });
    }

    /// The guest does not see the headers before the frames of a tap.
    #[test]
    fn headers_before_frames_are_not_for_the_guest() {
        in_own_namespace(CloneFlags::CLONE_NEWNET, || {
            let (virtio, plain) = (libc::IFF_VNET_HDR, libc::IFF_NO_PI);
            for (number, flags) in [plain, 0, plain | virtio, virtio, libc::IFF_MULTI_QUEUE].into_iter().enumerate() {
                let name = format!("tap{number}");
                let tap = Tap::from_fd(tap::attached_with(&name, libc::IFF_TAP | flags), Some(MAC)).unwrap();
                let headers = [0, 4, 10, 14, 4][number];
                assert_eq!((tap.frames.headers(), tap.is_plain()), (headers, headers == 0), "{name}");
                ip(&format!("addr add 10.0.{number}.1/24 dev {name}"));
                ip(&format!("link set {name} up"));
                resolves(tap, number as u8);
            }
        });
    }

    #[test]
    fn attaches_to_one_of_many_queues() {
        in_own_namespace(CloneFlags::CLONE_NEWNET, || {
            ip("tuntap add many0 mode tap multi_queue");
            ip("addr add 10.0.0.1/24 dev many0");
            ip("link set many0 up");
            resolves(attach("many0").unwrap(), 0);
        });
    }

    /// Frames of a macvtap go to the other end of a veth pair.
    #[test]
    fn attaches_to_a_macvtap() {
        in_own_namespace(CloneFlags::CLONE_NEWNET, || {
            if !make_macvtap() {
                return;
            }
            let tap = attach_without_address("mvt0");
            assert_eq!(tap.mtu(), 1400);
            resolves(tap, 0);
            // Opened like a shell does: with a virtio header before each frame.
            let index = std::fs::read_dir("/dev").unwrap().filter_map(|entry| {
                let name = entry.unwrap().file_name().into_string().unwrap();
                name.strip_prefix("tap").filter(|number| number.parse::<u32>().is_ok()).map(str::to_owned)
            });
            let opened =
                index.map(|index| std::fs::File::options().read(true).write(true).open(format!("/dev/tap{index}")));
            let is_ours =
                |fd: &OwnedFd| Interface::of(fd.as_fd()).is_ok_and(|(interface, _)| interface.name() == "mvt0");
            let fd = opened.filter_map(|node| Some(OwnedFd::from(node.ok()?))).find(is_ours).expect("a node");
            let tap = Tap::from_fd(fd, None).unwrap();
            assert_eq!((tap.frames.headers(), tap.mtu()), (0, 1400));
            resolves(tap, 0);
            ip("link set mvt0 down");
            assert!(matches!(problem(attach("mvt0")), Problem::Down(_)));
        });
    }

    /// Creates the macvtap `mvt0` on one end of a veth pair; the other end has the address
    /// 10.0.0.1. Returns whether this kernel supports macvtap. In continuous integration it must.
    fn make_macvtap() -> bool {
        ip("link add veth0 type veth peer name veth1");
        let add = "link add link veth0 name mvt0 type macvtap mode bridge";
        let made = Command::new("ip").args(add.split(' ')).output().expect("iproute2 is needed");
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(
                std::env::var_os("CI").is_none(),
                "this test creates a macvtap, which this kernel does not support: {why}"
            );
            std::eprintln!("SKIPPED: this test creates a macvtap, which this kernel does not support: {why}");
            return false;
        }
        ip("addr add 10.0.0.1/24 dev veth1");
        for name in ["veth0", "veth1", "mvt0"] {
            ip(&format!("link set {name} mtu 1400 up"));
        }
        true
    }

    fn attach_without_address(name: &str) -> Tap {
        Tap::attach(OsStr::new(name), None).unwrap()
    }

    /// Sends an ARP request (RFC 826) for 10.0.`net`.1, the address of the kernel on the other side
    /// of the tap.
    fn resolves(mut tap: Tap, net: u8) {
        let mac = tap.mac();
        let mut poller = FdPoller::new(CancelToken::new().unwrap(), [(1, tap.endpoint())]);
        let (us, them) = ([10, 0, net, 2], [10, 0, net, 1]);
        let arp = |operation: u8| [0, 1, 8, 0, 6, 4, 0, operation];
        let request = [&[0xff; 6], &mac[..], &[8, 6], &arp(1), &mac, &us, &[0; 6], &them].concat();
        let buffer = Buffer::zeroed(1514);
        // The kernel may drop frames until it has noticed the attachment, so the request is
        // repeated.
        let answer = (0..100).find_map(|_| {
            Buffer::of(&request).in_pieces(|slice| tap.send(slice)).unwrap();
            while poller.poll(50_000_000).unwrap() != 0 {
                while let Some(len) = buffer.in_pieces(|slice| tap.receive(slice)).unwrap() {
                    let frame = buffer.bytes()[..len as usize].to_vec();
                    if frame[..6] == mac && frame[12..22] == [&[8, 6], &arp(2)[..]].concat() {
                        return Some(frame);
                    }
                }
            }
            None
        });
        let answer = answer.expect("the kernel answers");
        assert_eq!((&answer[28..32], &answer[38..42]), (&them[..], &us[..]));
    }

    /// The kernel on the other side of a tap answers an ARP request for its address (RFC 826).
    #[test]
    fn talks_to_the_kernel_through_a_tap() {
        in_own_namespace(CloneFlags::CLONE_NEWNET, || {
            ip("tuntap add tap0 mode tap");
            ip("addr add 10.0.0.1/24 dev tap0");
            ip("link set tap0 up");
            let mut tap = attach("tap0").unwrap();
            let mut poller = FdPoller::new(CancelToken::new().unwrap(), [(1, tap.endpoint())]);
            let (us, them) = ([10, 0, 0, 2], [10, 0, 0, 1]);
            let arp = |operation: u8| [0, 1, 8, 0, 6, 4, 0, operation];
            let request = [&[0xff; 6], &MAC[..], &[8, 6], &arp(1), &MAC, &us, &[0; 6], &them].concat();
            let buffer = Buffer::zeroed(1514);
            // The kernel may drop frames until it has noticed the attachment, so the request is
            // repeated.
            let answer = (0..100).find_map(|_| {
                Buffer::of(&request).with(|slice| tap.send(slice)).unwrap();
                while poller.poll(50_000_000).unwrap() != 0 {
                    while let Some(len) = buffer.with(|slice| tap.receive(slice)).unwrap() {
                        let frame = buffer.bytes()[..len as usize].to_vec();
                        if frame[..6] == MAC && frame[12..22] == [&[8, 6], &arp(2)[..]].concat() {
                            return Some(frame);
                        }
                    }
                }
                None
            });
            let answer = answer.expect("the kernel answers");
            assert_eq!(answer[28..32], them);
            assert_eq!(answer[38..42], us);
            // While the interface is down, frames are lost and sending succeeds.
            ip("link set tap0 down");
            Buffer::of(&request).with(|slice| tap.send(slice)).unwrap();
            assert!(tap.frames.is_failing());
            // After the interface is deleted, no frame arrives and no poll wakes.
            ip("link del tap0");
            assert_eq!(poller.poll(1000), Ok(0));
            assert_eq!(Buffer::of(&request).with(|slice| tap.send(slice)), Err(DeviceError));
        });
    }
}
