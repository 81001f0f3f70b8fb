//! Debugger for guests: the stub that gdb's `target remote` connects to.
//!
//! | module | contents |
//! |---|---|
//! | `listener` | the TCP port or Unix socket that waits for a debugger |
//! | `connection` | the connection, and the thread that watches it while the guest runs |
//! | `architecture` | registers in the format of gdb |
//! | `inferior` | gdb's requests about the guest: registers, memory, breakpoints |
//! | `breakpoints` | software breakpoints in guest memory |
//! | `commands` | `monitor` commands |
//! | `debugged` | a [`Vcpu`](crate::Vcpu) whose runs the debugger sees |
//!
//! The stub sits between the monitor's loop and a backend's
//! [`DebugTarget`](crate::backend::debug::DebugTarget). Neither the loop nor a run without a
//! debugger depends on the stub. The crate `gdbstub` implements the protocol.
//!
//! Features by backend:
//!
//! | | kvm | kvm, aarch64 | process |
//! |---|---|---|---|
//! | registers | general, segments, x87, SSE | general, TPIDR_EL0, SIMD | as kvm |
//! | memory by guest-virtual address, including code and read-only data | through the guest's page tables | through the guest's page tables | identity-mapped, within the memory map |
//! | software breakpoints | any number | any number | any number |
//! | hardware breakpoints | four, watchpoints included; then software breakpoints | as many as the CPU has; then software breakpoints | software breakpoints |
//! | watchpoints | four of up to eight bytes, aligned, hardware breakpoints included | as many as the CPU has, each for a part of eight bytes, or for a power of two, aligned | any number, of any length |
//! | step, step over a range of addresses, ctrl-C, detach, kill | yes | yes | yes |
//!
//! A software breakpoint is an instruction in the guest's code, hidden when the debugger reads the
//! code. On x86_64 it is a `hlt` on both backends: `hlt` exits from the guest without any set-up,
//! and `int3` remains available to the guest. On aarch64 it is a `brk`, which exits from the guest
//! while there are breakpoints. A `brk` of the guest itself is returned to the guest as an
//! exception.
//!
//! On KVM, watchpoints and hardware breakpoints use the CPU's debug registers, through
//! `KVM_SET_GUEST_DEBUG`. On x86_64 they have no effect if QEMU emulates the CPU. A watchpoint
//! stops the guest after the instruction on x86_64 and before the instruction on aarch64, as gdb
//! expects on each.
//!
//! On aarch64, a step over an exclusive load (`ldxr`) makes the matching exclusive store fail. gdb
//! handles this: a step over a range of addresses ends before such a load, and gdb sets a
//! breakpoint after the store.
//!
//! The child of the process backend can neither be traced nor access the debug registers. A step
//! sets RFLAGS.TF. Watched memory is in pages that the child may not write, or not access at all.
//! Each instruction that accesses such a page is executed with the page accessible and the trap
//! flag set, which costs three hand-overs for every access to the page. All other instructions run
//! at full speed. For this, and only with a debugger, the child may call `mprotect` for guest
//! memory. A guest that takes over the stub's code could thus remove the write protection of its
//! own pages, and nothing else.
//!
//! On both backends, a hypercall that writes to a watchpoint stops the guest too, after the
//! hypercall. A poll interrupted by ctrl-C starts again with its whole timeout.
//!
//! The debugger can read and change all state of the guest, and none of the host. Every process
//! that can connect has these rights. A port of the loopback interface is open to all users of the
//! host. It is also open to every guest whose user-mode network opens the host's loopback, except
//! that the networks of this process refuse connections to it. A [Unix
//! socket](Debugger::listen_unix) is open only to its user.

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
use self::listener::Listener;
use crate::backend::{BackendError, CancelToken, Machine};
use crate::debugger_port::TcpDoor;
use crate::descriptor::{Descriptor, Uses};
use crate::memory::MemoryMap;
use crate::monitor::Outcome;
use crate::sandbox::{Calls, Sandbox};
use crate::sys::unix_door::UnixDoor;
use crate::unikernel::Unikernel;
use crate::unikernel::debugger::{AwaitedDebugger, ConnectedDebugger, RunGuest, WatchedDebugger};

/// Debugger that a guest waits for: the guest executes no instruction before the debugger has
/// connected.
///
/// ```no_run
/// use hvt_tender::Unikernel;
/// use hvt_tender::Debugger;
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
    /// Starts to listen on a TCP address.
    ///
    /// # Errors
    /// Returns the error of the host if the address is in use or does not belong to this host.
    pub fn listen(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self { listener: Listener::Tcp(TcpDoor::open(address)?) })
    }

    /// Starts to listen on a Unix socket created at `path`, for `target remote PATH`. The mode of
    /// the socket is 0600, so only this user can connect. A socket left by a killed process is
    /// replaced. The socket is removed when the debugger has connected and when this is dropped.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::AddrInUse`] if another process listens there,
    /// [`io::ErrorKind::AlreadyExists`] if the path is another kind of file,
    /// [`io::ErrorKind::InvalidInput`] if the path is empty or longer than 107 bytes, and the
    /// host's error if the socket cannot be created.
    pub fn listen_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { listener: Listener::Unix(UnixDoor::open(path.as_ref())?) })
    }

    /// Returns the TCP address on which this listens.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if this listens on a Unix socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match &self.listener {
            Listener::Tcp(door) => Ok(door.address()),
            Listener::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the directory from which a file is removed before the guest runs.
    pub(crate) fn descriptor(&self) -> Option<Descriptor> {
        self.listener.directory().map(|directory| Descriptor::new(directory, Uses::REMOVE))
    }

    /// Waits until a debugger connects. Returns `None` if `stop` is requested first. Later
    /// connections are refused.
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

impl Unikernel {
    /// Attaches a debugger. The guest waits for the debugger's connection before its first
    /// instruction. A debugger serves one run.
    #[must_use]
    pub fn debugger(mut self, debugger: Debugger) -> Self {
        self.set_debugger(Box::new(debugger));
        self
    }
}

impl AwaitedDebugger for Debugger {
    fn descriptor(&self) -> Option<Descriptor> {
        self.descriptor()
    }

    fn accept(self: Box<Self>, stop: &CancelToken) -> io::Result<Option<Box<dyn ConnectedDebugger>>> {
        Ok((*self).accept(stop)?.map(|connection| Box::new(connection) as _))
    }
}

impl ConnectedDebugger for Connection {
    fn watch(
        self: Box<Self>,
        stop: &CancelToken,
        confinement: Option<(Sandbox, Calls)>,
    ) -> io::Result<Box<dyn WatchedDebugger>> {
        Ok(Box::new((*self).watch(stop, confinement)?))
    }
}

impl WatchedDebugger for Line {
    fn system_calls(&self, calls: &mut Calls) {
        self.system_calls(calls);
    }

    fn run(
        self: Box<Self>,
        machine: &mut dyn Machine,
        memory_map: &MemoryMap,
        stop: &CancelToken,
        run: RunGuest<'_>,
    ) -> Result<Outcome, BackendError> {
        let mut debugged = Debugged::new(machine, memory_map, *self, stop.clone())?;
        let outcome = run(&mut debugged);
        debugged.end(&outcome);
        outcome
    }
}
