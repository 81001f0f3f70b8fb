//! A debugger for guests: the stub that `gdb` connects to with `target remote`.
//!
//! | module | what is in it |
//! |---|---|
//! | `listener` | the TCP port or Unix socket at which it is awaited |
//! | `connection` | the connection, and the thread that notices when the debugger says something while the guest runs |
//! | `architecture` | registers as gdb wants them |
//! | `inferior` | what gdb asks of the guest: registers, memory, breakpoints |
//! | `breakpoints` | software breakpoints in guest memory |
//! | `commands` | `monitor` commands |
//! | `debugged` | a [`Vcpu`] whose runs the debugger sees |
//!
//! The stub sits between the monitor's loop and a backend's [`DebugTarget`](crate::backend::debug::DebugTarget): neither
//! the loop nor a run without a debugger knows of it. The protocol is that of the crate `gdbstub`.
//!
//! What a debugger can do on which backend:
//!
//! | | kvm | kvm, aarch64 | process |
//! |---|---|---|---|
//! | registers | general, segments, x87, SSE | general, TPIDR_EL0, SIMD | as kvm |
//! | memory by guest-virtual address, code and read-only data too | through the guest's page tables | likewise | as it is laid out |
//! | software breakpoints | any number | any number | any number |
//! | hardware breakpoints | four, watchpoints included; then software breakpoints | as many as the CPU has; then software breakpoints | software breakpoints |
//! | watchpoints | four of up to eight bytes, aligned, hardware breakpoints included | as many as the CPU has, each for a part of eight bytes, or for a power of two, aligned | any number, of any length |
//! | step, step over a range of addresses, ctrl-C, detach, kill | yes | yes | yes |
//!
//! A software breakpoint is an instruction in the guest's code, which the debugger does not see when it reads there. On
//! x86_64 it is a `hlt`, on both backends: it leaves the guest without any preparation, and an `int3` remains the guest's
//! own. On aarch64 it is a `brk`, which leaves the guest while there are breakpoints. One of the guest's own is handed back
//! as the exception that it is.
//!
//! On KVM the watchpoints and hardware breakpoints are the CPU's, through `KVM_SET_GUEST_DEBUG`. On x86_64 they have no
//! effect where the CPU is QEMU's emulator. A watchpoint stops the guest behind the instruction on x86_64, and in front of
//! it on aarch64, as gdb expects it on either.
//!
//! A step over an exclusive load of aarch64 (`ldxr`) makes the store that belongs to it fail. gdb knows that: a step over a
//! range of addresses ends in front of such a load, for gdb to put a breakpoint behind the store.
//!
//! Where the process backend is concerned: its child can neither be traced nor reach the debug registers. An instruction
//! is stepped with RFLAGS.TF. What is watched lies in pages that the child may not write, or not access at all: whatever
//! does is executed with the page open and the trap flag set, so it costs three hand-overs wherever in these pages it
//! goes to. Everything else runs at full speed. For this, and only where a debugger is wanted, the child may make
//! `mprotect` calls for guest memory: a guest that turns on the stub's own code could take the write protection off its
//! pages, and nothing else.
//!
//! On both, what a hypercall writes ends the guest's run at a watchpoint as well, behind the hypercall. A poll that is
//! interrupted by ctrl-C begins anew, with its whole timeout.
//!
//! The debugger can read and change everything about the guest, and nothing about the host. Every process that can connect
//! may do that. A port of the loopback interface is open to all users of the host, and to every guest whose user-mode
//! network opens the host's loopback, except that the networks of this process connect nothing to it. A
//! [Unix socket](Debugger::listen_unix) is open to its user alone.

mod architecture;
mod breakpoints;
mod commands;
mod connection;
mod debugged;
mod inferior;
mod listener;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub(crate) use self::connection::{Connection, Line};
use self::debugged::Debugged;
#[cfg(feature = "smoltcp")]
pub(crate) use self::listener::is_waited_at;
use self::listener::{Listener, TcpDoor, UnixDoor};
use crate::Vcpu;
use crate::backend::{BackendError, CancelToken, Machine};
use crate::descriptor::{Descriptor, Uses};
use crate::memory::MemoryMap;
use crate::monitor::Outcome;

/// A debugger that is awaited: a guest that is given one executes nothing before it has connected.
///
/// ```no_run
/// use hvt_tender::Unikernel;
/// use hvt_tender::gdb::Debugger;
///
/// let debugger = Debugger::listen("127.0.0.1:0")?;
/// println!("gdb app.hvt -ex 'target remote {}'", debugger.address()?);
/// Unikernel::load("app.hvt")?.debugger(debugger).run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Debugger {
    listener: Listener,
}

impl Debugger {
    /// Waits at this address, from now on.
    ///
    /// # Errors
    /// When it is in use, or none of this host's.
    pub fn listen(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self { listener: Listener::Tcp(TcpDoor::open(address)?) })
    }

    /// Waits at a Unix socket that is made at `path`, for `target remote PATH`. Only this user can connect: its mode is
    /// 0600. A socket that a process has left there when it was killed is replaced. The path vanishes when the debugger
    /// has connected, and when this is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if another process waits there, [`io::ErrorKind::AlreadyExists`] if a file of another
    /// kind is there, [`io::ErrorKind::InvalidInput`] if the path is empty or longer than 107 bytes, and the host's error
    /// if the socket cannot be made.
    pub fn listen_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { listener: Listener::Unix(UnixDoor::open(path.as_ref())?) })
    }

    /// The address at which it waits.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if it waits at a Unix socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match &self.listener {
            Listener::Tcp(door) => Ok(door.address()),
            Listener::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The directory in which it removes a file before the guest runs.
    pub(crate) fn descriptor(&self) -> Option<Descriptor> {
        self.listener.directory().map(|directory| Descriptor::new(directory, Uses::REMOVE))
    }

    /// Waits until a debugger connects; `None` when `stop` is requested before. There is one connection: whoever comes
    /// later is refused.
    pub(crate) fn accept(self, stop: &CancelToken) -> io::Result<Option<Connection>> {
        log::warn!("the guest waits for a debugger: (gdb) target remote {}", self.listener);
        let mut fds =
            [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN), PollFd::new(stop.event(), PollFlags::POLLIN)];
        loop {
            if stop.requested() {
                return Ok(None);
            }
            match self.listener.accept() {
                Ok(connection) => return Ok(Some(connection)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Has a guest run to its end by `run`, under the debugger at the other end of `line`.
///
/// # Errors
/// As `run`, and when the machine cannot be debugged.
pub(crate) fn run(
    machine: &mut dyn Machine,
    memory_map: &MemoryMap,
    line: Line,
    stop: &CancelToken,
    run: impl FnOnce(&mut dyn Vcpu<Error = BackendError>) -> Result<Outcome, BackendError>,
) -> Result<Outcome, BackendError> {
    let mut debugged = Debugged::new(machine, memory_map, line, stop.clone())?;
    let outcome = run(&mut debugged);
    debugged.end(&outcome);
    outcome
}
