//! Disk in memory.

mod fault;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use self::fault::{Faults, Write};
use super::block::{self, OpenError};
use super::{Block, DEFAULT_BLOCK_SIZE, Descriptor, DeviceError, Sleep, Uses};
use crate::interrupted::retry;
use crate::memory::GuestSlice;
use crate::virtual_time::VirtualTime;
use hvt_core::device::store::{self, Store};

/// Disk in memory. Written data are kept until the last clone is dropped, and no file is modified.
///
/// Clones share their contents: the guest gets one clone, and a test keeps another one to inspect
/// the contents, to inject faults, or to pass the disk to the next guest.
///
/// ```
/// use hvt_tender::device::{Block, Disk};
///
/// let disk = Disk::from_bytes(*b"contents of the first block");
/// assert_eq!(disk.capacity(), 512, "rounded up to a whole block");
/// assert!(disk.contents()?.starts_with(b"contents of"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    capacity: u64,
    block_size: u16,
    time: Option<VirtualTime>,
    /// Sleep that a cancelled run ends.
    sleep: Option<Arc<dyn Sleep>>,
}

#[derive(Debug)]
struct State {
    store: Store<Base>,
    faults: Faults,
}

/// Initial contents.
#[derive(Debug)]
enum Base {
    Bytes(Vec<u8>),
    File(File),
}

impl store::Base for Base {
    type Error = io::Error;

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let file = match self {
            Self::Bytes(bytes) => return bytes.read(offset, into).map_err(|never| match never {}),
            Self::File(file) => file,
        };
        let mut done = 0;
        while done < into.len() {
            match retry(|| file.read_at(&mut into[done..], offset + done as u64))? {
                0 => break,
                read => done += read,
            }
        }
        into[done..].fill(0);
        Ok(())
    }
}

impl Disk {
    /// Creates a disk of `bytes` zeros, rounded up to whole blocks. Only written blocks use memory.
    #[must_use]
    pub fn empty(bytes: u64) -> Self {
        Self::new(Base::Bytes(Vec::new()), bytes)
    }

    /// Creates a disk with `bytes`, followed by zeros up to the end of the last block.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let capacity = bytes.len() as u64;
        Self::new(Base::Bytes(bytes), capacity)
    }

    /// Creates a copy-on-write disk of the file or block device at `path`: writes stay in memory,
    /// and the file is never modified. The file is opened for reading, and locked (`flock`) against
    /// a [`FileBlock`](super::FileBlock) that would write to it.
    ///
    /// # Errors
    /// Returns [`OpenError`] if the file cannot be read, is in use, or is empty.
    pub fn copy_on_write(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        Self::copy_in_blocks(path, u64::from(DEFAULT_BLOCK_SIZE))
    }

    /// Like [`copy_on_write`](Self::copy_on_write), with blocks of `block_size` bytes.
    ///
    /// # Errors
    /// Returns [`OpenError::BlockSize`] too, if the block size is invalid.
    pub fn copy_in_blocks(path: impl Into<PathBuf>, block_size: u64) -> Result<Self, OpenError> {
        let path = path.into();
        let block_size = block::check_block_size(block_size)?;
        match block::open(&path, true, 0) {
            Ok((_, 0)) => Err(OpenError::Size { path, capacity: 0, block_size }),
            Ok((file, size)) => Ok(Self::new(Base::File(file), size).with_block_size(block_size)),
            Err(problem) => Err(OpenError::Open { path, problem }),
        }
    }

    fn new(base: Base, bytes: u64) -> Self {
        let state = State { store: Store::new(base), faults: Faults::default() };
        let state = Arc::new(Mutex::new(state));
        Self { state, capacity: bytes, block_size: DEFAULT_BLOCK_SIZE, time: None, sleep: None }
            .with_block_size(DEFAULT_BLOCK_SIZE)
    }

    /// Sets the block size in bytes, a power of two from 512 on (default: 512). The size of the
    /// disk is rounded up to whole blocks. An invalid block size is refused when the disk is
    /// attached.
    #[must_use]
    pub fn with_block_size(mut self, block_size: u16) -> Self {
        self.block_size = block_size;
        let rounded = self.capacity.max(1).checked_next_multiple_of(u64::from(block_size));
        self.capacity = rounded.unwrap_or(self.capacity);
        self
    }

    /// Makes [`slow_down`](Self::slow_down) take this virtual time, for a guest in virtual time.
    #[must_use]
    pub fn virtual_time(mut self, time: &VirtualTime) -> Self {
        self.time = Some(time.clone());
        self
    }

    /// Returns the whole contents of the disk.
    ///
    /// # Errors
    /// Returns an [`io::Error`] if the underlying file cannot be read or the contents do not fit
    /// into memory.
    pub fn contents(&self) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.capacity).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut all = Vec::new();
        all.try_reserve_exact(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        all.resize(size, 0);
        self.lock().store.read(0, &mut all)?;
        Ok(all)
    }

    /// Returns the number of reads so far, including failed ones.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.lock().faults.reads
    }

    /// Returns the number of writes so far, including failed ones.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.lock().faults.writes
    }

    /// Makes the `nth` read fail, counted from 1 over all guests of the disk.
    pub fn fail_read(&self, nth: u64) {
        self.lock().faults.failing_reads.insert(nth);
    }

    /// Makes the `nth` write fail without writing anything, counted like reads.
    pub fn fail_write(&self, nth: u64) {
        self.lock().faults.torn_writes.insert(nth, Write::Refused);
    }

    /// Simulates a power failure in the `nth` write: its first `bytes` bytes are written, the
    /// others keep their old contents, and every later access fails until [`repair`](Self::repair).
    ///
    /// ```
    /// use hvt_tender::{Disk, Script};
    ///
    /// let disk = Disk::from_bytes([b'.'; 512]);
    /// disk.tear_write(1, 3);
    /// Script::new().block_write("storage", 0, [b'x'; 512]).halt(0).unikernel()?.block("storage", disk.clone()).run()?;
    /// disk.repair();
    /// let again = Script::new().block_read("storage", 0, 512).puts_read(5).halt(0).unikernel()?;
    /// assert_eq!(again.block("storage", disk).output()?.text(), "xxx..");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tear_write(&self, nth: u64, bytes: u64) {
        self.lock().faults.torn_writes.insert(nth, Write::Torn(bytes));
    }

    /// Delays every read and write by `time`, in the host's time or in the disk's [virtual
    /// time](Self::virtual_time). The end of the guest, or a debugger that stops it, ends the
    /// delay.
    pub fn slow_down(&self, time: Duration) {
        self.lock().faults.delay = time;
    }

    /// Removes all faults. The contents left by a torn write stay.
    pub fn repair(&self) {
        self.lock().faults.repair();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Only a test panics while it holds the lock, and the contents remain valid bytes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let delay = self.lock().faults.delay;
        match &self.time {
            _ if delay.is_zero() => {}
            Some(time) => time.sleep(delay),
            None => match &self.sleep {
                Some(sleep) => sleep.sleep(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)),
                None => thread::sleep(delay),
            },
        }
    }
}

impl Block for Disk {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn block_size(&self) -> u16 {
        self.block_size
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        match self.lock().store.base() {
            Base::Bytes(_) => Vec::new(),
            Base::File(file) => vec![Descriptor::new(file, Uses::READ_AT)],
        }
    }

    fn wait_by(&mut self, sleep: Arc<dyn Sleep>) {
        self.sleep = Some(sleep);
    }

    /// The contents are shared.
    fn clone_handle(&self) -> Option<Box<dyn Block + Send>> {
        Some(Box::new(self.clone()))
    }

    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.wait();
        let mut state = self.lock();
        if !state.faults.next_read() {
            return Err(DeviceError);
        }
        state.store.read_to(offset, into).map_err(|error| {
            log::warn!("copy-on-write disk: cannot read its file at byte {offset}: {error}");
            DeviceError
        })
    }

    fn write(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.wait();
        let mut state = self.lock();
        let kept = match state.faults.next_write() {
            Write::Whole => from,
            Write::Torn(bytes) => from.prefix(bytes),
            Write::Refused => return Err(DeviceError),
        };
        let written = state.store.write_from(offset, kept);
        if let Err(error) = &written {
            log::warn!("copy-on-write disk: cannot read its file at byte {offset}: {error}");
        }
        if written.is_ok() && kept.len() == from.len() && !state.faults.dead { Ok(()) } else { Err(DeviceError) }
    }
}
