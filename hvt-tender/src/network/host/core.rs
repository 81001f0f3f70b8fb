//! State that a host, its connections and its thread share.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;

use super::rest::Rest;
use crate::network::ip::{Admission, Flow, Gate, Stack, StackDoorbell, dhcp, dns};
use crate::virtual_time::{Hold, VirtualTime};

/// Maximum number of connections to a port that are not accepted yet, established or not.
const BACKLOG: usize = 64;
/// Timeout of a connection that closes after its [`HostStream`](super::HostStream) was dropped.
const FAREWELL: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(10);

/// Stack, and a condition variable that is notified after each turn of the stack.
pub(super) struct Shared {
    /// `None` once the host has left the network.
    core: Mutex<Option<Core>>,
    moved: Condvar,
    doorbell: Arc<StackDoorbell>,
    time: Option<VirtualTime>,
    start: Instant,
}

/// Stack with its services and connections.
pub(super) struct Core {
    pub(super) stack: Stack,
    pub(super) ports: Ports,
    pub(super) dhcp: Option<dhcp::Server>,
    pub(super) dns: Option<dns::Server>,
    /// Connections that were dropped by their owner and are not closed yet.
    abandoned: Vec<SocketHandle>,
    /// Deadlines of the waiting threads in virtual time.
    deadlines: Vec<Duration>,
    pace: Pace,
}

/// Hold on the virtual time while the host's user computes.
#[derive(Debug, Default)]
enum Pace {
    /// The virtual time is not held.
    #[default]
    Free,
    /// The virtual time is held.
    Held { _hold: Hold },
    /// The host's user waits in an operation: the virtual time advances until the host's next turn.
    Lent,
}

impl Core {
    pub(super) fn new(stack: Stack, address: Ipv4Addr) -> Self {
        let ports = Ports { address, waiting: BTreeMap::new() };
        Self { stack, ports, dhcp: None, dns: None, abandoned: Vec::new(), deadlines: Vec::new(), pace: Pace::Free }
    }

    /// Advances the stack and its services. Returns the time until the next timer, if any.
    fn turn(&mut self) -> Option<Duration> {
        self.stack.turn(&mut self.ports);
        if let Some(dhcp) = &mut self.dhcp {
            dhcp.serve(&mut self.stack);
        }
        if let Some(dns) = &mut self.dns {
            dns.serve(&mut self.stack);
        }
        let sockets = &mut self.stack.sockets;
        self.abandoned.retain(|handle| {
            let ended = sockets.get::<tcp::Socket<'_>>(*handle).state() == tcp::State::Closed;
            if ended {
                sockets.remove(*handle);
            }
            !ended
        });
        self.stack.flush();
        self.stack.idle()
    }

    /// Resets all connections.
    fn leave(&mut self) {
        self.stack.reset();
        self.stack.flush();
    }

    pub(super) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.stack.sockets.get_mut(handle)
    }

    /// Closes a connection after its owner dropped it: with FIN if all received data was read, with
    /// RST otherwise.
    pub(super) fn abandon(&mut self, handle: SocketHandle) {
        let socket = self.tcp(handle);
        if socket.recv_queue() > 0 {
            socket.abort();
        }
        socket.close();
        socket.set_timeout(Some(FAREWELL));
        self.abandoned.push(handle);
    }
}

impl Shared {
    pub(super) fn new(core: Core, doorbell: Arc<StackDoorbell>, time: Option<VirtualTime>) -> Self {
        Self { core: Mutex::new(Some(core)), moved: Condvar::new(), doorbell, time, start: Instant::now() }
    }

    /// Runs the stack until the worker is requested to end.
    pub(super) fn serve(&self, mut rest: Rest) {
        let mut rested = rest.begin();
        while rested.is_ok() && !self.doorbell.is_over() {
            self.doorbell.silence();
            let idle = self.lock().as_mut().and_then(|core| {
                let idle = core.turn();
                if let (Some(time), Pace::Lent) = (&self.time, &core.pace) {
                    core.pace = Pace::Held { _hold: time.hold() };
                }
                let now = self.elapsed();
                core.deadlines.iter().map(|deadline| deadline.saturating_sub(now)).chain(idle).min()
            });
            self.moved.notify_all();
            rested = rest.wait(&self.doorbell, idle);
        }
        if let Err(error) = rested {
            // A guest cannot cause this error. A possible cause is lack of kernel memory.
            log::error!("in-memory host: cannot wait for frames: {error}");
        }
        if let Some(mut core) = self.lock().take() {
            core.leave();
        }
        self.moved.notify_all();
    }

    /// Returns the time on the host's clock, virtual or real, since an arbitrary instant.
    pub(super) fn elapsed(&self) -> Duration {
        match &self.time {
            Some(time) => time.elapsed(),
            None => self.start.elapsed(),
        }
    }

    /// Holds the virtual time, except while the host's user waits in an operation.
    pub(super) fn hold(&self) {
        if let (Some(time), Some(core)) = (&self.time, self.lock().as_mut()) {
            core.pace = Pace::Held { _hold: time.hold() };
        }
    }

    /// Releases the virtual time.
    pub(super) fn release(&self) {
        if let Some(core) = self.lock().as_mut() {
            core.pace = Pace::Free;
        }
    }

    /// Calls `action` with the stack, then wakes the thread.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::NotConnected`] if the host has been dropped.
    pub(super) fn act<R>(&self, action: impl FnOnce(&mut Core) -> R) -> io::Result<R> {
        let result = action(self.lock().as_mut().ok_or_else(gone)?);
        self.doorbell.ring();
        Ok(result)
    }

    /// Calls `attempt` after each turn of the stack until it returns a result.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::TimedOut`] if `attempt` returns no result within `timeout`, and
    /// [`io::ErrorKind::NotConnected`] if the host is dropped.
    pub(super) fn wait<R>(
        &self,
        timeout: Duration,
        mut attempt: impl FnMut(&mut Core) -> Option<io::Result<R>>,
    ) -> io::Result<R> {
        let mut guard = self.lock();
        let deadline = self.elapsed().saturating_add(timeout);
        if let (Some(core), Some(_)) = (guard.as_mut(), &self.time) {
            core.deadlines.push(deadline);
            // The host's thread needs the deadline. The doorbell must ring before time advances:
            // then the thread's turn is at this instant, whether the thread waits already or not.
            self.doorbell.ring();
        }
        let result = loop {
            let Some(core) = guard.as_mut() else { break Err(gone()) };
            if let Some(result) = attempt(core) {
                break result;
            }
            let left = deadline.saturating_sub(self.elapsed());
            if left.is_zero() {
                break Err(io::Error::new(io::ErrorKind::TimedOut, format!("timed out after {timeout:?}")));
            }
            if let Pace::Held { .. } = core.pace {
                core.pace = Pace::Lent;
            }
            guard = match self.time {
                Some(_) => self.moved.wait(guard).unwrap_or_else(PoisonError::into_inner),
                None => self.moved.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        };
        if let Some(core) = guard.as_mut()
            && let Some(position) = core.deadlines.iter().position(|known| *known == deadline)
        {
            core.deadlines.swap_remove(position);
        }
        // The attempt may have made room in a buffer, or queued data to send.
        self.doorbell.ring();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Option<Core>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "host has left the network")
}

/// Listening ports with their backlogs of connections.
#[derive(Debug)]
pub(super) struct Ports {
    address: Ipv4Addr,
    waiting: BTreeMap<u16, VecDeque<SocketHandle>>,
}

impl Ports {
    /// Starts to listen on a port. Returns false if the port is 0 or in use.
    pub(super) fn open(&mut self, port: u16) -> bool {
        let free = port != 0 && !self.waiting.contains_key(&port);
        if free {
            self.waiting.insert(port, VecDeque::new());
        }
        free
    }

    /// Stops listening on a port. Returns the connections of its backlog.
    pub(super) fn close(&mut self, port: u16) -> VecDeque<SocketHandle> {
        self.waiting.remove(&port).unwrap_or_default()
    }

    /// Removes the first established connection from a port's backlog, and discards failed
    /// connections.
    pub(super) fn accept(&mut self, port: u16, sockets: &mut SocketSet<'static>) -> Option<SocketHandle> {
        let waiting = self.waiting.get_mut(&port)?;
        waiting.retain(|handle| {
            let failed = sockets.get::<tcp::Socket<'_>>(*handle).state() == tcp::State::Closed;
            if failed {
                sockets.remove(*handle);
            }
            !failed
        });
        let complete =
            |handle: &SocketHandle| sockets.get::<tcp::Socket<'_>>(*handle).state() != tcp::State::SynReceived;
        let first = waiting.iter().position(complete)?;
        waiting.remove(first)
    }
}

impl Gate for Ports {
    fn admit(&mut self, frame: &[u8]) -> Admission {
        let Some(flow) = Flow::of_syn(frame).filter(|flow| *flow.local.ip() == self.address) else {
            return Admission::Pass;
        };
        match self.waiting.get(&flow.local.port()) {
            Some(waiting) if waiting.len() < BACKLOG => Admission::Accept(flow),
            // A full backlog drops the SYN, as Linux does: the peer retransmits it.
            Some(_) => Admission::Drop,
            None => Admission::Pass,
        }
    }

    fn opened(&mut self, flow: Flow, handle: SocketHandle) {
        if let Some(waiting) = self.waiting.get_mut(&flow.local.port()) {
            waiting.push_back(handle);
        }
    }
}

/// Returns the remote address of a connection.
pub(super) fn peer(socket: &tcp::Socket<'_>) -> Option<SocketAddrV4> {
    let end = socket.remote_endpoint()?;
    let smoltcp::wire::IpAddress::Ipv4(address) = end.addr;
    Some(SocketAddrV4::new(address, end.port))
}
