//! What a host, its connections and its thread share.

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

/// Connections to a port that wait to be accepted, complete or not.
const BACKLOG: usize = 64;
/// How long a connection that nobody holds any more may take to end.
const FAREWELL: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(10);

/// The stack, and who is told when it has moved on.
pub(super) struct Shared {
    /// `None` once the host has left the network.
    core: Mutex<Option<Core>>,
    moved: Condvar,
    doorbell: Arc<StackDoorbell>,
    time: Option<VirtualTime>,
    start: Instant,
}

/// The stack and what is done with it.
pub(super) struct Core {
    pub(super) stack: Stack,
    pub(super) ports: Ports,
    pub(super) dhcp: Option<dhcp::Server>,
    pub(super) dns: Option<dns::Server>,
    /// Connections that nobody holds any more and that have not ended yet.
    abandoned: Vec<SocketHandle>,
    /// Until when somebody waits, in a virtual time.
    deadlines: Vec<Duration>,
    pace: Pace,
}

/// What keeps a virtual time from moving while a host's user thinks.
#[derive(Debug, Default)]
enum Pace {
    /// Nothing does.
    #[default]
    Free,
    /// This does.
    Held { _hold: Hold },
    /// Its user waits for something: it may move until the host has moved.
    Lent,
}

impl Core {
    pub(super) fn new(stack: Stack, address: Ipv4Addr) -> Self {
        let ports = Ports { address, waiting: BTreeMap::new() };
        Self { stack, ports, dhcp: None, dns: None, abandoned: Vec::new(), deadlines: Vec::new(), pace: Pace::Free }
    }

    /// Moves everything on; returns how long nothing more will happen of itself.
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

    /// Tells the other ends of its connections that they are no more.
    fn leave(&mut self) {
        self.stack.reset();
        self.stack.flush();
    }

    pub(super) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.stack.sockets.get_mut(handle)
    }

    /// Ends a connection that nobody holds any more: in good order where everything that came has been read.
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

    /// Serves the stack until the bell says that it is over.
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
            // Nothing that a guest does leads here: the kernel has no memory left, say.
            log::error!("a host cannot wait for frames: {error}");
        }
        if let Some(mut core) = self.lock().take() {
            core.leave();
        }
        self.moved.notify_all();
    }

    /// Time in which it lives, since some moment.
    pub(super) fn elapsed(&self) -> Duration {
        match &self.time {
            Some(time) => time.elapsed(),
            None => self.start.elapsed(),
        }
    }

    /// Keeps the virtual time from moving, but for what its user waits for.
    pub(super) fn hold(&self) {
        if let (Some(time), Some(core)) = (&self.time, self.lock().as_mut()) {
            core.pace = Pace::Held { _hold: time.hold() };
        }
    }

    /// Lets the virtual time move.
    pub(super) fn release(&self) {
        if let Some(core) = self.lock().as_mut() {
            core.pace = Pace::Free;
        }
    }

    /// Does something with the stack, which then moves on.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotConnected`] when the host is gone.
    pub(super) fn act<R>(&self, action: impl FnOnce(&mut Core) -> R) -> io::Result<R> {
        let result = action(self.lock().as_mut().ok_or_else(gone)?);
        self.doorbell.ring();
        Ok(result)
    }

    /// Tries something again whenever the stack has moved on, until it yields something.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when it does not within `timeout`, [`io::ErrorKind::NotConnected`] when the host is
    /// gone before.
    pub(super) fn wait<R>(
        &self,
        timeout: Duration,
        mut attempt: impl FnMut(&mut Core) -> Option<io::Result<R>>,
    ) -> io::Result<R> {
        let mut guard = self.lock();
        let deadline = self.elapsed().saturating_add(timeout);
        if let (Some(core), Some(_)) = (guard.as_mut(), &self.time) {
            core.deadlines.push(deadline);
            // The host needs the deadline. It must be rung for before time may move: only then is its turn at this
            // moment, whether its thread waits already or not.
            self.doorbell.ring();
        }
        let result = loop {
            let Some(core) = guard.as_mut() else { break Err(gone()) };
            if let Some(result) = attempt(core) {
                break result;
            }
            let left = deadline.saturating_sub(self.elapsed());
            if left.is_zero() {
                break Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing happened for {timeout:?}")));
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
        // There is room again, or something to send.
        self.doorbell.ring();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Option<Core>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the host has left the network")
}

/// The ports that are listened at, and the connections to them that nobody has accepted yet.
#[derive(Debug)]
pub(super) struct Ports {
    address: Ipv4Addr,
    waiting: BTreeMap<u16, VecDeque<SocketHandle>>,
}

impl Ports {
    /// Begins to listen at a port; false where somebody does.
    pub(super) fn open(&mut self, port: u16) -> bool {
        let free = port != 0 && !self.waiting.contains_key(&port);
        if free {
            self.waiting.insert(port, VecDeque::new());
        }
        free
    }

    /// Listens at a port no more; returns the connections that nobody has accepted.
    pub(super) fn close(&mut self, port: u16) -> VecDeque<SocketHandle> {
        self.waiting.remove(&port).unwrap_or_default()
    }

    /// Takes the first connection to a port that is complete, and forgets those that have failed before.
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
            // As hosts do: it will try again.
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

/// The far end of a connection.
pub(super) fn peer(socket: &tcp::Socket<'_>) -> Option<SocketAddrV4> {
    let end = socket.remote_endpoint()?;
    let smoltcp::wire::IpAddress::Ipv4(address) = end.addr;
    Some(SocketAddrV4::new(address, end.port))
}
