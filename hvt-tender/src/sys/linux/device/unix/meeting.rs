//! Meeting of two tenders at a path.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

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

/// Longest wait for the lock of a folder. Each of possibly many tenders holds the lock for less
/// than a millisecond.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// Buffer size for frames in transit, including the kernel's overhead per frame. Linux limits it to
/// `net.core.wmem_max`.
const SEND_BUFFER: usize = 4 << 20;

/// Connection of one end of a cable.
#[derive(Debug)]
pub(super) enum Plug {
    /// Listening: another tender may connect at the path.
    Waiting(Listener),
    /// Connected to another tender, or to any other program.
    Connected(OwnedFd),
    /// Neither listening nor connected.
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

/// Listening socket at a path. Dropping it removes the socket file.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    folder: Folder,
    /// Device and inode of the socket file. Another tender may have replaced the file.
    file: (u64, u64),
}

impl Listener {
    pub(super) fn accept(&self) -> Option<OwnedFd> {
        use std::os::fd::FromRawFd;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accepted = accept4(self.socket.as_raw_fd(), flags).ok()?;
        // SAFETY: the kernel has just created this descriptor.
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
    /// If the folder stays locked, the socket file is left behind. The next tender finds a socket
    /// without a listener, as after a killed tender.
    fn drop(&mut self) {
        if self.is_at_path()
            && let Ok(_alone) = self.folder.lock(PATIENCE)
            && self.is_at_path()
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Folder of a path. It stays open, so that a sandbox can identify it and locking needs no path.
#[derive(Clone, Debug)]
pub(super) struct Folder(Arc<File>);

impl Folder {
    /// Opens the folder of `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Without O_DIRECTORY, opening a FIFO would wait for a writer.
        let open = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(folder);
        open.map(|folder| Self(Arc::new(folder)))
    }

    /// Locks the folder, so that tenders at the same path meet one after the other. Any program may
    /// hold the lock for an unlimited time, so the wait ends after `patience`.
    fn lock(&self, patience: Duration) -> Result<Alone<'_>, Problem> {
        let start = Instant::now();
        loop {
            match self.0.try_lock() {
                Ok(()) => return Ok(Alone(self)),
                Err(TryLockError::Error(error)) => return Err(Problem::Folder(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= patience => return Err(Problem::Locked),
                Err(TryLockError::WouldBlock) => {
                    // A sleep that the sandbox allows.
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

/// Held lock of a folder.
struct Alone<'f>(&'f Folder);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let _ = self.0.0.unlock();
    }
}

/// Connects to the tender that listens at `path`, or listens there. `folder` is the folder of the
/// path.
pub(super) fn meet(path: &Path, folder: &Folder, patience: Duration) -> Result<Plug, Problem> {
    let address = UnixAddr::new(path).map_err(|_| Problem::Name)?;
    let _alone = folder.lock(patience)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(io::Error::from)?;
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => {
            // Two tenders have met, so no other one may connect. If this user may not remove the
            // file, the listening tender does.
            let _ = fs::remove_file(path);
            enlarge_buffer(&socket);
            return Ok(Plug::Connected(socket));
        }
        Err(Errno::ENOENT) => {}
        // The listening tender was killed, or the file is not a socket.
        Err(Errno::ECONNREFUSED) if fs::symlink_metadata(path)?.file_type().is_socket() => fs::remove_file(path)?,
        Err(Errno::ECONNREFUSED) => return Err(Problem::NoSocket),
        Err(Errno::EPROTOTYPE) => return Err(Problem::Foreign),
        Err(errno) => return Err(Problem::Host(errno.into())),
    }
    bind(socket.as_raw_fd(), &address).map_err(io::Error::from)?;
    let found = fs::symlink_metadata(path)?;
    let listener = Listener { socket, path: path.into(), folder: folder.clone(), file: (found.dev(), found.ino()) };
    // One connection is enough.
    let one = Backlog::new(0).map_err(io::Error::from)?;
    listen(&listener.socket, one).map_err(io::Error::from)?;
    Ok(Plug::Waiting(listener))
}

/// Allows more frames in transit than Linux's default, which is 90 frames of 1,500 bytes.
fn enlarge_buffer(socket: &OwnedFd) {
    // If the call fails, fewer frames are in transit.
    let _ = setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER);
}

/// Reason that tenders cannot meet at a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The path is not valid for a socket.
    #[error("cannot exist: a socket's path has 1 to 107 bytes")]
    Name,
    /// The folder cannot be opened.
    #[error("cannot be opened: its folder")]
    Folder(#[source] io::Error),
    /// Another program has locked the folder.
    #[error("cannot be opened: another program has locked its folder (flock)")]
    Locked,
    /// The path is not a socket.
    #[error("is not a socket: move it away, or choose another path")]
    NoSocket,
    /// The socket is of another kind.
    #[error("belongs to another program: choose another path")]
    Foreign,
    /// The host returned an error.
    #[error("cannot be used")]
    Host(#[from] io::Error),
}
