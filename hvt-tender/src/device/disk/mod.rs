//! A disk that exists in memory only.

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

/// A disk in memory: what the guest writes is kept until the last clone is dropped, and no file is touched.
///
/// Clones share their contents: the guest gets one, the test keeps another to look at, to break, or to give to the next
/// guest.
///
/// ```
/// use hvt_tender::device::{Block, Disk};
///
/// let disk = Disk::from_bytes(*b"what the guest finds in its first block");
/// assert_eq!(disk.capacity(), 512, "rounded up to a whole block");
/// assert!(disk.contents()?.starts_with(b"what the guest finds"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    capacity: u64,
    block_size: u16,
    time: Option<VirtualTime>,
    /// What ends a wait.
    sleep: Option<Arc<dyn Sleep>>,
}

#[derive(Debug)]
struct State {
    store: Store<Base>,
    faults: Faults,
}

/// What it began with.
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
    /// A disk of `bytes` zeros, rounded up to whole blocks. Memory is taken for what is written only.
    #[must_use]
    pub fn empty(bytes: u64) -> Self {
        Self::new(Base::Bytes(Vec::new()), bytes)
    }

    /// A disk that holds `bytes`, and zeros up to the end of its last block.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let capacity = bytes.len() as u64;
        Self::new(Base::Bytes(bytes), capacity)
    }

    /// A disk that holds what the file or block device at `path` does. What the guest writes stays in memory: the file
    /// is opened for reading, and locked (`flock`) against a [`FileBlock`](super::FileBlock) that would write to it.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be read, is in use, or has no size.
    pub fn copy_on_write(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        Self::copy_in_blocks(path, u64::from(DEFAULT_BLOCK_SIZE))
    }

    /// Likewise, with blocks of this many bytes.
    ///
    /// # Errors
    /// [`OpenError`] also when no device has blocks of this size.
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

    /// Gives it blocks of this many bytes, a power of two from 512 on; it has 512 otherwise. Its size is rounded up to
    /// whole blocks. A size that is no such number is refused when the disk is attached.
    #[must_use]
    pub fn with_block_size(mut self, block_size: u16) -> Self {
        self.block_size = block_size;
        let rounded = self.capacity.max(1).checked_next_multiple_of(u64::from(block_size));
        self.capacity = rounded.unwrap_or(self.capacity);
        self
    }

    /// Makes [`slow_down`](Self::slow_down) take this virtual time, for a guest that lives in it.
    #[must_use]
    pub fn virtual_time(mut self, time: &VirtualTime) -> Self {
        self.time = Some(time.clone());
        self
    }

    /// All that it holds now.
    ///
    /// # Errors
    /// When the file under it cannot be read.
    pub fn contents(&self) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.capacity).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut all = Vec::new();
        all.try_reserve_exact(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        all.resize(size, 0);
        self.lock().store.read(0, &mut all)?;
        Ok(all)
    }

    /// Reads that the guests have made so far, failed ones included.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.lock().faults.reads
    }

    /// Writes that the guests have made so far, failed ones included.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.lock().faults.writes
    }

    /// Makes the `nth` read fail, counted from 1 and from the first that a guest ever made.
    pub fn fail_read(&self, nth: u64) {
        self.lock().faults.failing_reads.insert(nth);
    }

    /// Makes the `nth` write fail without writing anything, counted like reads.
    pub fn fail_write(&self, nth: u64) {
        self.lock().faults.torn_writes.insert(nth, Write::Refused);
    }

    /// Cuts the power in the middle of the `nth` write: its first `bytes` bytes are on the disk, the others are as they
    /// were, and from then on everything fails until [`repair`](Self::repair).
    ///
    /// ```
    /// use hvt_tender::{device::Disk, script::Script};
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

    /// Makes every read and write take `time` longer: of the host's time, or of its [virtual time](Self::virtual_time). The
    /// end of the guest, and a debugger that stops it, end the wait.
    pub fn slow_down(&self, time: Duration) {
        self.lock().faults.delay = time;
    }

    /// Takes back every fault. What a torn write has left stays as it is.
    pub fn repair(&self) {
        self.lock().faults.repair();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while it held the lock did so in a test; the contents are bytes and stay bytes.
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

    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.wait();
        let mut state = self.lock();
        if !state.faults.next_read() {
            return Err(DeviceError);
        }
        state.store.read_to(offset, into).map_err(|error| {
            log::warn!("the file under a disk in memory cannot be read at byte {offset}: {error}");
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
            log::warn!("the file under a disk in memory cannot be read at byte {offset}: {error}");
        }
        if written.is_ok() && kept.len() == from.len() && !state.faults.dead { Ok(()) } else { Err(DeviceError) }
    }
}
