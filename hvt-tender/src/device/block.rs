//! Block device backed by a file or a block device of the host.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::io::{RateLimitedWarning, read_all_at, write_all_at};
use super::{Block, Descriptor, DeviceError, Uses};
use crate::memory::GuestSlice;

mod open;

pub use open::{OpenError, Problem};
pub(super) use open::{check_block_size, open};

/// Default and smallest block size in bytes.
pub const DEFAULT_BLOCK_SIZE: u16 = 512;

/// Largest block size in bytes: the largest power of two that fits the 16-bit field of the
/// manifest.
pub(crate) const MAX_BLOCK_SIZE: u64 = 1 << 15;

/// Options for opening a [`FileBlock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Block size in bytes.
    pub block_size: u64,
    /// Makes writes of the guest fail.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { block_size: u64::from(DEFAULT_BLOCK_SIZE), read_only: false }
    }
}

/// File or block device of the host as a block device of the guest.
///
/// The open file is locked with `flock`: exclusively if it is writable, otherwise shared with other
/// readers. A writable block device is opened with `O_EXCL` too, so that it is neither mounted nor
/// in other use by the host.
#[derive(Debug)]
pub struct FileBlock {
    pub(crate) file: File,
    path: PathBuf,
    pub(crate) capacity: u64,
    pub(crate) block_size: u16,
    writable: bool,
    /// Set if written data may not have reached the disk.
    pub(crate) dirty: bool,
    warning: RateLimitedWarning,
}

impl FileBlock {
    /// Opens the file or block device at `path`.
    ///
    /// # Errors
    /// Returns [`OpenError`] if it cannot be opened in this way or is in use, or if its size is not
    /// a multiple of the block size.
    pub fn open(path: impl Into<PathBuf>, options: &Options) -> Result<Self, OpenError> {
        Self::open_with(path.into(), options, 0)
    }

    /// Like [`open`](Self::open), with additional flags of open(2).
    pub(crate) fn open_with(path: PathBuf, options: &Options, flags: libc::c_int) -> Result<Self, OpenError> {
        let block_size = check_block_size(options.block_size)?;
        match open(&path, options.read_only, flags) {
            Ok((_, capacity)) if capacity == 0 || !capacity.is_multiple_of(u64::from(block_size)) => {
                Err(OpenError::Size { path, capacity, block_size })
            }
            Ok((file, capacity)) => {
                let writable = !options.read_only;
                let (dirty, warning) = (false, RateLimitedWarning::default());
                Ok(Self { file, path, capacity, block_size, writable, dirty, warning })
            }
            Err(problem) => Err(OpenError::Open { path, problem }),
        }
    }

    #[cold]
    fn failed(&mut self, error: &io::Error, what: fmt::Arguments<'_>) -> DeviceError {
        let path = self.path.display();
        self.warning.fails(format_args!("block device {path}: cannot {what}: {error}"));
        DeviceError
    }

    fn worked(&mut self) -> Result<(), DeviceError> {
        self.warning.works();
        Ok(())
    }

    /// Logs and returns the result of a read at this byte.
    #[inline]
    pub(crate) fn has_read(&mut self, offset: u64, done: io::Result<()>) -> Result<(), DeviceError> {
        match done {
            Ok(()) => self.worked(),
            Err(error) => Err(self.failed(&error, format_args!("read at byte {offset}"))),
        }
    }

    /// Returns whether writes are allowed. Marks the device as unsynchronized, because a failing
    /// write may have written a part too.
    #[inline]
    pub(crate) fn begins_to_write(&mut self) -> bool {
        self.dirty |= self.writable;
        self.writable
    }

    /// Logs and returns the result of a write at this byte.
    #[inline]
    pub(crate) fn has_written(&mut self, offset: u64, done: io::Result<()>) -> Result<(), DeviceError> {
        match done {
            Ok(()) => self.worked(),
            Err(error) => Err(self.failed(&error, format_args!("write at byte {offset}"))),
        }
    }
}

impl Block for FileBlock {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn block_size(&self) -> u16 {
        self.block_size
    }

    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError> {
        let done = read_all_at(self.file.as_fd(), into, offset);
        self.has_read(offset, done)
    }

    fn write(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), DeviceError> {
        let done = if self.begins_to_write() {
            write_all_at(self.file.as_fd(), from, offset)
        } else {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        };
        self.has_written(offset, done)
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        if !self.dirty {
            return Ok(());
        }
        // The kernel reports a write-back error once; a second call would succeed.
        self.dirty = false;
        match self.file.sync_data() {
            Ok(()) => self.worked(),
            Err(error) => Err(self.failed(
                &error,
                format_args!("flush the unikernel's written data to the disk; some of it may be lost"),
            )),
        }
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        let writes = if self.writable { Uses::WRITE_AT | Uses::SYNC } else { Uses::empty() };
        vec![Descriptor::new(&self.file, Uses::READ_AT | writes)]
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "system calls on guest memory")]
pub(crate) mod tests {
    use super::*;
    use crate::device::DirectBlock;
    use crate::device::testing::{Buffer, in_own_namespace};
    use crate::error_chain::ErrorChain;
    use crate::sys::protection;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;

    use nix::sched::CloneFlags;
    use tempfile::{NamedTempFile, TempDir};

    const READ_ONLY: Options = Options { read_only: true, block_size: 512 };

    pub(crate) fn image(size: u64) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    fn open(path: &Path) -> Result<FileBlock, OpenError> {
        FileBlock::open(path, &Options::default())
    }

    fn with_block_size(path: &Path, block_size: u64) -> Result<FileBlock, OpenError> {
        FileBlock::open(path, &Options { block_size, ..Options::default() })
    }

    pub(crate) fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index % 253) as u8).collect()
    }

    #[test]
    fn reads_back_what_was_written_where_it_was_written() {
        let image = image(64 * 512);
        let mut block = open(image.path()).unwrap();
        assert_eq!((block.capacity(), block.block_size()), (64 * 512, 512));
        let data = pattern(20 * 512);
        Buffer::of(&data).with(|slice| block.write(7 * 512, slice)).unwrap();
        Buffer::of(&data).in_pieces(|slice| block.write(44 * 512, slice)).unwrap();
        let whole = fs::read(image.path()).unwrap();
        assert!(whole[7 * 512..27 * 512] == data && whole[44 * 512..] == data);
        assert!(whole[..7 * 512].iter().chain(&whole[27 * 512..44 * 512]).all(|byte| *byte == 0));
        let back = Buffer::zeroed(data.len());
        back.in_pieces(|slice| block.read(7 * 512, slice)).unwrap();
        assert!(back.bytes() == data);
        back.with(|slice| block.read(0, slice)).unwrap();
        assert!(back.bytes() == whole[..data.len()]);
    }

    #[test]
    fn takes_every_block_size_and_no_other() {
        let image = image(32768);
        for size in (9..=15).map(|bits| 1 << bits) {
            assert_eq!(u64::from(with_block_size(image.path(), size).unwrap().block_size()), size);
        }
        for size in [0, 1, 256, 511, 513, 521, 1536, 65535, 65536, 66048, u64::MAX] {
            let error = with_block_size(image.path(), size).unwrap_err().to_string();
            assert!(error.contains("Block size must be a multiple of 2 greater than or equal 512"), "{error}");
            assert!(error.contains(&size.to_string()), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_not_whole_blocks() {
        for (size, block_size) in [(0, 512), (1, 512), (511, 512), (513, 512), (512, 4096), (4096 + 512, 4096)] {
            let image = image(size);
            let error = with_block_size(image.path(), block_size).unwrap_err().to_string();
            assert!(error.contains("Backing storage size must be block aligned"), "{error}");
            assert!(error.contains(image.path().to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_device_that_can_be_written_has_one_user() {
        let image = image(512);
        let first = open(image.path()).unwrap();
        for options in [Options::default(), READ_ONLY] {
            let error = FileBlock::open(image.path(), &options).unwrap_err();
            assert!(matches!(&error, OpenError::Open { problem: Problem::InUse, .. }), "{error}");
            let text = ErrorChain::of(&error).to_string();
            assert!(text.contains("in use by another tender"), "{text}");
        }
        drop(first);
        let readers = [(); 2].map(|()| FileBlock::open(image.path(), &READ_ONLY).unwrap());
        assert!(matches!(open(image.path()), Err(OpenError::Open { problem: Problem::InUse, .. })));
        drop(readers);
        open(image.path()).unwrap();
    }

    #[test]
    fn a_read_only_file_is_refused_unless_asked_for() {
        let image = image(512);
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o444)).unwrap();
        let error = ErrorChain::of(&open(image.path()).unwrap_err()).to_string();
        assert!(error.contains("--block-readonly"), "{error}");
        let mut block = FileBlock::open(image.path(), &READ_ONLY).unwrap();
        let buffer = Buffer::of(&[1; 512]);
        assert_eq!(buffer.with(|slice| block.write(0, slice)), Err(DeviceError));
        assert_eq!(buffer.with(|slice| block.read(0, slice)), Ok(()));
        assert_eq!(buffer.bytes(), [0; 512]);
    }

    #[test]
    fn says_what_is_wrong_with_what_is_no_disk() {
        let folder = TempDir::new().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, words) in [
            (folder.path(), "neither a file nor a block device"),
            (fifo.as_path(), "neither a file nor a block device"),
            (Path::new("/dev/null"), "neither a file nor a block device"),
            (&folder.path().join("missing"), "No such file"),
        ] {
            for options in [Options::default(), READ_ONLY] {
                let error = ErrorChain::of(&FileBlock::open(path, &options).unwrap_err()).to_string();
                assert!(error.contains(words) && error.contains(path.to_str().unwrap()), "{error}");
            }
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_of_the_device() {
        let image = image(1024);
        let mut block = open(image.path()).unwrap();
        image.as_file().set_len(700).unwrap();
        let buffer = Buffer::zeroed(1024);
        assert_eq!(buffer.with(|slice| block.read(0, slice)), Err(DeviceError));
    }

    #[test]
    fn reading_leaves_the_file_as_it_was() {
        let image = image(1024);
        // Older than the last modification: `relatime` would update an access time this old.
        image.as_file().set_times(fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH)).unwrap();
        let mut block = open(image.path()).unwrap();
        Buffer::zeroed(512).with(|slice| block.read(512, slice)).unwrap();
        assert_eq!(image.as_file().metadata().unwrap().accessed().unwrap(), std::time::UNIX_EPOCH);
    }

    #[test]
    fn a_file_of_another_user_can_be_read() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test changes its user: run it as root");
            eprintln!("SKIPPED: this test changes its user, which requires root");
            return;
        }
        let image = image(1024);
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let opened = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                // SAFETY: a system call without pointers. It affects this thread alone, which ends
                // here.
                unsafe { libc::syscall(libc::SYS_setfsuid, 65534) };
                FileBlock::open(image.path(), &READ_ONLY)
            });
            other.join().unwrap()
        });
        let back = Buffer::of(&[1; 512]);
        back.with(|slice| opened.unwrap().read(0, slice)).unwrap();
        assert_eq!(back.bytes(), [0; 512]);
    }

    /// A block device of the host has a size, and must not be in other use.
    #[test]
    fn a_block_device_is_a_disk() {
        let Some(device) = LoopDevice::on(image(128 * 512), 512) else { return };
        let mut block = open(&device.path).unwrap();
        assert_eq!(block.capacity(), 128 * 512);
        let buffer = Buffer::of(&pattern(4 * 512));
        buffer.with(|slice| block.write(124 * 512, slice)).unwrap();
        let back = Buffer::zeroed(4 * 512);
        back.with(|slice| block.read(124 * 512, slice)).unwrap();
        assert_eq!(back.bytes(), buffer.bytes());
        assert!(matches!(open(&device.path), Err(OpenError::Open { problem: Problem::Busy, .. })));
        let in_use = FileBlock::open(&device.path, &READ_ONLY).unwrap_err();
        assert!(matches!(in_use, OpenError::Open { problem: Problem::InUse, .. }), "{in_use}");
    }

    /// A read-only block device can be opened for writing, and then fails each write.
    #[test]
    fn a_read_only_block_device_is_refused_unless_asked_for() {
        let Some(device) = LoopDevice::on(image(128 * 512), 512) else { return };
        open(&device.path).unwrap();
        device.set_read_only(true);
        refuses_to_write(
            &device.path,
            |problem| matches!(problem, Problem::ReadOnlyDevice),
            "block device is read-only",
        );
        let error = DirectBlock::open(&device.path, &Options::default()).unwrap_err();
        assert!(matches!(error, OpenError::Open { problem: Problem::ReadOnlyDevice, .. }), "{error}");
        device.set_read_only(false);
        open(&device.path).unwrap();
        let read_only = LoopDevice::read_only(image(128 * 512));
        refuses_to_write(&read_only.path, |problem| matches!(problem, Problem::ReadOnlyDevice), "losetup -r");
    }

    /// The permissions allow writing, or cannot be changed.
    #[test]
    fn a_read_only_file_system_is_not_a_matter_of_permissions() {
        in_own_namespace(CloneFlags::CLONE_NEWNS, || {
            let folder = TempDir::new().unwrap();
            let mount =
                |flags| nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, None::<&str>).unwrap();
            mount(nix::mount::MsFlags::empty());
            let path = folder.path().join("disk.img");
            File::create(&path).unwrap().set_len(512).unwrap();
            mount(nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_RDONLY);
            let is_right = |problem: &Problem| matches!(problem, Problem::ReadOnlyFileSystem);
            refuses_to_write(&path, is_right, "file system is read-only");
            mount(nix::mount::MsFlags::MS_REMOUNT);
            open(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
            mount(nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_RDONLY);
            refuses_to_write(&path, is_right, "file system is read-only");
            nix::mount::umount(folder.path()).unwrap();
        });
    }

    #[test]
    fn a_sealed_file_is_refused_unless_asked_for() {
        use nix::fcntl::{FcntlArg, SealFlag, fcntl};
        use nix::sys::memfd::{MFdFlags, memfd_create};
        use std::os::fd::AsRawFd;
        let memory = File::from(memfd_create("disk", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
        memory.set_len(512).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        open(&path).unwrap();
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        refuses_to_write(&path, |problem| matches!(problem, Problem::Sealed), "F_SEAL_WRITE");
    }

    /// Applies to root too, who ignores permissions.
    #[test]
    fn an_immutable_file_is_refused_unless_asked_for() {
        let error = std::io::Error::from_raw_os_error(libc::EPERM);
        let problem = protection::of_path(Path::new("disk.img"), false, &error);
        assert!(matches!(problem, Some(Problem::Immutable)));
        assert!(protection::of_path(Path::new("/dev/vda"), true, &error).is_none(), "a device has no attributes");
    }

    /// Asserts that a disk that cannot be written is refused with this problem and these words, and
    /// that it can be read.
    fn refuses_to_write(path: &Path, is_right: impl Fn(&Problem) -> bool, words: &str) {
        let error = open(path).unwrap_err();
        let OpenError::Open { problem, .. } = &error else { panic!("{error}") };
        assert!(is_right(problem), "{error}");
        let message = ErrorChain::of(&error).to_string();
        assert!(message.contains(words) && message.contains("--block-readonly"), "{message}");
        assert!(!message.contains("change its permissions"), "{message}");
        let mut block = FileBlock::open(path, &READ_ONLY).unwrap();
        let buffer = Buffer::zeroed(512);
        assert_eq!(buffer.with(|slice| block.read(0, slice)), Ok(()));
        assert_eq!(buffer.with(|slice| block.write(0, slice)), Err(DeviceError));
    }

    /// Loop device on a file. Creating one requires root.
    pub(crate) struct LoopDevice {
        pub(crate) path: PathBuf,
        _file: Option<NamedTempFile>,
    }

    impl LoopDevice {
        /// Creates a loop device on this file, with sectors of `sector` bytes.
        pub(crate) fn on(file: NamedTempFile, sector: u32) -> Option<Self> {
            let mut device = Self::at(file.path(), sector)?;
            device._file = Some(file);
            Some(device)
        }

        /// Like [`on`](Self::on), for a file that the caller keeps.
        pub(crate) fn at(file: &Path, sector: u32) -> Option<Self> {
            if !nix::unistd::geteuid().is_root() {
                assert!(std::env::var_os("CI").is_none(), "this test creates a loop device: run it as root");
                eprintln!("SKIPPED: this test creates a loop device, which requires root");
                return None;
            }
            let device = Self::make(&[&format!("--sector-size={sector}")], file);
            // An earlier user of the device may have left the flag set.
            device.set_read_only(false);
            Some(device)
        }

        /// Creates a read-only loop device on this file.
        fn read_only(file: NamedTempFile) -> Self {
            let mut device = Self::make(&["--read-only"], file.path());
            device._file = Some(file);
            device
        }

        fn make(options: &[&str], file: &Path) -> Self {
            let output = Command::new("losetup").args(["--find", "--show"]).args(options).arg(file).output().unwrap();
            assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
            let path = String::from_utf8(output.stdout).unwrap().trim().into();
            Self { path, _file: None }
        }

        /// Sets the read-only flag of the device, which outlives the file.
        fn set_read_only(&self, read_only: bool) {
            use std::os::fd::AsRawFd;
            /// `BLKROSET` (`linux/fs.h`).
            const BLKROSET: libc::Ioctl = 0x125d;
            let device = File::open(&self.path).unwrap();
            let value = libc::c_int::from(read_only);
            // SAFETY: BLKROSET reads one `int` through its argument.
            let set = unsafe { libc::ioctl(device.as_raw_fd(), BLKROSET, &raw const value) };
            assert_eq!(set, 0, "{}", io::Error::last_os_error());
        }
    }

    impl Drop for LoopDevice {
        fn drop(&mut self) {
            // The device is removed when its last user closes it.
            let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
        }
    }

    /// A failing `fdatasync` shows that it was called: it fails on a pipe.
    #[test]
    fn what_was_written_is_synchronised_once() {
        let image = image(1024);
        let mut block = open(image.path()).unwrap();
        assert_eq!(block.sync(), Ok(()));
        let disk = std::mem::replace(&mut block.file, crate::device::testing::pipe().1.into());
        assert_eq!(block.sync(), Ok(()), "nothing was written");
        let pipe = std::mem::replace(&mut block.file, disk);
        Buffer::of(&[1; 512]).with(|slice| block.write(512, slice)).unwrap();
        let disk = std::mem::replace(&mut block.file, pipe);
        assert_eq!(block.sync(), Err(DeviceError));
        block.file = disk;
        Buffer::of(&[1; 512]).with(|slice| block.write(0, slice)).unwrap();
        assert_eq!(block.sync(), Ok(()));
        assert!(!block.dirty);
    }

    /// Sparse image on a disk that is too small for it.
    #[test]
    fn a_full_disk_is_an_error_of_the_device() {
        in_own_namespace(CloneFlags::CLONE_NEWNS, || {
            let folder = TempDir::new().unwrap();
            nix::mount::mount(
                Some("tmpfs"),
                folder.path(),
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                Some("size=64k"),
            )
            .unwrap();
            let path = folder.path().join("disk.img");
            File::create(&path).unwrap().set_len(1 << 20).unwrap();
            let mut block = open(&path).unwrap();
            let buffer = Buffer::of(&[7; 32768]);
            assert_eq!(buffer.with(|slice| block.write(0, slice)), Ok(()));
            assert_eq!(Buffer::of(&[7; 1 << 19]).with(|slice| block.write(1 << 19, slice)), Err(DeviceError));
            assert_eq!(buffer.with(|slice| block.read(0, slice)), Ok(()), "what was written is still there");
            assert_eq!(buffer.bytes(), [7; 32768]);
            drop(block);
            nix::mount::umount(folder.path()).unwrap();
        });
    }
}
