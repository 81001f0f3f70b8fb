//! Attaching to a tap of Linux (`Documentation/networking/tuntap.rst` of the kernel).

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

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
    let interface = Interface::named(name).ok_or(Problem::Name)?;
    // Asked first, because attaching to what does not exist makes it.
    let socket = UnixDatagram::unbound()?;
    if interface.flags(&socket).map_err(missing)? & libc::IFF_UP == 0 {
        return Err(Problem::Down(shown()));
    }
    let mtu = interface.mtu(&socket).map_err(missing)?;
    let tun = open_tun().map_err(Problem::NoTun)?;
    interface.attach(&tun, libc::IFF_TAP | libc::IFF_NO_PI).map_err(|error| match errno(&error) {
        Errno::EINVAL => Problem::NotATap,
        Errno::EBUSY => Problem::Busy,
        Errno::EPERM => Problem::NotPermitted(shown()),
        _ => Problem::Host(error),
    })?;
    interface::forbid_offloads(tun.as_fd())?;
    Ok(Attached { fd: tun.into(), mtu })
}

/// Takes a descriptor that somebody else has attached: a tap, or a socket that carries one frame a message.
pub(super) fn by_descriptor(fd: OwnedFd) -> Result<Attached, Problem> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).map_err(io::Error::from)?);
    if flags & OFlag::O_ACCMODE != OFlag::O_RDWR {
        return Err(Problem::OneWay);
    }
    let mtu = match Interface::of(fd.as_fd()) {
        Ok((interface, flags)) => {
            // IFF_NO_PI cannot be asked for: in the answer its bit means IFF_NOFILTER.
            if flags & (libc::IFF_TAP | libc::IFF_VNET_HDR) != libc::IFF_TAP {
                return Err(Problem::Headers);
            }
            interface::forbid_offloads(fd.as_fd())?;
            interface.mtu_behind(fd.as_fd()).unwrap_or(DEFAULT_MTU)
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

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// A descriptor attached with these `IFF_` flags to an interface that vanishes with it.
#[cfg(test)]
pub(super) fn attached_with(name: &str, flags: libc::c_int) -> OwnedFd {
    let tun = open_tun().unwrap();
    Interface::named(OsStr::new(name)).unwrap().attach(&tun, flags).unwrap();
    tun.into()
}
