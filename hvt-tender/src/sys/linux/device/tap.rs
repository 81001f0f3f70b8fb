//! Attaches to a tap of Linux (`Documentation/networking/tuntap.rst` of the kernel), or to a
//! macvtap, whose node is `/dev/tapN` with the interface index N.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::interface::{self, Interface};
use crate::device::frame_fd::MAX_HEADERS;

/// Device node that creates taps.
const TUN: &str = "/dev/net/tun";

/// MTU in bytes if the network cannot be queried.
const DEFAULT_MTU: u16 = 1500;

/// Attached descriptor: non-blocking, one frame per call.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) fd: OwnedFd,
    pub(super) mtu: u16,
    /// Hardware address that the network expects of the device, if any.
    pub(super) mac: Option<[u8; 6]>,
    /// Size in bytes of the headers before each frame: packet information and a virtio header.
    pub(super) headers: usize,
}

/// Reason that a network device cannot be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// No interface has this name.
    #[error("does not exist: create it: ip tuntap add {0} mode tap && ip link set {0} up")]
    Missing(String),
    /// The name is not valid for an interface.
    #[error("cannot exist: a name has 1 to 15 bytes other than / : %")]
    Name,
    /// The interface is down.
    #[error("is down: set it up: ip link set {0} up")]
    Down(String),
    /// The interface is of another kind.
    #[error("is neither a tap nor a macvtap: create one: ip tuntap add tap0 mode tap && ip link set tap0 up")]
    NotATap,
    /// The node of a macvtap cannot be opened.
    #[error("is a macvtap, but its node {path} cannot be opened: {error}: give this user access")]
    Macvtap {
        /// Path of the node.
        path: String,
        /// Error of the host.
        error: io::Error,
    },
    /// The node of a macvtap belongs to another interface.
    #[error(
        "is a macvtap, but {0} is the node of another interface: recreate the node with the numbers in /sys/class/net"
    )]
    OtherMacvtap(String),
    /// Another program has attached the interface.
    #[error("is in use by another tender or program")]
    Busy,
    /// The interface belongs to another user.
    #[error("belongs to another user: recreate it for this user: ip tuntap add {0} mode tap user USER")]
    NotPermitted(String),
    /// The host does not provide taps.
    #[error("cannot be attached: {TUN}: {0}: load the kernel module tun, or give this user access")]
    NoTun(io::Error),
    /// The descriptor does not carry frames.
    #[error("is neither a tap nor a socket with message boundaries")]
    NoFrames,
    /// The descriptor carries packets, not frames.
    #[error("carries IP packets, not frames: attach it with IFF_TAP")]
    Packets,
    /// The headers before each frame are longer than this tender supports.
    #[error("has {0} bytes of headers before each frame: the maximum is {MAX_HEADERS}")]
    Headers(usize),
    /// The descriptor is not open for both reading and writing.
    #[error("is not open for both reading and writing")]
    OneWay,
    /// The host returned an error.
    #[error("cannot be attached")]
    Host(#[from] io::Error),
}

/// Attaches to the tap with this name, which must exist and be up.
pub(super) fn by_name(name: &OsStr) -> Result<Attached, Problem> {
    let shown = || name.display().to_string();
    let missing = |error| if errno(&error) == Errno::ENODEV { Problem::Missing(shown()) } else { Problem::Host(error) };
    let interface = Interface::named(name).ok_or(Problem::Name)?;
    // Queried first, because attaching to a missing interface creates it.
    let socket = UnixDatagram::unbound()?;
    if interface.flags(&socket).map_err(missing)? & libc::IFF_UP == 0 {
        return Err(Problem::Down(shown()));
    }
    let mtu = interface.mtu(&socket).map_err(missing)?;
    let tun = open_tun().map_err(Problem::NoTun)?;
    let attach = |queues| interface.attach(tun.as_fd(), libc::IFF_TAP | libc::IFF_NO_PI | queues);
    let attached = match attach(0) {
        // One of several queues is enough.
        Err(error) if errno(&error) == Errno::EINVAL => attach(libc::IFF_MULTI_QUEUE),
        other => other,
    };
    match attached {
        Ok(()) => {}
        Err(error) => match errno(&error) {
            Errno::EINVAL => return macvtap(&interface, &socket, mtu),
            Errno::EBUSY => return Err(Problem::Busy),
            Errno::EPERM => return Err(Problem::NotPermitted(shown())),
            _ => return Err(Problem::Host(error)),
        },
    }
    interface::forbid_offloads(tun.as_fd())?;
    Ok(Attached { fd: tun.into(), mtu, mac: None, headers: 0 })
}

/// Attaches to an interface that is not a tap, if it is a macvtap.
fn macvtap(interface: &Interface, socket: &UnixDatagram, mtu: u16) -> Result<Attached, Problem> {
    let path = format!("/dev/tap{}", interface.index(socket)?);
    let node = match open(&path) {
        Ok(node) => node,
        // Without a node and without a sign of a macvtap, the interface is of another kind.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_macvtap(interface) => {
            return Err(Problem::NotATap);
        }
        Err(error) => return Err(Problem::Macvtap { path, error }),
    };
    // Interfaces in different network namespaces can have the same number.
    let address = interface.hardware_address(socket.as_fd());
    match Interface::of(node.as_fd()) {
        Ok((found, _)) if found.name() == interface.name() && found.hardware_address(node.as_fd()) == address => {}
        Ok(_) => return Err(Problem::OtherMacvtap(path)),
        Err(_) => return Err(Problem::NotATap),
    }
    let Frames { headers, mac } = Frames::of(interface, node.as_fd())?;
    interface::forbid_offloads(node.as_fd())?;
    Ok(Attached { fd: node.into(), mtu, mac, headers })
}

/// Returns whether sysfs, if mounted, shows a macvtap.
fn is_macvtap(interface: &Interface) -> bool {
    Path::new("/sys/class/net").join(interface.name()).join("macvtap").exists()
}

/// Takes a descriptor attached by another process: a tap, or a socket with one frame per message.
pub(super) fn by_descriptor(fd: OwnedFd) -> Result<Attached, Problem> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).map_err(io::Error::from)?);
    if flags & OFlag::O_ACCMODE != OFlag::O_RDWR {
        return Err(Problem::OneWay);
    }
    // The probe for headers must not block either.
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
    let (mtu, Frames { headers, mac }) = match Interface::of(fd.as_fd()) {
        Ok((interface, _)) => {
            let frames = Frames::of(&interface, fd.as_fd())?;
            interface::forbid_offloads(fd.as_fd())?;
            (interface.mtu_behind(fd.as_fd()).unwrap_or(DEFAULT_MTU), frames)
        }
        Err(_) => match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::Datagram | SockType::SeqPacket | SockType::Raw) => {
                (DEFAULT_MTU, Frames { headers: 0, mac: None })
            }
            _ => return Err(Problem::NoFrames),
        },
    };
    Ok(Attached { fd, mtu, mac, headers })
}

/// Format of a descriptor's frames: size of the headers, and the expected hardware address.
struct Frames {
    headers: usize,
    mac: Option<[u8; 6]>,
}

impl Frames {
    /// Queries a descriptor attached to a tap or a macvtap. The virtio header that each open of a
    /// macvtap's node enables is disabled; a tap keeps the headers that it was attached with.
    fn of(interface: &Interface, fd: BorrowedFd<'_>) -> Result<Self, Problem> {
        // An attached tap refuses this with EEXIST.
        let is_macvtap = interface.attach(fd, libc::IFF_TAP | libc::IFF_NO_PI).is_ok();
        let (_, flags) = Interface::of(fd)?;
        if flags & libc::IFF_TAP == 0 {
            return Err(Problem::Packets);
        }
        let virtio = if flags & libc::IFF_VNET_HDR == 0 { 0 } else { interface::virtio_header(fd)? };
        if virtio > MAX_HEADERS - PACKET_INFORMATION {
            return Err(Problem::Headers(virtio));
        }
        let information = if has_packet_information(fd, virtio)? { PACKET_INFORMATION } else { 0 };
        // A macvtap receives no frames for other addresses.
        let address = if is_macvtap { interface.hardware_address(fd) } else { None };
        // `c_char` is signed on x86_64 and unsigned on aarch64.
        let mac = address
            .and_then(|address| address.map(|byte| u8::from_ne_bytes(byte.to_ne_bytes())).first_chunk().copied());
        Ok(Self { headers: information + virtio, mac })
    }
}

/// Size of `struct tun_pi` in bytes.
const PACKET_INFORMATION: usize = 4;

/// Returns whether a tap has packet information before each frame. TUNGETIFF does not report this:
/// IFF_NO_PI has the same bit as IFF_NOFILTER.
///
/// The error of an attempt to send an unreadable frame answers the question; nothing is sent. With
/// packet information the frame is also too short, which the kernel checks first.
fn has_packet_information(fd: BorrowedFd<'_>, virtio: usize) -> Result<bool, Problem> {
    const PAGE: NonZeroUsize = NonZeroUsize::new(0x1_0000).expect("it is not zero");
    let size = PAGE.saturating_add(PAGE.get());
    let (protection, flags) = (ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS);
    // SAFETY: a new mapping, to which nothing else refers.
    let start = unsafe { mmap_anonymous(None, size, protection, flags) }.map_err(io::Error::from)?;
    let write = || {
        // SAFETY: the address is the first half of the new mapping.
        unsafe { mprotect(start, PAGE.get(), ProtFlags::PROT_READ) }?;
        let readable = PACKET_INFORMATION + virtio;
        let frame = start.as_ptr().wrapping_byte_add(PAGE.get() - readable);
        // SAFETY: the kernel reads the readable memory at the address, and fails for the rest.
        Errno::result(unsafe { libc::write(fd.as_raw_fd(), frame, virtio + HEADER) })
    };
    let written = write();
    // SAFETY: nothing refers to the mapping any more.
    unsafe { munmap(start, size.get()) }.map_err(io::Error::from)?;
    match written {
        Err(Errno::EFAULT) => Ok(false),
        Err(Errno::EINVAL) => Ok(true),
        Err(errno) => Err(Problem::Host(errno.into())),
        Ok(_) => Err(Problem::Host(io::ErrorKind::InvalidData.into())),
    }
}

/// Size of an Ethernet header in bytes: the shortest frame that a tap accepts.
const HEADER: usize = 14;

fn open_tun() -> io::Result<File> {
    open(TUN)
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Returns a descriptor attached with these `IFF_` flags to an interface that is removed with the
/// descriptor.
#[cfg(test)]
pub(super) fn attached_with(name: &str, flags: libc::c_int) -> OwnedFd {
    let tun = open_tun().unwrap();
    Interface::named(OsStr::new(name)).unwrap().attach(tun.as_fd(), flags).unwrap();
    tun.into()
}
