//! The thread that is between the guest and the host's sockets.

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

/// TCP connections at a time.
const CONNECTIONS: usize = 256;
/// How soon to try again to let somebody in where that has failed.
const RETRY: Duration = Duration::from_millis(100);

/// Everything that is between the guest and the host.
pub(super) struct Proxy {
    stack: Stack,
    keeper: Keeper,
    dhcp: dhcp::Server,
    datagrams: Datagrams,
    doors: Vec<Door>,
    asked: Vec<Asked>,
    connections: Vec<Connection>,
    /// Sockets of connections that have ended, until they have sent their last.
    ended: Vec<SocketHandle>,
}

/// What has happened to the host's sockets, each in the order of its list.
#[derive(Default)]
pub(super) struct Ready {
    /// Somebody may be at one of the doors.
    doors: bool,
    asked: Vec<bool>,
    connections: Vec<PollFlags>,
    datagrams: Vec<bool>,
}

impl Proxy {
    /// Everything that is between the guest behind `port` and the host. `doorbell` rings when the guest has room for frames again.
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

    /// Serves the guest until the bell says that it is over, and executes the jobs that come with it.
    pub(super) fn serve(&mut self, doorbell: &StackDoorbell, jobs: &Receiver<Job>) {
        let mut ready = Ready::default();
        while !doorbell.is_over() {
            jobs.try_iter().for_each(|job| job());
            self.turn(&ready);
            ready = match self.wait(doorbell) {
                Ok(ready) => ready,
                Err(error) => {
                    // Nothing that a guest does leads here: the kernel has no memory left, say.
                    log::error!("user-mode networking cannot wait: {error}");
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

    /// Moves everything on.
    pub(super) fn turn(&mut self, ready: &Ready) {
        // First, while the lists are still those that were waited for.
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
        // What the guest has just said.
        self.advance(PollFlags::empty);
        self.stack.flush();
        if !self.stack.is_blocked() {
            for handle in self.ended.drain(..) {
                self.stack.sockets.remove(handle);
            }
        }
    }

    /// Moves all connections on, and buries those that have ended.
    fn advance(&mut self, mut ready: impl FnMut() -> PollFlags) {
        let sockets = &mut self.stack.sockets;
        let over = self.connections.extract_if(.., |connection| !connection.turn(ready(), sockets));
        // Ended once all have moved: they share the sockets.
        let over: Vec<_> = over.collect();
        self.ended.extend(over.into_iter().map(|connection| connection.end(&mut self.stack.sockets)));
    }

    /// Begins to connect where the guest wants to be connected to.
    fn ask(&mut self) {
        for (flow, frame) in std::mem::take(&mut self.keeper.asked) {
            if self.asked.iter().any(|asked| asked.flow == flow) {
                // It has not been answered yet, and asks again.
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

    /// Tells the guest what has come of the connections that it wants to begin, where that is known now.
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
        log::debug!("the guest cannot connect to {}: {error}", flow.local);
        // The stack knows of nobody who would accept it.
        self.stack.deliver(frame);
    }

    /// Connections that may still be begun.
    fn room(&self) -> usize {
        CONNECTIONS.saturating_sub(self.connections.len() + self.asked.len() + self.ended.len())
    }

    /// Lets those in who want to talk to the guest.
    fn let_in(&mut self) {
        for door in &mut self.doors {
            while self.connections.len() + self.asked.len() + self.ended.len() < CONNECTIONS {
                let Some(host) = door.accept() else { break };
                match self.stack.connect(GATEWAY, SocketAddrV4::new(GUEST, door.port)) {
                    Ok(guest) => self.connections.push(Connection::new(guest, host, &mut self.stack.sockets)),
                    Err(error) => log::debug!("port {} of the guest cannot be reached: {error}", door.port),
                }
            }
        }
    }

    /// Waits until there is something to do.
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
        // Those of which nothing is wanted are left out: ends and errors would be told of again and again.
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
