//! Questions about network interfaces: `struct ifreq` (netdevice(7)) and the namespaces they live in.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixDatagram;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;

/// An interface, by its name, in the form that the kernel wants to be asked in.
#[derive(Clone, Copy)]
pub(super) struct Interface(libc::ifreq);

impl Interface {
    /// The interface of this name; `None` where no interface can have it.
    pub(super) fn named(name: &OsStr) -> Option<Self> {
        let mut interface = Self::empty();
        let name = name.as_bytes();
        // The kernel wants a NUL at the end, and takes what stands behind a colon for an alias.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.iter().any(|byte| b"\0:/%".contains(byte)) {
            return None;
        }
        for (to, from) in interface.0.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        Some(interface)
    }

    /// The interface that a tap's descriptor is attached to, and the flags it was attached with.
    pub(super) fn of(tap: BorrowedFd<'_>) -> io::Result<(Self, libc::c_int)> {
        let answer = Self::empty().ask(tap, Question::ATTACHED)?;
        Ok((answer, answer.answered_flags()))
    }

    /// Its `IFF_` flags, asked through any socket of its network namespace.
    pub(super) fn flags(&self, socket: &UnixDatagram) -> io::Result<libc::c_int> {
        Ok(self.ask(socket.as_fd(), Question::FLAGS)?.answered_flags())
    }

    /// Its MTU in bytes, asked through any socket of its network namespace.
    pub(super) fn mtu(&self, socket: &UnixDatagram) -> io::Result<u16> {
        let answer = self.ask(socket.as_fd(), Question::MTU)?;
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        let mtu = unsafe { answer.0.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Attaches `tun` to it. The descriptor of a macvtap, which is attached by its open, gets these flags.
    pub(super) fn attach(&self, tun: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
        let mut request = *self;
        request.0.ifr_ifru.ifru_flags = flags as libc::c_short;
        request.ask(tun, Question::ATTACH).map(|_| ())
    }

    /// Its index, which numbers the node of a macvtap, asked through any socket of its network namespace.
    pub(super) fn index(&self, socket: &UnixDatagram) -> io::Result<libc::c_int> {
        let answer = self.ask(socket.as_fd(), Question::INDEX)?;
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        Ok(unsafe { answer.0.ifr_ifru.ifru_ifindex })
    }

    /// Its name.
    pub(super) fn name(&self) -> OsString {
        let name = self.0.ifr_name.iter().take_while(|byte| **byte != 0).flat_map(|byte| byte.to_ne_bytes()).collect();
        OsString::from_vec(name)
    }

    /// The MTU in bytes of this interface, which `tap` is attached to. The descriptor may come from another network
    /// namespace, where the name means another interface, or none. `None` where nobody may ask.
    pub(super) fn mtu_behind(&self, tap: BorrowedFd<'_>) -> Option<u16> {
        let here = UnixDatagram::unbound().ok()?;
        match (namespace(tap, libc::TUNGETDEVNETNS), namespace(here.as_fd(), libc::SIOCGSKNS)) {
            (Ok(theirs), Ok(ours)) if is_same(&theirs, &ours) => self.mtu(&here).ok(),
            (Ok(theirs), _) => mtu_in(theirs, self.name()),
            // Without CAP_NET_ADMIN: the hardware address shows whether it is the same interface.
            (Err(_), _) if self.hardware_address(tap)? == self.hardware_address(here.as_fd())? => self.mtu(&here).ok(),
            (Err(_), _) => None,
        }
    }

    /// Its hardware address, asked through a socket of its network namespace or a descriptor that is attached to it.
    pub(super) fn hardware_address(&self, fd: BorrowedFd<'_>) -> Option<[libc::c_char; 14]> {
        let answer = self.ask(fd, Question::HARDWARE_ADDRESS).ok()?;
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        Some(unsafe { answer.0.ifr_ifru.ifru_hwaddr.sa_data })
    }

    fn empty() -> Self {
        // SAFETY: `ifreq` is made of integers and of pointers that nobody follows; zero is valid for all of them.
        Self(unsafe { std::mem::zeroed() })
    }

    /// The answer, which the kernel writes over the question.
    fn ask(mut self, fd: BorrowedFd<'_>, what: Question) -> io::Result<Self> {
        // SAFETY: the kernel reads and writes one `ifreq`, which `self` is, and follows no pointer in there.
        done(unsafe { libc::ioctl(fd.as_raw_fd(), what.0, &raw mut self.0) })?;
        Ok(self)
    }

    fn answered_flags(&self) -> libc::c_int {
        // SAFETY: all bytes of the union are initialised, and every value is an integer.
        let flags = unsafe { self.0.ifr_ifru.ifru_flags };
        libc::c_int::from(flags)
    }
}

/// An `ioctl` whose argument is a `struct ifreq` without pointers.
struct Question(libc::Ioctl);

impl Question {
    const FLAGS: Self = Self(libc::SIOCGIFFLAGS);
    const MTU: Self = Self(libc::SIOCGIFMTU);
    const HARDWARE_ADDRESS: Self = Self(libc::SIOCGIFHWADDR);
    const INDEX: Self = Self(libc::SIOCGIFINDEX as libc::Ioctl);
    const ATTACHED: Self = Self(libc::TUNGETIFF);
    const ATTACH: Self = Self(libc::TUNSETIFF);
}

/// Makes the kernel cut up and check-sum what it hands over: whoever used the tap before may have told it not to.
pub(super) fn forbid_offloads(tap: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument of TUNSETOFFLOAD is a number.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, 0 as libc::c_ulong) })
}

/// Bytes of the virtio header before each frame of a tap that has one.
pub(super) fn virtio_header(tap: BorrowedFd<'_>) -> io::Result<usize> {
    let mut size: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one `int` through its argument.
    done(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut size) })?;
    usize::try_from(size).map_err(io::Error::other)
}

/// The network namespace of a tap (`TUNGETDEVNETNS`) or of a socket (`SIOCGSKNS`). Takes CAP_NET_ADMIN there.
fn namespace(fd: BorrowedFd<'_>, what: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: neither of the two has an argument.
    let namespace = unsafe { libc::ioctl(fd.as_raw_fd(), what) };
    done(namespace)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let identity = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    identity(one).is_ok_and(|one| identity(other) == Ok(one))
}

/// The MTU of an interface in another network namespace: asked by a thread that goes there and ends.
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
