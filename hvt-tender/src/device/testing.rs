//! Guest buffers for tests of the host's devices.

use std::os::fd::OwnedFd;
use std::vec::Vec;

use hvt_abi::{Gpa, GuestRange};
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use crate::memory::{Chunk, GuestMemory, GuestSlice, GuestSpace, MappedMemory, MemoryMap, Permissions, Region};

/// Start of a buffer in its guest's memory, not page-aligned.
const START: Gpa = Gpa(0x1003);

/// Buffer in the memory of a separate guest.
pub(crate) struct Buffer {
    memory: MappedMemory,
    start: Gpa,
    len: usize,
}

impl Buffer {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let buffer = Self::zeroed(bytes.len());
        buffer.fill(bytes);
        buffer
    }

    pub(crate) fn zeroed(len: usize) -> Self {
        Self::at(START, len)
    }

    /// Creates a page-aligned buffer.
    pub(crate) fn aligned(len: usize) -> Self {
        Self::at(Gpa(hvt_abi::PAGE_SIZE), len)
    }

    fn at(start: Gpa, len: usize) -> Self {
        let size = (start.0 + len as u64).next_multiple_of(hvt_abi::PAGE_SIZE);
        Self { memory: MappedMemory::anonymous(size).unwrap(), start, len }
    }

    pub(crate) fn fill(&self, bytes: &[u8]) {
        self.memory.write(self.start, bytes).unwrap();
    }

    /// Calls `each` with the buffer in one piece.
    pub(crate) fn with<R>(&self, each: impl FnOnce(GuestSlice<'_>) -> R) -> R {
        slice(&self.memory, self.start, self.len, each)
    }

    /// Calls `each` with the buffer in pieces of a page, as in a kernel that backs guest memory
    /// with frames.
    pub(crate) fn in_pieces<R>(&self, each: impl FnOnce(GuestSlice<'_>) -> R) -> R {
        slice(&Pieces(&self.memory), self.start, self.len, each)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.memory.read(self.start, &mut bytes).unwrap();
        bytes
    }
}

fn slice<R>(memory: &dyn GuestMemory, start: Gpa, len: usize, each: impl FnOnce(GuestSlice<'_>) -> R) -> R {
    let range = GuestRange::new(Gpa(0), memory.size()).unwrap();
    let memory_map = MemoryMap::new([Region { range, access: Permissions::READ | Permissions::WRITE }]).unwrap();
    each(GuestSpace::new(memory, &memory_map).slice(start, len as u64, Permissions::READ | Permissions::WRITE).unwrap())
}

struct Pieces<'m>(&'m MappedMemory);

impl GuestMemory for Pieces<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        let page_end = Gpa(range.start().0 + 1).checked_align_up(hvt_abi::PAGE_SIZE)?;
        self.0.chunk(GuestRange::between(range.start(), page_end.min(range.end()))?)
    }
}

/// Runs `test` in a thread with new namespaces, which are removed with the thread. Requires root:
/// without root the test is skipped, and in continuous integration it fails.
pub(crate) fn in_own_namespace<T: Send + 'static>(
    flags: CloneFlags,
    test: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test creates namespaces: run it as root");
        std::eprintln!("SKIPPED: this test creates namespaces, which requires root");
        return None;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(flags | CloneFlags::CLONE_FS).unwrap();
        if flags.contains(CloneFlags::CLONE_NEWNS) {
            // Mounts in this namespace stay in this namespace.
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        }
        test()
    });
    Some(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Creates a pipe that processes of other tests do not inherit. Returns its reading and writing
/// ends.
pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap()
}
