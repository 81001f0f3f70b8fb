//! Proxy between the guest's connections and the host's sockets.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use nix::poll::{PollFd, PollFlags};
use smoltcp::iface::SocketHandle;

use super::addresses::{DNS, GATEWAY, GUEST, PREFIX, Policy};
use super::forward::Door;
use super::gate::Keeper;
use super::tcp::{Asked, Connection};
use super::udp::Datagrams;
use crate::device::Job;
use crate::network::Port;
use crate::network::ip::{Flow, Stack, StackDoorbell, dhcp, wait};

/// Maximum number of TCP connections.
const CONNECTIONS: usize = 256;
/// Delay before accept(2) is retried after an error.
const RETRY: Duration = Duration::from_millis(100);

/// Proxy between the guest and the host's sockets.
pub(super) struct Proxy {
    stack: Stack,
    keeper: Keeper,
    dhcp: dhcp::Server,
    datagrams: Datagrams,
    doors: Vec<Door>,
    asked: Vec<Asked>,
    connections: Vec<Connection>,
    /// Sockets of closed connections that still have data to send.
    ended: Vec<SocketHandle>,
}

/// Readiness of the host's sockets, each list in the order of the corresponding list of [`Proxy`].
#[derive(Default)]
pub(super) struct Ready {
    /// A listener may have a pending connection.
    doors: bool,
    asked: Vec<bool>,
    connections: Vec<PollFlags>,
    datagrams: Vec<bool>,
}

impl Proxy {
    /// Creates the proxy for the guest at the other end of `port`. `doorbell` rings when the guest
    /// has room for frames again.
    pub(super) fn new(
        port: Port,
        doors: Vec<Door>,
        policy: Policy,
        doorbell: Arc<StackDoorbell>,
        seed: u64,
    ) -> io::Result<Self> {
        let (mtu, policy) = (port.mtu(), Arc::new(policy));
        let mut stack = Stack::new(port, &[(GATEWAY, PREFIX), (DNS, PREFIX)], true, seed)?;
        stack.wake_by(doorbell);
        let offer = dhcp::Offer {
            server: GATEWAY,
            prefix: PREFIX,
            router: Some(GATEWAY),
            dns: Some(DNS),
            range: (GUEST, GUEST),
        };
        let dhcp = dhcp::Server::start(&mut stack, offer)?;
        let datagrams = Datagrams::new(&mut stack, policy.clone(), mtu);
        let keeper = Keeper { policy, room: CONNECTIONS, asked: Vec::new() };
        Ok(Self {
            stack,
            keeper,
            dhcp,
            datagrams,
            doors,
            asked: Vec::new(),
            connections: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// Serves the guest and executes jobs until the worker is requested to end.
    pub(super) fn serve(&mut self, doorbell: &StackDoorbell, jobs: &Receiver<Job>) {
        let mut ready = Ready::default();
        while !doorbell.is_over() {
            jobs.try_iter().for_each(|job| job());
            self.turn(&ready);
            ready = match self.wait(doorbell) {
                Ok(ready) => ready,
                Err(error) => {
                    // A guest cannot cause this error. A possible cause is lack of kernel memory.
                    log::error!("user-mode networking: cannot wait for events: {error}");
                    break;
                }
            };
            doorbell.silence();
        }
        for connection in self.connections.drain(..) {
            connection.end(&mut self.stack.sockets);
        }
        self.stack.flush();
    }

    /// Advances the stack and all connections.
    pub(super) fn turn(&mut self, ready: &Ready) {
        // First, while the lists are unchanged since the wait.
        self.datagrams.carry_in(&mut self.stack, ready.datagrams.iter().copied());
        let mut flags = ready.connections.iter().copied();
        self.advance(|| flags.next().unwrap_or(PollFlags::empty()));
        self.answer(ready.asked.iter().copied());
        self.keeper.room = self.room();
        self.stack.turn(&mut self.keeper);
        self.ask();
        if ready.doors {
            self.let_in();
        }
        self.dhcp.serve(&mut self.stack);
        self.datagrams.carry_out(&mut self.stack);
        // Forward the data that the guest has just sent.
        self.advance(PollFlags::empty);
        self.stack.flush();
        if !self.stack.is_blocked() {
            for handle in self.ended.drain(..) {
                self.stack.sockets.remove(handle);
            }
        }
    }

    /// Advances all connections and closes the finished ones.
    fn advance(&mut self, mut ready: impl FnMut() -> PollFlags) {
        let sockets = &mut self.stack.sockets;
        let over = self.connections.extract_if(.., |connection| !connection.turn(ready(), sockets));
        // Closed after the loop, because the connections share the socket set.
        let over: Vec<_> = over.collect();
        self.ended.extend(over.into_iter().map(|connection| connection.end(&mut self.stack.sockets)));
    }

    /// Starts the host's connections for the SYN frames that the gate has admitted.
    fn ask(&mut self) {
        for (flow, frame) in std::mem::take(&mut self.keeper.asked) {
            if self.asked.iter().any(|asked| asked.flow == flow) {
                // The guest has retransmitted a SYN that is still pending.
                continue;
            }
            match self.keeper.policy.connection(flow.local).filter(|_| !self.stack.knows(flow)) {
                None => self.stack.deliver(frame),
                Some(to) => match Asked::new(flow, frame, to) {
                    Ok(asked) => self.asked.push(asked),
                    Err((error, frame)) => self.refuse(flow, frame, &error),
                },
            }
        }
    }

    /// Answers the guest's pending SYN frames whose host connections are established or have
    /// failed.
    fn answer(&mut self, mut ready: impl Iterator<Item = bool>) {
        let known: Vec<_> = self.asked.extract_if(.., |_| ready.next() == Some(true)).collect();
        for asked in known {
            let flow = asked.flow;
            match asked.answer() {
                (frame, Ok(host)) => {
                    if let Some(guest) = self.stack.accept(flow, frame) {
                        self.connections.push(Connection::new(guest, host, &mut self.stack.sockets));
                    }
                }
                (frame, Err(error)) => self.refuse(flow, frame, &error),
            }
        }
    }

    fn refuse(&mut self, flow: Flow, frame: Vec<u8>, error: &io::Error) {
        log::debug!("user-mode networking: connection to {} failed: {error}", flow.local);
        // The stack has no socket that accepts the SYN, so it answers with RST.
        self.stack.deliver(frame);
    }

    /// Returns the number of connections that may still be opened.
    fn room(&self) -> usize {
        CONNECTIONS.saturating_sub(self.connections.len() + self.asked.len() + self.ended.len())
    }

    /// Accepts pending connections on the forwarded ports.
    fn let_in(&mut self) {
        for door in &mut self.doors {
            while self.connections.len() + self.asked.len() + self.ended.len() < CONNECTIONS {
                let Some(host) = door.accept() else { break };
                match self.stack.connect(GATEWAY, SocketAddrV4::new(GUEST, door.port)) {
                    Ok(guest) => self.connections.push(Connection::new(guest, host, &mut self.stack.sockets)),
                    Err(error) => log::debug!("forward: connection to guest port {} failed: {error}", door.port),
                }
            }
        }
    }

    /// Waits until a socket is ready, the doorbell rings, or a timer expires.
    pub(super) fn wait(&mut self, doorbell: &StackDoorbell) -> io::Result<Ready> {
        let retry = self.doors.iter().any(Door::is_failing).then_some(RETRY);
        let idle = [self.stack.idle(), self.datagrams.idle(), retry].into_iter().flatten().min();
        let endpoint = self.stack.endpoint();
        let mut fds =
            vec![PollFd::new(doorbell.as_fd(), PollFlags::POLLIN), PollFd::new(endpoint.as_fd(), PollFlags::POLLIN)];
        let doors = fds.len();
        if self.room() > 0 {
            let open = self.doors.iter().filter(|door| !door.is_failing());
            fds.extend(open.map(|door| PollFd::new(door.as_fd(), PollFlags::POLLIN)));
        }
        let datagrams = fds.len();
        fds.extend(self.datagrams.sockets().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let asked = fds.len();
        fds.extend(self.asked.iter().map(|asked| PollFd::new(asked.as_fd(), PollFlags::POLLOUT)));
        let connections = fds.len();
        // Connections without interest are left out: poll(2) would report hang-ups and errors
        // repeatedly.
        let interests: Vec<_> =
            self.connections.iter().map(|connection| connection.interest(&self.stack.sockets)).collect();
        let wanted = self.connections.iter().zip(&interests).filter(|(_, interest)| !interest.is_empty());
        fds.extend(wanted.map(|(connection, interest)| PollFd::new(connection.as_fd(), *interest)));
        wait(&mut fds, idle)?;
        let flags = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let is_ready = |fd: &PollFd<'_>| !flags(fd).is_empty();
        let mut told = fds[connections..].iter().map(flags);
        let connections_ready = interests.iter().map(|interest| match interest.is_empty() {
            true => PollFlags::empty(),
            false => told.next().unwrap_or(PollFlags::empty()),
        });
        Ok(Ready {
            connections: connections_ready.collect(),
            doors: retry.is_some() || fds[doors..datagrams].iter().any(is_ready),
            asked: fds[asked..connections].iter().map(is_ready).collect(),
            datagrams: fds[datagrams..asked].iter().map(is_ready).collect(),
        })
    }
}
