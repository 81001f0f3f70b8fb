//! smoltcp's stack on a port.

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

/// Bytes of each of the two buffers of a connection: what is sent and not acknowledged, what is received and not read.
pub(in crate::network) const BUFFER: usize = 64 << 10;
/// Frames that are taken from the port before others have their turn.
pub(in crate::network) const BURST: usize = 64;
/// Rounds of sending, in which each socket sends a packet, before others have their turn.
const ROUNDS: usize = 256;
/// Time between two looks at the timers of a stack that waits for room at the other end.
const BLOCKED: Duration = Duration::from_secs(1);
/// Smallest MTU that a host on IPv4 has to cope with (RFC 791).
const MTU_MIN: u16 = 576;
/// Where ports for outgoing connections begin (RFC 6335).
const EPHEMERAL: u16 = 49_152;

/// Decides what becomes of a frame before the stack sees it.
pub(in crate::network) trait Gate {
    /// What becomes of `frame`.
    fn admit(&mut self, frame: &[u8]) -> Admission;

    /// A connection that was let in has begun.
    fn opened(&mut self, flow: Flow, handle: SocketHandle);
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) enum Admission {
    /// The stack never sees it.
    Drop,
    /// The stack does with it what is usual.
    Pass,
    /// It begins a connection, which is let in.
    Accept(Flow),
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) struct Flow {
    /// The guest's.
    pub(in crate::network) remote: SocketAddrV4,
    /// The stack's.
    pub(in crate::network) local: SocketAddrV4,
}

impl Flow {
    /// What the first segment of a TCP connection is about: one with SYN and without ACK.
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

    /// Whether this socket is one of its ends.
    fn is(&self, socket: &tcp::Socket<'_>) -> bool {
        socket.remote_endpoint() == Some(endpoint(self.remote)) && socket.local_endpoint() == Some(endpoint(self.local))
    }
}

/// What a stack's timers go by.
enum Clock {
    /// Time since then.
    Real(std::time::Instant),
    Virtual(VirtualTime),
}

/// A stack: its interface on a port, and its sockets.
pub(in crate::network) struct Stack {
    interface: Interface,
    device: PortDevice,
    pub(in crate::network) sockets: SocketSet<'static>,
    clock: Clock,
    ephemeral: u16,
    /// There was no room at the other end for the last round of sending.
    blocked: bool,
}

impl Stack {
    /// A stack with these addresses on `port`, which takes its chances from `seed`. With `any_address` it takes what is
    /// sent to any other address for its own as well.
    ///
    /// # Errors
    /// When the port's hardware address or MTU is none that a host can have.
    pub(in crate::network) fn new(
        port: Port,
        addresses: &[(Ipv4Addr, u8)],
        any_address: bool,
        seed: u64,
    ) -> io::Result<Self> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let mac = EthernetAddress(port.mac());
        if !mac.is_unicast() {
            return Err(invalid(format!("{mac} is not the hardware address of one host")));
        }
        if port.mtu() < MTU_MIN {
            return Err(invalid(format!("an MTU of {} is too small for a host: {MTU_MIN} at least", port.mtu())));
        }
        if let Some((address, _)) = addresses.iter().find(|(address, _)| !is_host(*address)) {
            return Err(invalid(format!("{address} is not the address of one host")));
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
            return Err(invalid(format!("{} addresses are too many for a host", addresses.len())));
        }
        let ephemeral = EPHEMERAL + (seed % u64::from(u16::MAX - EPHEMERAL)) as u16;
        let sockets = SocketSet::new(Vec::new());
        let clock = match device.port.virtual_time() {
            Some(time) => Clock::Virtual(time.clone()),
            None => Clock::Real(std::time::Instant::now()),
        };
        Ok(Self { interface, device, sockets, clock, ephemeral, blocked: false })
    }

    /// What is readable when a frame waits.
    pub(in crate::network) fn endpoint(&self) -> Arc<Endpoint> {
        self.device.port.endpoint()
    }

    /// When frames arrive, and in which time, if that is a virtual one.
    pub(in crate::network) fn arrivals(&self) -> Option<(VirtualTime, Arc<dyn Arrivals>)> {
        self.device.port.virtual_time().cloned().zip(self.device.port.arrivals())
    }

    /// The clock of its timers.
    fn now(&self) -> Instant {
        let elapsed = match &self.clock {
            Clock::Real(start) => start.elapsed(),
            Clock::Virtual(time) => time.elapsed(),
        };
        Instant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    /// Takes what has arrived, a burst of it at most, and sends what there is to send.
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

    /// Does with a frame what is usual.
    pub(in crate::network) fn deliver(&mut self, frame: Vec<u8>) {
        let now = self.now();
        self.device.put(frame);
        self.interface.poll_ingress_single(now, &mut self.device, &mut self.sockets);
    }

    /// Lets a connection in that begins with this frame; returns its socket, unless it is known already or the frame was
    /// not what it seemed: its sum is wrong, say.
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

    /// Whether there is such a connection.
    pub(in crate::network) fn knows(&self, flow: Flow) -> bool {
        self.tcp_sockets().any(|socket| flow.is(socket))
    }

    /// Sends what there is to send, as far as the other end has room. The port's [waker](Port::wake_by) is called when it
    /// has room again.
    ///
    /// A round begins if a packet of each socket finds room: otherwise the first sockets would always be served, and the
    /// last ones never.
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

    /// Returns whether the last [`flush`](Self::flush) found no room for what may be left to send.
    pub(in crate::network) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Has `doorbell` ring when there is room again at the other end.
    pub(in crate::network) fn wake_by(&self, doorbell: Arc<StackDoorbell>) {
        self.device.port.wake_by(move || doorbell.ring());
    }

    /// Ends all connections at once.
    pub(in crate::network) fn reset(&mut self) {
        for (_, socket) in self.sockets.iter_mut() {
            if let Socket::Tcp(socket) = socket {
                socket.abort();
            }
        }
    }

    /// How long nothing happens of itself.
    pub(in crate::network) fn idle(&mut self) -> Option<Duration> {
        let now = self.now();
        let idle = self.interface.poll_delay(now, &self.sockets).map(Duration::from);
        // What there is to send at once waits for room.
        if self.blocked { idle.map(|idle| idle.max(BLOCKED)) } else { idle }
    }

    /// A socket for one connection to `local`.
    fn listen(&mut self, local: SocketAddrV4) -> Option<SocketHandle> {
        let mut socket = tcp_socket();
        let at = IpListenEndpoint { addr: Some(IpAddress::Ipv4(*local.ip())), port: local.port() };
        socket.listen(at).ok()?;
        Some(self.sockets.add(socket))
    }

    /// Begins a connection from `from`, the stack's own address, to `to`.
    ///
    /// # Errors
    /// When `to` can be nobody's end of a connection, or no port is left.
    pub(in crate::network) fn connect(&mut self, from: Ipv4Addr, to: SocketAddrV4) -> io::Result<SocketHandle> {
        let local = self.ephemeral_port().ok_or(io::ErrorKind::AddrInUse)?;
        let mut socket = tcp_socket();
        let refused = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{to}: {error}"));
        let cx: &mut Context = self.interface.context();
        socket.connect(cx, endpoint(to), (IpAddress::Ipv4(from), local)).map_err(refused)?;
        Ok(self.sockets.add(socket))
    }

    /// A port that no connection uses.
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

    /// Waits for datagrams at this port, on any of its addresses.
    pub(in crate::network) fn bind(&mut self, port: u16) -> io::Result<SocketHandle> {
        let mut socket = udp_socket();
        socket.bind(port).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(self.sockets.add(socket))
    }
}

/// Returns whether a host can have this address: it is not that of many hosts, of no host, or reserved.
fn is_host(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 224..)
}

/// A socket for a connection.
pub(in crate::network) fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // Whoever writes here does so when it has something to say, and whoever reads answers at once.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

/// A socket for datagrams.
pub(in crate::network) fn udp_socket() -> udp::Socket<'static> {
    /// Datagrams that wait, and their bytes.
    const WAITING: (usize, usize) = (16, 16 << 10);
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; WAITING.0], vec![0; WAITING.1]);
    udp::Socket::new(buffer(), buffer())
}

fn endpoint(address: SocketAddrV4) -> IpEndpoint {
    IpEndpoint::new(IpAddress::Ipv4(*address.ip()), address.port())
}
