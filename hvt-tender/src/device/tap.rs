//! Attaching to a tap interface of Linux: `tun(4)` and `netdevice(7)`.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

/// The device that hands out taps.
const TUN: &str = "/dev/net/tun";

/// Largest payload in bytes where the network cannot be asked.
const DEFAULT_MTU: u16 = 1500;

/// An attached descriptor: one frame a call, never waiting.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) fd: OwnedFd,
    pub(super) mtu: u16,
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
    #[error("is not a tap (of one queue); make one: ip tuntap add tap0 mode tap && ip link set tap0 up")]
    NotATap,
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
    /// The descriptor carries something else, or something before each frame.
    #[error("does not carry plain frames; attach it with IFF_TAP and IFF_NO_PI, without IFF_VNET_HDR")]
    Headers,
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
    let request = Request::named(name).ok_or(Problem::Name)?;
    // Asked first, because attaching to what does not exist makes it.
    let socket = UnixDatagram::unbound()?;
    if request.flags(&socket).map_err(missing)? & libc::IFF_UP == 0 {
        return Err(Problem::Down(shown()));
    }
    let mtu = request.mtu(&socket).map_err(missing)?;
    let tun = open_tun().map_err(Problem::NoTun)?;
    request.attach(&tun, libc::IFF_TAP | libc::IFF_NO_PI).map_err(|error| match errno(&error) {
        Errno::EINVAL => Problem::NotATap,
        Errno::EBUSY => Problem::Busy,
        Errno::EPERM => Problem::NotPermitted(shown()),
        _ => Problem::Host(error),
    })?;
    forbid_offloads(tun.as_fd())?;
    Ok(Attached { fd: tun.into(), mtu })
}

/// Takes a descriptor that somebody else has attached: a tap, or a socket that carries one frame a message.
pub(super) fn by_descriptor(fd: OwnedFd) -> Result<Attached, Problem> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).map_err(io::Error::from)?);
    if flags & OFlag::O_ACCMODE != OFlag::O_RDWR {
        return Err(Problem::OneWay);
    }
    let mtu = match Request::of(fd.as_fd()) {
        Ok((request, flags)) => {
            // IFF_NO_PI cannot be asked for: in the answer its bit means IFF_NOFILTER.
            if flags & (libc::IFF_TAP | libc::IFF_VNET_HDR) != libc::IFF_TAP {
                return Err(Problem::Headers);
            }
            forbid_offloads(fd.as_fd())?;
            // The interface may be in another network namespace than this process, where nobody knows its name.
            UnixDatagram::unbound().and_then(|socket| request.mtu(&socket)).unwrap_or(DEFAULT_MTU)
        }
        Err(_) => match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::Datagram | SockType::SeqPacket | SockType::Raw) => DEFAULT_MTU,
            _ => return Err(Problem::NoFrames),
        },
    };
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
    Ok(Attached { fd, mtu })
}

fn open_tun() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN)
}

/// Makes the kernel cut up and check-sum what it hands over: whoever used the tap before may have told it not to.
fn forbid_offloads(tap: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument of TUNSETOFFLOAD is a number.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, 0 as libc::c_ulong) })
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

fn done(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A question about an interface: `struct ifreq` (netdevice(7)).
#[derive(Clone, Copy)]
struct Request(libc::ifreq);

impl Request {
    /// About the interface of this name; `None` where no interface can have it.
    fn named(name: &OsStr) -> Option<Self> {
        let mut request = Self::empty();
        let name = name.as_bytes();
        // The kernel wants a NUL at the end, and takes what stands behind a colon for an alias.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.iter().any(|byte| b"\0:/%".contains(byte)) {
            return None;
        }
        for (to, from) in request.0.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        Some(request)
    }

    /// About the interface of a tap's descriptor; the flags it was attached with as well.
    fn of(tap: BorrowedFd<'_>) -> io::Result<(Self, libc::c_int)> {
        let answer = Self::empty().ask(tap, libc::TUNGETIFF)?;
        Ok((answer, answer.answered_flags()))
    }

    /// Its `IFF_` flags, asked through any socket of its network namespace.
    fn flags(&self, socket: &UnixDatagram) -> io::Result<libc::c_int> {
        Ok(self.ask(socket.as_fd(), libc::SIOCGIFFLAGS)?.answered_flags())
    }

    /// Its MTU in bytes, asked through any socket of its network namespace.
    fn mtu(&self, socket: &UnixDatagram) -> io::Result<u16> {
        let answer = self.ask(socket.as_fd(), libc::SIOCGIFMTU)?;
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        let mtu = unsafe { answer.0.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Attaches `tun` to it.
    fn attach(&self, tun: &File, flags: libc::c_int) -> io::Result<()> {
        let mut request = *self;
        request.0.ifr_ifru.ifru_flags = flags as libc::c_short;
        request.ask(tun.as_fd(), libc::TUNSETIFF).map(|_| ())
    }

    fn empty() -> Self {
        // SAFETY: `ifreq` is made of integers and of pointers that nobody follows; zero is valid for all of them.
        Self(unsafe { std::mem::zeroed() })
    }

    /// The answer that overwrites this question. `what` must be an `ioctl` whose argument is a `struct ifreq`.
    fn ask(mut self, fd: BorrowedFd<'_>, what: libc::c_ulong) -> io::Result<Self> {
        // SAFETY: the kernel reads and writes one `ifreq`, which `self` is; of the questions in this file none makes
        // it follow a pointer in there.
        done(unsafe { libc::ioctl(fd.as_raw_fd(), what as _, &raw mut self.0) })?;
        Ok(self)
    }

    fn answered_flags(&self) -> libc::c_int {
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        let flags = unsafe { self.0.ifr_ifru.ifru_flags };
        libc::c_int::from(flags)
    }
}

/// The name of the interface that a tap's descriptor is attached to, where it is one.
pub(super) fn interface_of(fd: BorrowedFd<'_>) -> Option<OsString> {
    let (request, _) = Request::of(fd).ok()?;
    let name = request.0.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    Some(OsString::from_vec(name))
}

/// A descriptor attached with these `IFF_` flags to an interface that vanishes with it.
#[cfg(test)]
pub(super) fn attached_with(name: &str, flags: libc::c_int) -> OwnedFd {
    let tun = open_tun().unwrap();
    Request::named(OsStr::new(name)).unwrap().attach(&tun, flags).unwrap();
    tun.into()
}
