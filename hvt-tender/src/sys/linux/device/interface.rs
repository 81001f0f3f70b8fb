//! Queries about network interfaces: `struct ifreq` (netdevice(7)) and network namespaces.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixDatagram;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;

/// Interface name in a `struct ifreq`, for queries to the kernel.
#[derive(Clone, Copy)]
pub(super) struct Interface(libc::ifreq);

impl Interface {
    /// Returns the interface with this name, or `None` if the name is invalid.
    pub(super) fn named(name: &OsStr) -> Option<Self> {
        let mut interface = Self::empty();
        let name = name.as_bytes();
        // The kernel requires a NUL at the end, and treats the part after a colon as an alias.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.iter().any(|byte| b"\0:/%".contains(byte)) {
            return None;
        }
        for (to, from) in interface.0.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        Some(interface)
    }

    /// Returns the interface that a tap's descriptor is attached to, and the flags of the
    /// attachment.
    pub(super) fn of(tap: BorrowedFd<'_>) -> io::Result<(Self, libc::c_int)> {
        let answer = Self::empty().ask(tap, Question::ATTACHED)?;
        Ok((answer, answer.answered_flags()))
    }

    /// Returns the `IFF_` flags. `socket` is any socket in the interface's network namespace.
    pub(super) fn flags(&self, socket: &UnixDatagram) -> io::Result<libc::c_int> {
        Ok(self.ask(socket.as_fd(), Question::FLAGS)?.answered_flags())
    }

    /// Returns the MTU in bytes. `socket` is any socket in the interface's network namespace.
    pub(super) fn mtu(&self, socket: &UnixDatagram) -> io::Result<u16> {
        let answer = self.ask(socket.as_fd(), Question::MTU)?;
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        let mtu = unsafe { answer.0.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Attaches `tun` to the interface. For a macvtap, which its open attaches, this sets the flags
    /// of the descriptor.
    pub(super) fn attach(&self, tun: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
        let mut request = *self;
        request.0.ifr_ifru.ifru_flags = flags as libc::c_short;
        request.ask(tun, Question::ATTACH).map(|_| ())
    }

    /// Returns the index, which is the number of a macvtap's node. `socket` is any socket in the
    /// interface's network namespace.
    pub(super) fn index(&self, socket: &UnixDatagram) -> io::Result<libc::c_int> {
        let answer = self.ask(socket.as_fd(), Question::INDEX)?;
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        Ok(unsafe { answer.0.ifr_ifru.ifru_ifindex })
    }

    /// Returns the name.
    pub(super) fn name(&self) -> OsString {
        let name = self.0.ifr_name.iter().take_while(|byte| **byte != 0).flat_map(|byte| byte.to_ne_bytes()).collect();
        OsString::from_vec(name)
    }

    /// Returns the MTU in bytes of this interface, which `tap` is attached to. The descriptor may
    /// come from another network namespace, in which the name refers to another interface or to
    /// none. Returns `None` if the query is not permitted.
    pub(super) fn mtu_behind(&self, tap: BorrowedFd<'_>) -> Option<u16> {
        let here = UnixDatagram::unbound().ok()?;
        match (namespace(tap, libc::TUNGETDEVNETNS), namespace(here.as_fd(), libc::SIOCGSKNS)) {
            (Ok(theirs), Ok(ours)) if is_same(&theirs, &ours) => self.mtu(&here).ok(),
            (Ok(theirs), _) => mtu_in(theirs, self.name()),
            // Without CAP_NET_ADMIN, the hardware addresses show whether it is the same interface.
            (Err(_), _) if self.hardware_address(tap)? == self.hardware_address(here.as_fd())? => self.mtu(&here).ok(),
            (Err(_), _) => None,
        }
    }

    /// Returns the hardware address. `fd` is a socket in the interface's network namespace, or a
    /// descriptor attached to the interface.
    pub(super) fn hardware_address(&self, fd: BorrowedFd<'_>) -> Option<[libc::c_char; 14]> {
        let answer = self.ask(fd, Question::HARDWARE_ADDRESS).ok()?;
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        Some(unsafe { answer.0.ifr_ifru.ifru_hwaddr.sa_data })
    }

    fn empty() -> Self {
        // SAFETY: `ifreq` consists of integers and of pointers that are never dereferenced; zero is
        // valid for all of them.
        Self(unsafe { std::mem::zeroed() })
    }

    /// Returns the answer, which the kernel writes over the query.
    fn ask(mut self, fd: BorrowedFd<'_>, what: Question) -> io::Result<Self> {
        // SAFETY: the kernel reads and writes one `ifreq`, which `self` is, and dereferences no
        // pointer in it.
        done(unsafe { libc::ioctl(fd.as_raw_fd(), what.0, &raw mut self.0) })?;
        Ok(self)
    }

    fn answered_flags(&self) -> libc::c_int {
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        let flags = unsafe { self.0.ifr_ifru.ifru_flags };
        libc::c_int::from(flags)
    }
}

/// `ioctl` with a `struct ifreq` without pointers as its argument.
struct Question(libc::Ioctl);

impl Question {
    const FLAGS: Self = Self(libc::SIOCGIFFLAGS);
    const MTU: Self = Self(libc::SIOCGIFMTU);
    const HARDWARE_ADDRESS: Self = Self(libc::SIOCGIFHWADDR);
    const INDEX: Self = Self(libc::SIOCGIFINDEX as libc::Ioctl);
    const ATTACHED: Self = Self(libc::TUNGETIFF);
    const ATTACH: Self = Self(libc::TUNSETIFF);
}

/// Makes the kernel segment and checksum the frames that it delivers. An earlier user of the tap
/// may have enabled offloads.
pub(super) fn forbid_offloads(tap: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument of TUNSETOFFLOAD is a number.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, 0 as libc::c_ulong) })
}

/// Returns the size in bytes of the virtio header before each frame of a tap that has one.
pub(super) fn virtio_header(tap: BorrowedFd<'_>) -> io::Result<usize> {
    let mut size: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one `int` through its argument.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut size) })?;
    usize::try_from(size).map_err(io::Error::other)
}

/// Returns the network namespace of a tap (`TUNGETDEVNETNS`) or of a socket (`SIOCGSKNS`). Requires
/// CAP_NET_ADMIN in that namespace.
fn namespace(fd: BorrowedFd<'_>, what: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: neither request has an argument.
    let namespace = unsafe { libc::ioctl(fd.as_raw_fd(), what) };
    done(namespace)?;
    // SAFETY: the kernel has just created this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let identity = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    identity(one).is_ok_and(|one| identity(other) == Ok(one))
}

/// Returns the MTU of an interface in another network namespace. A short-lived thread enters the
/// namespace for the query.
fn mtu_in(namespace: OwnedFd, name: OsString) -> Option<u16> {
    let ask = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let interface = Interface::named(&name).ok_or(io::ErrorKind::InvalidInput)?;
        interface.mtu(&UnixDatagram::unbound()?)
    };
    thread::Builder::new().spawn(ask).ok()?.join().ok()?.ok()
}

fn done(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
