//! smoltcp stack on a port.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use smoltcp::iface::{Config, Context, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{Socket, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, IpProtocol,
    Ipv4Packet, TcpPacket,
};

use super::device::PortDevice;
use super::worker::StackDoorbell;
use crate::device::{Arrivals, Endpoint, Pollable};
use crate::network::Port;
use crate::virtual_time::VirtualTime;

/// Size in bytes of a TCP socket's send buffer (until acknowledged) and of its receive buffer
/// (until read).
pub(in crate::network) const BUFFER: usize = 64 << 10;
/// Maximum number of frames that one turn receives from the port.
pub(in crate::network) const BURST: usize = 64;
/// Maximum number of send rounds of one flush. In a round, each socket sends one packet.
const ROUNDS: usize = 256;
/// Minimum wait of a stack that is blocked because the other end has no room.
const BLOCKED: Duration = Duration::from_secs(1);
/// Minimum MTU: every IPv4 host must accept packets of this size (RFC 791).
const MTU_MIN: u16 = 576;
/// First ephemeral port (RFC 6335).
const EPHEMERAL: u16 = 49_152;

/// Filter of received frames in front of the stack.
pub(in crate::network) trait Gate {
    /// Decides whether the stack receives `frame`.
    fn admit(&mut self, frame: &[u8]) -> Admission;

    /// Reports the socket of a connection that [`Admission::Accept`] has admitted.
    fn opened(&mut self, flow: Flow, handle: SocketHandle);
}

/// Decision of a [`Gate`] about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) enum Admission {
    /// The frame is dropped.
    Drop,
    /// The stack processes the frame.
    Pass,
    /// The frame is the SYN of a connection that the stack accepts.
    Accept(Flow),
}

/// Addresses of the two ends of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) struct Flow {
    /// Address of the guest.
    pub(in crate::network) remote: SocketAddrV4,
    /// Address of the stack.
    pub(in crate::network) local: SocketAddrV4,
}

impl Flow {
    /// Returns the flow of a TCP connection's first segment, which has SYN set and ACK clear.
    /// Returns `None` for any other frame.
    pub(in crate::network) fn of_syn(frame: &[u8]) -> Option<Self> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        if frame.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
        if packet.next_header() != IpProtocol::Tcp || packet.frag_offset() != 0 {
            return None;
        }
        let segment = TcpPacket::new_checked(packet.payload()).ok()?;
        (segment.syn() && !segment.ack()).then(|| Self {
            remote: SocketAddrV4::new(packet.src_addr(), segment.src_port()),
            local: SocketAddrV4::new(packet.dst_addr(), segment.dst_port()),
        })
    }

    /// Returns whether `socket` is an end of this flow.
    fn is(&self, socket: &tcp::Socket<'_>) -> bool {
        socket.remote_endpoint() == Some(endpoint(self.remote)) && socket.local_endpoint() == Some(endpoint(self.local))
    }
}

/// Clock of a stack's timers.
enum Clock {
    /// Real time since this instant.
    Real(std::time::Instant),
    Virtual(VirtualTime),
}

/// IPv4 stack: an interface on a port, and its sockets.
pub(in crate::network) struct Stack {
    interface: Interface,
    device: PortDevice,
    pub(in crate::network) sockets: SocketSet<'static>,
    clock: Clock,
    ephemeral: u16,
    /// Set if the last flush stopped because the other end had no room.
    blocked: bool,
}

impl Stack {
    /// Creates a stack with these addresses and prefix lengths on `port`. `seed` seeds its random
    /// numbers. With `any_address`, the stack accepts packets to any address.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if the port's hardware address or an IP address is
    /// not unicast, if the MTU is below 576, or if there are too many addresses.
    pub(in crate::network) fn new(
        port: Port,
        addresses: &[(Ipv4Addr, u8)],
        any_address: bool,
        seed: u64,
    ) -> io::Result<Self> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let mac = EthernetAddress(port.mac());
        if !mac.is_unicast() {
            return Err(invalid(format!("{mac} is not a unicast hardware address")));
        }
        if port.mtu() < MTU_MIN {
            return Err(invalid(format!("MTU {} is too small for IPv4: minimum is {MTU_MIN}", port.mtu())));
        }
        if let Some((address, _)) = addresses.iter().find(|(address, _)| !is_host(*address)) {
            return Err(invalid(format!("{address} is not a unicast address")));
        }
        let mut config = Config::new(mac.into());
        config.random_seed = seed;
        let mut device = PortDevice::new(port);
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.set_any_ip(any_address);
        let mut fits = true;
        interface.update_ip_addrs(|list| {
            for (address, prefix) in addresses {
                fits &= list.push(IpCidr::new(IpAddress::Ipv4(*address), *prefix)).is_ok();
            }
        });
        if !fits {
            return Err(invalid(format!("too many addresses: {}", addresses.len())));
        }
        let ephemeral = EPHEMERAL + (seed % u64::from(u16::MAX - EPHEMERAL)) as u16;
        let sockets = SocketSet::new(Vec::new());
        let clock = match device.port.virtual_time() {
            Some(time) => Clock::Virtual(time.clone()),
            None => Clock::Real(std::time::Instant::now()),
        };
        Ok(Self { interface, device, sockets, clock, ephemeral, blocked: false })
    }

    /// Returns the descriptor that is readable while a received frame is queued.
    pub(in crate::network) fn endpoint(&self) -> Arc<Endpoint> {
        self.device.port.endpoint()
    }

    /// Returns the virtual time of the port and the arrival times of its frames, if it uses a
    /// virtual time.
    pub(in crate::network) fn arrivals(&self) -> Option<(VirtualTime, Arc<dyn Arrivals>)> {
        self.device.port.virtual_time().cloned().zip(self.device.port.arrivals())
    }

    /// Returns the time on the clock of the stack's timers.
    fn now(&self) -> Instant {
        let elapsed = match &self.clock {
            Clock::Real(start) => start.elapsed(),
            Clock::Virtual(time) => time.elapsed(),
        };
        Instant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    /// Receives up to [`BURST`] frames, then sends the queued data.
    pub(in crate::network) fn turn(&mut self, gate: &mut impl Gate) {
        let now = self.now();
        self.interface.poll_maintenance(now);
        for _ in 0..BURST {
            let Some(frame) = self.device.port.try_receive() else { break };
            match gate.admit(&frame) {
                Admission::Drop => {}
                Admission::Pass => self.deliver(frame),
                Admission::Accept(flow) => {
                    if let Some(handle) = self.accept(flow, frame) {
                        gate.opened(flow, handle);
                    }
                }
            }
        }
        self.flush();
    }

    /// Passes `frame` to smoltcp.
    pub(in crate::network) fn deliver(&mut self, frame: Vec<u8>) {
        let now = self.now();
        self.device.put(frame);
        self.interface.poll_ingress_single(now, &mut self.device, &mut self.sockets);
    }

    /// Accepts the connection of the SYN `frame` and returns its socket. Returns `None` if the
    /// connection exists already, or if smoltcp rejects the frame, for example because of a wrong
    /// checksum.
    pub(in crate::network) fn accept(&mut self, flow: Flow, frame: Vec<u8>) -> Option<SocketHandle> {
        let begun = if self.knows(flow) { None } else { self.listen(flow.local) };
        self.deliver(frame);
        let handle = begun?;
        if self.sockets.get::<tcp::Socket<'_>>(handle).state() == tcp::State::Listen {
            self.sockets.remove(handle);
            return None;
        }
        Some(handle)
    }

    /// Returns whether the connection exists.
    pub(in crate::network) fn knows(&self, flow: Flow) -> bool {
        self.tcp_sockets().any(|socket| flow.is(socket))
    }

    /// Sends the queued data until the other end has no room. The port's [waker](Port::wake_by) is
    /// called when the other end has room again.
    ///
    /// A round starts only if there is room for one packet of each socket. With less room, the
    /// first sockets would always be served, and the last sockets never.
    pub(in crate::network) fn flush(&mut self) {
        let now = self.now();
        self.blocked = false;
        for _ in 0..ROUNDS {
            if !self.device.port.admits(self.sockets.iter().count()) {
                self.blocked = true;
                break;
            }
            if self.interface.poll_egress(now, &mut self.device, &mut self.sockets) == PollResult::None {
                break;
            }
        }
    }

    /// Returns whether the last [`flush`](Self::flush) stopped because the other end had no room.
    pub(in crate::network) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Rings `doorbell` when the other end has room again.
    pub(in crate::network) fn wake_by(&self, doorbell: Arc<StackDoorbell>) {
        self.device.port.wake_by(move || doorbell.ring());
    }

    /// Resets all TCP connections.
    pub(in crate::network) fn reset(&mut self) {
        for (_, socket) in self.sockets.iter_mut() {
            if let Socket::Tcp(socket) = socket {
                socket.abort();
            }
        }
    }

    /// Returns the time until the next timer expires, if any.
    pub(in crate::network) fn idle(&mut self) -> Option<Duration> {
        let now = self.now();
        let idle = self.interface.poll_delay(now, &self.sockets).map(Duration::from);
        // smoltcp reports 0 while data is queued, but a blocked stack cannot send.
        if self.blocked { idle.map(|idle| idle.max(BLOCKED)) } else { idle }
    }

    /// Adds a socket that listens for one connection to `local`.
    fn listen(&mut self, local: SocketAddrV4) -> Option<SocketHandle> {
        let mut socket = tcp_socket();
        let at = IpListenEndpoint { addr: Some(IpAddress::Ipv4(*local.ip())), port: local.port() };
        socket.listen(at).ok()?;
        Some(self.sockets.add(socket))
    }

    /// Starts a connection from `from`, an address of the stack, to `to`.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if `to` has an unspecified address or port 0, and
    /// [`io::ErrorKind::AddrInUse`] if no ephemeral port is free.
    pub(in crate::network) fn connect(&mut self, from: Ipv4Addr, to: SocketAddrV4) -> io::Result<SocketHandle> {
        let local = self.ephemeral_port().ok_or(io::ErrorKind::AddrInUse)?;
        let mut socket = tcp_socket();
        let refused = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{to}: {error}"));
        let cx: &mut Context = self.interface.context();
        socket.connect(cx, endpoint(to), (IpAddress::Ipv4(from), local)).map_err(refused)?;
        Ok(self.sockets.add(socket))
    }

    /// Returns an ephemeral port that no connection uses.
    fn ephemeral_port(&mut self) -> Option<u16> {
        (EPHEMERAL..=u16::MAX).find_map(|_| {
            let port = self.ephemeral;
            self.ephemeral = port.checked_add(1).unwrap_or(EPHEMERAL);
            let used = |socket: &tcp::Socket<'_>| socket.local_endpoint().is_some_and(|local| local.port == port);
            (!self.tcp_sockets().any(used)).then_some(port)
        })
    }

    fn tcp_sockets(&self) -> impl Iterator<Item = &tcp::Socket<'static>> {
        self.sockets.iter().filter_map(|(_, socket)| match socket {
            Socket::Tcp(socket) => Some(socket),
            _ => None,
        })
    }

    /// Adds a UDP socket bound to `port` on all addresses of the stack.
    pub(in crate::network) fn bind(&mut self, port: u16) -> io::Result<SocketHandle> {
        let mut socket = udp_socket();
        socket.bind(port).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(self.sockets.add(socket))
    }
}

/// Returns whether a host can have this address: not in 0.0.0.0/8, multicast, broadcast or
/// reserved.
fn is_host(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 224..)
}

/// Creates a TCP socket.
pub(in crate::network) fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // Low latency: the data of each write is sent immediately, and received data is acknowledged
    // immediately.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

/// Creates a UDP socket.
pub(in crate::network) fn udp_socket() -> udp::Socket<'static> {
    /// Capacity of each queue in datagrams and in bytes.
    const WAITING: (usize, usize) = (16, 16 << 10);
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; WAITING.0], vec![0; WAITING.1]);
    udp::Socket::new(buffer(), buffer())
}

fn endpoint(address: SocketAddrV4) -> IpEndpoint {
    IpEndpoint::new(IpAddress::Ipv4(*address.ip()), address.port())
}
