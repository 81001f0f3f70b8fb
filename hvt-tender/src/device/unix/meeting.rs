//! Two tenders find each other at a path.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, setsockopt, socket, sockopt,
};

/// Longest wait for the lock of a folder where nothing but the lock is missing. Tenders hold it for less than a millisecond,
/// many of them one after the other.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// Bytes of frames, with the kernel's own for each, that are on their way. Linux takes no more than `net.core.wmem_max`.
const SEND_BUFFER: usize = 4 << 20;

/// What an end of a cable is plugged into.
#[derive(Debug)]
pub(super) enum Plug {
    /// Nothing yet: another tender may come to the path.
    Waiting(Listener),
    /// Another tender, or any other program.
    Connected(OwnedFd),
    /// Nothing, and the path is of no use any more.
    Loose,
}

impl Plug {
    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Self::Waiting(listener) => Some(&listener.socket),
            Self::Connected(socket) => Some(socket),
            Self::Loose => None,
        }
    }
}

/// A socket at a path. Dropping it takes the path away.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    folder: Folder,
    /// Device and inode of the path: another tender may have made it anew.
    file: (u64, u64),
}

impl Listener {
    pub(super) fn accept(&self) -> Option<OwnedFd> {
        use std::os::fd::FromRawFd;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accepted = accept4(self.socket.as_raw_fd(), flags).ok()?;
        // SAFETY: the kernel has just made this descriptor for us.
        let accepted = unsafe { OwnedFd::from_raw_fd(accepted) };
        enlarge_buffer(&accepted);
        Some(accepted)
    }

    fn is_at_path(&self) -> bool {
        let found = fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        found.is_ok_and(|found| found == self.file)
    }
}

impl Drop for Listener {
    /// Leaves the path alone if the folder stays locked: the next tender finds a socket that no tender listens at, as after
    /// a tender that was killed.
    fn drop(&mut self) {
        if self.is_at_path()
            && let Ok(_alone) = self.folder.lock(PATIENCE)
            && self.is_at_path()
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The folder of a path. It stays open, so that a sandbox can tell it from others, and that its lock takes no path.
#[derive(Clone, Debug)]
pub(super) struct Folder(Arc<File>);

impl Folder {
    /// Opens the folder of `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Without O_DIRECTORY the open of a FIFO waits for a writer.
        let open = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(folder);
        open.map(|folder| Self(Arc::new(folder)))
    }

    /// Locks it: tenders that come to a path at the same time do so one after the other. Any program may hold the lock, for
    /// as long as it likes, so that the wait ends after `patience`.
    fn lock(&self, patience: Duration) -> Result<Alone<'_>, Problem> {
        let start = Instant::now();
        loop {
            match self.0.try_lock() {
                Ok(()) => return Ok(Alone(self)),
                Err(TryLockError::Error(error)) => return Err(Problem::Folder(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= patience => return Err(Problem::Locked),
                Err(TryLockError::WouldBlock) => {
                    // A sleep that a sandbox allows.
                    let _ = poll(&mut [], PollTimeout::from(1u8));
                }
            }
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The lock of a folder, held.
struct Alone<'f>(&'f Folder);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let _ = self.0.0.unlock();
    }
}

/// Connects to the tender that waits at `path`, or waits there. `folder` is that of the path.
pub(super) fn meet(path: &Path, folder: &Folder, patience: Duration) -> Result<Plug, Problem> {
    let address = UnixAddr::new(path).map_err(|_| Problem::Name)?;
    let _alone = folder.lock(patience)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(io::Error::from)?;
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => {
            // Two are met, and no other is to come. The tender that waited does it where this user may not.
            let _ = fs::remove_file(path);
            enlarge_buffer(&socket);
            return Ok(Plug::Connected(socket));
        }
        Err(Errno::ENOENT) => {}
        // The tender that waited there was killed, or it is no socket at all.
        Err(Errno::ECONNREFUSED) if fs::symlink_metadata(path)?.file_type().is_socket() => fs::remove_file(path)?,
        Err(Errno::ECONNREFUSED) => return Err(Problem::NoSocket),
        Err(Errno::EPROTOTYPE) => return Err(Problem::Foreign),
        Err(errno) => return Err(Problem::Host(errno.into())),
    }
    bind(socket.as_raw_fd(), &address).map_err(io::Error::from)?;
    let found = fs::symlink_metadata(path)?;
    let listener = Listener { socket, path: path.into(), folder: folder.clone(), file: (found.dev(), found.ino()) };
    // One is enough.
    let one = Backlog::new(0).map_err(io::Error::from)?;
    listen(&listener.socket, one).map_err(io::Error::from)?;
    Ok(Plug::Waiting(listener))
}

/// Makes room for more frames than the 90 of 1,500 bytes that Linux lets be on their way by itself.
fn enlarge_buffer(socket: &OwnedFd) {
    // Where it is refused, fewer are.
    let _ = setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER);
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
    /// Another program has locked its folder.
    #[error("cannot be looked for: another program has locked its folder (flock)")]
    Locked,
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
