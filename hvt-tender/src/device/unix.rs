//! A network device that is a cable to another tender, through a Unix socket.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket};

use hvt_abi::hypercall::FRAME_HEADER_SIZE;

use super::io::{Complaint, receive, send_message};
use super::net::random_mac;
use super::{Descriptor, DeviceError, Endpoint, Net, Pollable, Uses};
use crate::memory::GuestSlice;

/// Largest payload of a frame in bytes.
const MTU: u16 = 1500;

/// A cable between the guests of two tenders, which find each other at a path: the first one waits there, the second one
/// takes the socket away as it connects. It needs no rights but those to the folder.
///
/// Frames go as messages of a `SOCK_SEQPACKET` socket. What is sent while nobody is at the other end, or faster than the
/// other end takes it, is lost. When the other tender ends, this one waits at the path for the next.
#[derive(Debug)]
pub struct UnixNet {
    endpoint: Arc<Endpoint>,
    epoll: Epoll,
    path: PathBuf,
    /// That of the path. Open so that a sandbox can tell it from others.
    folder: File,
    plug: Plug,
    mac: [u8; 6],
    complaint: Complaint,
}

/// What this end of the cable is plugged into.
#[derive(Debug)]
enum Plug {
    /// Nothing yet: somebody may come to the path.
    Waiting(Listener),
    /// Another tender, or whoever it is.
    Connected(OwnedFd),
    /// Nothing, and the path is of no use any more.
    Loose,
}

/// Takes part in a wait for what is plugged in: an `epoll` instance stays the same when the socket does not.
const READABLE: EpollFlags = EpollFlags::EPOLLIN;

impl UnixNet {
    /// Plugs a cable into what waits at `path`, or waits there. The hardware address is `mac`, or else a random one.
    ///
    /// # Errors
    /// [`UnixNetError`] when nobody can be met there.
    pub fn attach(path: impl Into<PathBuf>, mac: Option<[u8; 6]>) -> Result<Self, UnixNetError> {
        let path = path.into();
        let attach = || {
            let mac = mac.map_or_else(random_mac, Ok)?;
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
            let endpoint = Arc::new(Endpoint::new(epoll.0.try_clone()?));
            let folder = File::open(folder(&path)).map_err(Problem::Folder)?;
            Ok((meet(&path)?, mac, epoll, endpoint, folder))
        };
        match attach() {
            Ok((plug, mac, epoll, endpoint, folder)) => {
                let complaint = Complaint::default();
                let mut this = Self { endpoint, epoll, path, folder, plug: Plug::Loose, mac, complaint };
                this.plug_into(plug);
                Ok(this)
            }
            Err(problem) => Err(UnixNetError { path, problem }),
        }
    }

    /// Watches another socket from now on.
    fn plug_into(&mut self, plug: Plug) {
        if let Some(socket) = self.plug.socket() {
            // Closing it would do as well, if no process that is just being made had it too.
            let _ = self.epoll.delete(socket);
        }
        self.plug = plug;
        if let Some(socket) = self.plug.socket()
            && let Err(errno) = self.epoll.add(socket, EpollEvent::new(READABLE, 0))
        {
            log::error!("{}: cannot be watched: {errno}", self.path.display());
        }
    }

    /// The socket to the other end, if there is one.
    fn other_end(&mut self) -> Option<&OwnedFd> {
        if matches!(self.plug, Plug::Loose) {
            self.meet_again();
        }
        if let Plug::Waiting(listener) = &self.plug
            && let Some(socket) = listener.accept()
        {
            log::info!("{}: another tender has come", self.path.display());
            self.plug_into(Plug::Connected(socket));
        }
        match &self.plug {
            Plug::Connected(socket) => Some(socket),
            Plug::Waiting(_) | Plug::Loose => None,
        }
    }

    fn meet_again(&mut self) {
        match meet(&self.path) {
            Ok(plug) => {
                self.complaint.works();
                self.plug_into(plug);
            }
            Err(problem) => {
                self.complaint.fails(format_args!("network socket {} {problem}", self.path.display()));
                self.plug_into(Plug::Loose);
            }
        }
    }

    /// The other end is gone: whoever comes next is welcome.
    fn hang_up(&mut self) {
        log::info!("{}: the other tender is gone", self.path.display());
        self.plug_into(Plug::Loose);
        self.meet_again();
    }
}

impl Plug {
    fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Self::Waiting(listener) => Some(&listener.socket),
            Self::Connected(socket) => Some(socket),
            Self::Loose => None,
        }
    }
}

impl Pollable for UnixNet {
    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint)
    }
}

impl Net for UnixNet {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        if frame.len() < FRAME_HEADER_SIZE {
            return Err(DeviceError);
        }
        let Some(socket) = self.other_end() else { return Ok(()) };
        match send_message(socket.as_fd(), frame) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Err(DeviceError),
            // The other end does not keep up.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => Ok(()),
            Err(_) => {
                self.hang_up();
                Ok(())
            }
        }
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        if into.is_empty() {
            return Ok(None);
        }
        let Some(socket) = self.other_end() else { return Ok(None) };
        match receive(socket.as_fd(), into) {
            Ok(received) if received > 0 => Ok(Some(received as u64)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Ok(_) | Err(_) => {
                self.hang_up();
                Ok(None)
            }
        }
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        vec![Descriptor::new(&self.folder, Uses::MEET)]
    }
}

/// A socket at a path. Dropping it takes the path away.
#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the path: somebody else may have made it anew.
    file: (u64, u64),
}

impl Listener {
    fn accept(&self) -> Option<OwnedFd> {
        use std::os::fd::FromRawFd;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accepted = accept4(self.socket.as_raw_fd(), flags).ok()?;
        // SAFETY: the kernel has just made this descriptor for us.
        Some(unsafe { OwnedFd::from_raw_fd(accepted) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _alone = Folder::of(&self.path);
        let found = fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if found.is_ok_and(|found| found == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The folder of a path, locked: tenders that come to the path at the same time do so one after the other.
struct Folder(#[expect(dead_code, reason = "it is locked while it is open")] File);

impl Folder {
    fn of(path: &Path) -> io::Result<Self> {
        let folder = File::open(folder(path))?;
        folder.lock()?;
        Ok(Self(folder))
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Connects to who waits at `path`, or waits there.
fn meet(path: &Path) -> Result<Plug, Problem> {
    let address = UnixAddr::new(path).map_err(|_| Problem::Name)?;
    let _alone = Folder::of(path).map_err(Problem::Folder)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(io::Error::from)?;
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => {
            // Two are met, and nobody else is to come. Who waited does it where this user may not.
            let _ = fs::remove_file(path);
            return Ok(Plug::Connected(socket));
        }
        Err(Errno::ENOENT) => {}
        // Who waited there was killed, or it is no socket at all.
        Err(Errno::ECONNREFUSED) if fs::symlink_metadata(path)?.file_type().is_socket() => fs::remove_file(path)?,
        Err(Errno::ECONNREFUSED) => return Err(Problem::NoSocket),
        Err(Errno::EPROTOTYPE) => return Err(Problem::Foreign),
        Err(errno) => return Err(Problem::Host(errno.into())),
    }
    bind(socket.as_raw_fd(), &address).map_err(io::Error::from)?;
    let found = fs::symlink_metadata(path)?;
    let listener = Listener { socket, path: path.into(), file: (found.dev(), found.ino()) };
    // One is enough.
    let one = Backlog::new(0).map_err(io::Error::from)?;
    listen(&listener.socket, one).map_err(io::Error::from)?;
    Ok(Plug::Waiting(listener))
}

/// A cable cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("network socket {} {problem}", path.display())]
pub struct UnixNetError {
    /// Where tenders were to meet.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// Why tenders cannot meet at a path.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No socket can have this path.
    #[error("cannot exist: a socket's path has 1 to 107 bytes")]
    Name,
    /// Its folder cannot be opened.
    #[error("cannot be looked for: its folder: {0}")]
    Folder(io::Error),
    /// Something else lies there.
    #[error("is something else: move it away, or choose another path")]
    NoSocket,
    /// A socket of another kind.
    #[error("belongs to another program: choose another path")]
    Foreign,
    /// The host refuses.
    #[error("cannot be had: {0}")]
    Host(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Buffer;
    use crate::device::{FdPoller, Poller};
    use crate::stop::Stop;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use tempfile::TempDir;

    /// A path that nobody else has.
    fn place() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("cable");
        (folder, path)
    }

    fn attach(path: &Path) -> UnixNet {
        UnixNet::attach(path, None).unwrap()
    }

    fn send(from: &mut UnixNet, byte: u8) {
        Buffer::of(&[byte; 60]).in_pieces(|slice| from.send(slice)).unwrap();
    }

    /// Whether a frame of these bytes comes within a minute, for a guest that waits for it.
    fn comes(to: &mut UnixNet, byte: u8) -> bool {
        let mut poller = FdPoller::new(Stop::new().unwrap(), [(1, to.endpoint())]);
        let buffer = Buffer::zeroed(100);
        while poller.poll(60_000_000_000).unwrap() != 0 {
            if let Some(len) = buffer.in_pieces(|slice| to.receive(slice)).unwrap() {
                return buffer.bytes()[..len as usize] == [byte; 60];
            }
        }
        false
    }

    fn is_quiet(net: &mut UnixNet) -> bool {
        Buffer::zeroed(100).with(|slice| net.receive(slice)) == Ok(None)
            && FdPoller::new(Stop::new().unwrap(), [(1, net.endpoint())]).poll(1000) == Ok(0)
    }

    #[test]
    fn two_meet_and_nobody_else() {
        let (_folder, path) = place();
        let mut first = attach(&path);
        assert!(path.exists() && is_quiet(&mut first));
        send(&mut first, 0);
        let mut second = attach(&path);
        assert!(!path.exists() && first.mac() != second.mac());
        // What was sent before there was anybody is lost.
        assert!(is_quiet(&mut second));
        send(&mut second, 1);
        assert!(comes(&mut first, 1));
        send(&mut first, 2);
        assert!(comes(&mut second, 2) && is_quiet(&mut first) && is_quiet(&mut second));
        let mut third = attach(&path);
        let mut fourth = attach(&path);
        send(&mut third, 3);
        assert!(comes(&mut fourth, 3) && is_quiet(&mut first) && is_quiet(&mut second));
    }

    #[test]
    fn who_is_left_waits_for_the_next() {
        let (_folder, path) = place();
        let (mut first, second) = (attach(&path), attach(&path));
        let next = |mut left: UnixNet, gone: UnixNet, byte| {
            drop(gone);
            // It notices at its next poll.
            assert!(is_quiet(&mut left) && path.exists());
            let mut next = attach(&path);
            send(&mut next, byte);
            assert!(comes(&mut left, byte));
            (left, next)
        };
        send(&mut first, 1);
        let (first, third) = next(first, second, 2);
        // Now that which has connected is left.
        let (mut third, fourth) = next(third, first, 3);
        drop(fourth);
        // Or when it sends.
        send(&mut third, 4);
        assert!(path.exists());
        // The next one may be there first.
        let (mut third, mut fifth) = (third, attach(&path));
        drop(fifth);
        fifth = attach(&path);
        send(&mut third, 5);
        send(&mut third, 6);
        assert!(comes(&mut fifth, 6), "the frame at which it noticed is lost");
        drop(third);
        drop(fifth);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_a_killed_tender_left_is_taken_away() {
        let (_folder, path) = place();
        let address = UnixAddr::new(&path).unwrap();
        let dead = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(dead.as_raw_fd(), &address).unwrap();
        drop(dead);
        assert!(path.exists());
        let (mut first, mut second) = (attach(&path), attach(&path));
        send(&mut first, 1);
        assert!(comes(&mut second, 1));
    }

    #[test]
    fn many_at_once_find_a_partner_each() {
        let (_folder, path) = place();
        let nets: Vec<_> = (0..16)
            .map(|_| {
                thread::spawn({
                    let path = path.clone();
                    move || attach(&path)
                })
            })
            .collect();
        let mut nets: Vec<_> = nets.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(nets.iter_mut().all(|net| net.other_end().is_some()));
        nets.iter_mut().for_each(|net| send(net, 7));
        assert!(nets.iter_mut().all(|net| comes(net, 7)));
        assert!(!path.exists());
    }

    #[test]
    fn a_slow_reader_loses_frames_and_nothing_else() {
        let (_folder, path) = place();
        let (mut first, mut second) = (attach(&path), attach(&path));
        assert!(is_quiet(&mut first));
        for _ in 0..10_000 {
            send(&mut first, 1);
        }
        assert!(comes(&mut second, 1));
        assert_eq!(Buffer::zeroed(13).with(|slice| first.send(slice)), Err(DeviceError));
        assert_eq!(Buffer::zeroed(16 << 20).with(|slice| first.send(slice)), Err(DeviceError));
        send(&mut second, 2);
        assert!(comes(&mut first, 2));
    }

    #[test]
    fn says_what_is_wrong_with_a_path() {
        let (folder, path) = place();
        let problem = |path: &Path| {
            let error = UnixNet::attach(path, None).unwrap_err();
            assert!(!error.to_string().contains('\n'));
            error.problem
        };
        fs::write(&path, "words").unwrap();
        assert!(matches!(problem(&path), Problem::NoSocket));
        assert_eq!(fs::read(&path).unwrap(), b"words");
        assert!(matches!(problem(&folder.path().join("none/cable")), Problem::Folder(_)));
        assert!(matches!(problem(&folder.path().join("x".repeat(200))), Problem::Name));
        let stream = folder.path().join("stream");
        let _listener = UnixListener::bind(&stream).unwrap();
        assert!(matches!(problem(&stream), Problem::Foreign));
        assert!(matches!(problem(folder.path()), Problem::NoSocket), "a folder");
    }
}
