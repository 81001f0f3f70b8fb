//! ELF core files of crashed guests, for `gdb GUEST CORE`.
//!
//! A guest has crashed if it exits with status 255 (abort) or cannot continue after a fault. `elf`
//! builds the headers, and the module of the architecture adds the registers. This module detects a
//! crash and writes the file.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod elf;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process;

use hvt_abi::hypercall::exit_status::ABORT;
use hvt_abi::{Gpa, GuestRange, PAGE_SIZE};

use self::elf::{Cause, headers};
use crate::backend::Machine;
use crate::backend::debug::CpuState;
use crate::memory::GuestMemory;
use crate::monitor::Outcome;
use crate::sandbox::Calls;
use crate::sys::directory::Directory;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

/// Directory for the core files of crashed guests.
#[derive(Debug)]
pub struct CoreDump {
    /// Opened early, because the tender may lack the right to open it after a crash.
    directory: Directory,
    path: PathBuf,
}

impl CoreDump {
    /// Writes core files into this directory as `core.solo5-hvt.PID`, the name that Solo5 uses.
    ///
    /// # Errors
    /// Returns an [`io::Error`] if the path is not a directory or the directory is not writable.
    pub fn into_directory(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let directory = Directory::writable(&path)?;
        Ok(Self { directory, path })
    }

    /// Writes a core file if the guest crashed with this outcome. Success or failure is logged and
    /// does not change the outcome.
    pub fn write(&self, outcome: &Outcome, machine: &mut dyn Machine) {
        let Some((state, cause)) = crash(outcome, machine) else { return };
        let name = format!("core.solo5-hvt.{}", process::id());
        let path = self.path.join(&name);
        match self.create(Path::new(&name), &state, cause, machine.memory()) {
            Ok(()) => log::warn!("the guest's memory and registers were dumped to {}", path.display()),
            Err(error) => log::warn!("cannot dump the guest's memory and registers to {}: {error}", path.display()),
        }
    }

    fn create(&self, name: &Path, state: &CpuState, cause: Cause, memory: &dyn GuestMemory) -> io::Result<()> {
        // Only the owner may read the file: it contains all data of the guest.
        let file = self.directory.create(name)?;
        write(&file, state, cause, memory).inspect_err(|_| {
            // A partial core file could be mistaken for a complete one, so the file is emptied.
            // Removing the file would require the right to remove any file.
            let _ = file.set_len(0);
        })
    }

    /// Returns the directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Allows the system calls that write a core file. No existing file can be opened.
    pub(crate) fn system_calls(&self, calls: &mut Calls) {
        calls.allow_new_file(self.directory.as_fd(), Directory::CREATES);
    }
}

/// Returns the registers, as far as the backend can read them.
fn state(machine: &mut dyn Machine) -> CpuState {
    let all = machine.debug().and_then(|target| target.state().ok());
    all.unwrap_or_else(|| machine.registers().map_or(CpuState::default(), CpuState::from))
}

/// Returns the registers and the cause if the guest crashed.
fn crash(outcome: &Outcome, machine: &mut dyn Machine) -> Option<(CpuState, Cause)> {
    match outcome {
        Outcome::Exited { status: ABORT, cookie } => {
            let state = state(machine);
            Some((at_trap(state, *cookie, machine.memory()), Cause::Abort))
        }
        Outcome::Failed(failure) => {
            // Without these registers, the other registers are not the guest's either.
            let known =
                failure.registers.as_deref().map(|registers| CpuState { registers: *registers, ..state(machine) });
            Some((known.unwrap_or_default(), Cause::Fault))
        }
        Outcome::Exited { .. } | Outcome::Interrupted | Outcome::Asleep | Outcome::Exceeded(_) => None,
    }
}

/// Returns the registers at the trap if the halt cookie points to a trap frame. The registers at
/// the exit are in use by the guest's trap handler.
fn at_trap(state: CpuState, cookie: Option<Gpa>, memory: &dyn GuestMemory) -> CpuState {
    let mut frame = [0; arch::TRAP_FRAME_SIZE];
    match cookie.map(|cookie| memory.read(cookie, &mut frame)) {
        Some(Ok(())) => arch::at_trap(state, &frame),
        _ => state,
    }
}

/// Writes the core file, leaving zero pages as holes.
fn write(file: &File, state: &CpuState, cause: Cause, memory: &dyn GuestMemory) -> io::Result<()> {
    let headers = headers(state, cause, memory.size());
    file.set_len(elf::MEMORY_OFFSET + memory.size())?;
    file.write_all_at(&headers, 0)?;
    let mut page = [0; PAGE_SIZE as usize];
    let mut left = GuestRange::between(Gpa(0), Gpa(memory.size()));
    while let Some(part) = left.and_then(|left| memory.populated(left)) {
        let pages = (part.start().0..part.end().0).step_by(PAGE_SIZE as usize);
        for at in pages {
            memory.read(Gpa(at), &mut page).map_err(io::Error::other)?;
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(&page, elf::MEMORY_OFFSET + at)?;
            }
        }
        left = GuestRange::between(part.end(), Gpa(memory.size()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use crate::memory::fake::FakeMemory;
    use crate::memory::{Chunk, MappedMemory};

    #[test]
    fn memory_is_sparse_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dump = CoreDump::into_directory(folder.path()).unwrap();
        let size = 8 << 20;
        let shared = tempfile::tempfile().unwrap();
        shared.set_len(size).unwrap();
        let memories = [MappedMemory::anonymous(size).unwrap(), MappedMemory::shared(size, shared.into()).unwrap()];
        for (index, memory) in memories.iter().enumerate() {
            memory.write(Gpa(0x20_0ffe), &[1, 2, 3]).unwrap();
            memory.write(Gpa(size - 1), &[4]).unwrap();
            let name = index.to_string();
            dump.create(Path::new(&name), &CpuState::default(), Cause::Fault, memory).unwrap();
            let path = folder.path().join(name);
            let found = path.metadata().unwrap();
            assert_eq!(found.len(), elf::MEMORY_OFFSET + size);
            assert!(found.blocks() * 512 < 1 << 20, "{} blocks of 512 bytes", found.blocks());
            assert_eq!(found.permissions().mode() & 0o777, 0o600);
            let core = fs::read(path).unwrap();
            let guest = &core[elf::MEMORY_OFFSET as usize..];
            let set: Vec<_> =
                guest.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at as u64).collect();
            assert_eq!(set, [0x20_0ffe, 0x20_0fff, 0x20_1000, size - 1]);
        }
    }

    #[test]
    fn no_file_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let dump = CoreDump::into_directory(folder.path()).unwrap();
        let memory = FakeMemory::new(0x4000, &[]);
        fs::write(folder.path().join("core"), "precious").unwrap();
        let error = dump.create(Path::new("core"), &CpuState::default(), Cause::Abort, &memory).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(folder.path().join("core")).unwrap(), b"precious");
    }

    /// Memory that is smaller than its reported size.
    struct Short(FakeMemory);

    impl GuestMemory for Short {
        fn size(&self) -> u64 {
            self.0.size() * 2
        }

        fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
            self.0.chunk(range)
        }
    }

    #[test]
    fn no_file_is_left_half_done() {
        let folder = tempfile::tempdir().unwrap();
        let dump = CoreDump::into_directory(folder.path()).unwrap();
        let memory = Short(FakeMemory::new(0x4000, &[]));
        assert!(dump.create(Path::new("core"), &CpuState::default(), Cause::Abort, &memory).is_err());
        assert_eq!(folder.path().join("core").metadata().unwrap().len(), 0);
    }

    #[test]
    fn only_a_directory_takes_core_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(CoreDump::into_directory(file.path()).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert_eq!(CoreDump::into_directory("/nowhere").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
