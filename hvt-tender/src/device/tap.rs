//! Attaching to a tap of Linux (`Documentation/networking/tuntap.rst` of the kernel), or to a macvtap, whose node `/dev/tapN`
//! has the number of the interface.

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

use super::frame_fd::MAX_HEADERS;
use super::interface::{self, Interface};

/// The device that hands out taps.
const TUN: &str = "/dev/net/tun";

/// Largest payload in bytes where the network cannot be asked.
const DEFAULT_MTU: u16 = 1500;

/// An attached descriptor: one frame a call, never waiting.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) fd: OwnedFd,
    pub(super) mtu: u16,
    /// Hardware address that the network expects of the device, if it expects one.
    pub(super) mac: Option<[u8; 6]>,
    /// Bytes before each frame: packet information, a virtio header.
    pub(super) headers: usize,
}

/// Why a network device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No interface has this name.
    #[error("does not exist; make it: ip tuntap add {0} mode tap && ip link set {0} up")]
    Missing(String),
    /// No interface can have this name.
    #[error("cannot exist: a name has 1 to 15 bytes, none of them one of / : %")]
    Name,
    /// Nobody set it up.
    #[error("is down; set it up: ip link set {0} up")]
    Down(String),
    /// It is another kind of interface.
    #[error("is neither a tap nor a macvtap; make one: ip tuntap add tap0 mode tap && ip link set tap0 up")]
    NotATap,
    /// The node of a macvtap cannot be opened.
    #[error("is a macvtap, whose node {path} cannot be opened: {error}; give this user access to it")]
    Macvtap {
        /// The node.
        path: String,
        /// What the host answers.
        error: io::Error,
    },
    /// The node of a macvtap belongs to another interface.
    #[error(
        "is a macvtap, but {0} is the node of another interface; make the node anew: /sys/class/net has its numbers"
    )]
    OtherMacvtap(String),
    /// Somebody has attached it.
    #[error("is in use by another tender or program")]
    Busy,
    /// It belongs to somebody else.
    #[error("belongs to another user; make it anew for this one: ip tuntap add {0} mode tap user USER")]
    NotPermitted(String),
    /// The host does not hand out taps.
    #[error("cannot be attached without {TUN} ({0}); load the kernel module `tun`, or give this user access")]
    NoTun(io::Error),
    /// The descriptor does not carry frames.
    #[error("is neither a tap nor a socket that keeps frames apart")]
    NoFrames,
    /// The descriptor carries packets, not frames.
    #[error("carries IP packets, not frames; attach it with IFF_TAP")]
    Packets,
    /// The headers before each frame are longer than any that this tender knows.
    #[error("has {0} bytes of headers before each frame; {MAX_HEADERS} are the most")]
    Headers(usize),
    /// The descriptor goes one way.
    #[error("is not open for both reading and writing")]
    OneWay,
    /// The host refuses.
    #[error("cannot be attached: {0}")]
    Host(#[from] io::Error),
}

/// Attaches to the tap of this name, which exists and is up.
pub(super) fn by_name(name: &OsStr) -> Result<Attached, Problem> {
    let shown = || name.display().to_string();
    let missing = |error| if errno(&error) == Errno::ENODEV { Problem::Missing(shown()) } else { Problem::Host(error) };
    let interface = Interface::named(name).ok_or(Problem::Name)?;
    // Asked first, because attaching to what does not exist makes it.
    let socket = UnixDatagram::unbound()?;
    if interface.flags(&socket).map_err(missing)? & libc::IFF_UP == 0 {
        return Err(Problem::Down(shown()));
    }
    let mtu = interface.mtu(&socket).map_err(missing)?;
    let tun = open_tun().map_err(Problem::NoTun)?;
    let attach = |queues| interface.attach(tun.as_fd(), libc::IFF_TAP | libc::IFF_NO_PI | queues);
    let attached = match attach(0) {
        // Of several queues, one is enough.
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

/// Attaches to an interface that is no tap, if it is a macvtap.
fn macvtap(interface: &Interface, socket: &UnixDatagram, mtu: u16) -> Result<Attached, Problem> {
    let path = format!("/dev/tap{}", interface.index(socket)?);
    let node = match open(&path) {
        Ok(node) => node,
        // Where there is no node and no sign of a macvtap, it is another kind of interface.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_macvtap(interface) => {
            return Err(Problem::NotATap);
        }
        Err(error) => return Err(Problem::Macvtap { path, error }),
    };
    // Interfaces of several network namespaces have the same number.
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

/// Whether sysfs, if it is there, shows a macvtap.
fn is_macvtap(interface: &Interface) -> bool {
    Path::new("/sys/class/net").join(interface.name()).join("macvtap").exists()
}

/// Takes a descriptor that somebody else has attached: a tap, or a socket that carries one frame a message.
pub(super) fn by_descriptor(fd: OwnedFd) -> Result<Attached, Problem> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).map_err(io::Error::from)?);
    if flags & OFlag::O_ACCMODE != OFlag::O_RDWR {
        return Err(Problem::OneWay);
    }
    // The probe for headers, too, must not wait.
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

/// What a descriptor carries besides its frames, and for whom.
struct Frames {
    headers: usize,
    mac: Option<[u8; 6]>,
}

impl Frames {
    /// Looks at a descriptor that is attached to a tap or a macvtap. That of a macvtap loses its virtio header, which each
    /// open of the node begins with; a tap keeps the headers that it was attached with.
    fn of(interface: &Interface, fd: BorrowedFd<'_>) -> Result<Self, Problem> {
        // A tap that is attached refuses it (EEXIST).
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
        // A macvtap gets no frames for other addresses.
        let address = if is_macvtap { interface.hardware_address(fd) } else { None };
        // `c_char` is signed on x86_64, and not on aarch64.
        let mac = address
            .and_then(|address| address.map(|byte| u8::from_ne_bytes(byte.to_ne_bytes())).first_chunk().copied());
        Ok(Self { headers: information + virtio, mac })
    }
}

/// Bytes of `struct tun_pi`.
const PACKET_INFORMATION: usize = 4;

/// Whether a tap has packet information before each frame. TUNGETIFF does not tell: IFF_NO_PI is the bit of IFF_NOFILTER.
///
/// The answer is that to a frame that cannot be read, and is therefore not sent. With packet information it is also too
/// short for a frame, which the kernel finds first.
fn has_packet_information(fd: BorrowedFd<'_>, virtio: usize) -> Result<bool, Problem> {
    const PAGE: NonZeroUsize = NonZeroUsize::new(0x1_0000).expect("it is not zero");
    let size = PAGE.saturating_add(PAGE.get());
    let (protection, flags) = (ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS);
    // SAFETY: a new mapping, which nothing else knows of.
    let start = unsafe { mmap_anonymous(None, size, protection, flags) }.map_err(io::Error::from)?;
    let write = || {
        // SAFETY: it is the first half of the new mapping.
        unsafe { mprotect(start, PAGE.get(), ProtFlags::PROT_READ) }?;
        let readable = PACKET_INFORMATION + virtio;
        let frame = start.as_ptr().wrapping_byte_add(PAGE.get() - readable);
        // SAFETY: the kernel reads what it can of the memory at the address, and fails for the rest.
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

/// Bytes of an Ethernet header, the shortest frame that a tap takes.
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

/// A descriptor attached with these `IFF_` flags to an interface that vanishes with it.
#[cfg(test)]
pub(super) fn attached_with(name: &str, flags: libc::c_int) -> OwnedFd {
    let tun = open_tun().unwrap();
    Interface::named(OsStr::new(name)).unwrap().attach(tun.as_fd(), flags).unwrap();
    tun.into()
}
