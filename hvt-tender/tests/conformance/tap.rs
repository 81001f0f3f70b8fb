//! A tap in a separate network namespace.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// A persistent tap that is up.
pub(crate) struct Tap {
    /// Network namespace of the tap. It is destroyed with its last descriptor.
    pub(crate) namespace: OwnedFd,
    /// Name of the tap in the namespace.
    pub(crate) name: &'static str,
    /// A packet socket on the tap.
    pub(crate) socket: OwnedFd,
}

const NAME: &str = "tap0";

/// Creates a tap with this MTU.
pub(crate) fn create(mtu: u16) -> io::Result<Tap> {
    // A separate thread enters the namespace, so that no other thread of the tests is affected.
    let made = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut request = request();
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        ioctl(&tap, libc::TUNSETIFF, &mut request)?;
        // SAFETY: The request takes a number.
        if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1) } != 0 {
            return Err(io::Error::last_os_error());
        }

        // SAFETY: The call takes no pointers, and the descriptor is new.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, ETH_P_ALL_BE) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: The kernel has just created this descriptor for the caller.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        request.ifr_ifru.ifru_mtu = mtu.into();
        ioctl(&socket, libc::SIOCSIFMTU, &mut request)?;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        ioctl(&socket, libc::SIOCSIFFLAGS, &mut request)?;
        ioctl(&socket, libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: The kernel has just written the index.
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        bind(&socket, index)?;
        Ok(Tap { namespace: namespace.into(), name: NAME, socket })
    });
    made.join().map_err(|_| io::Error::other("the thread with the namespace died"))?
}

/// ETH_P_ALL in network byte order: every protocol.
const ETH_P_ALL_BE: libc::c_int = (libc::ETH_P_ALL as u16).to_be() as libc::c_int;

fn request() -> libc::ifreq {
    // SAFETY: `ifreq` is plain data, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl(fd: &impl AsRawFd, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: Every request used here takes a pointer to an `ifreq`.
    match unsafe { libc::ioctl(fd.as_raw_fd(), number, request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bind(socket: &OwnedFd, index: libc::c_int) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain data, for which all zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_ALL_BE as u16;
    address.sll_ifindex = index;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: The address is a local of the given size.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
