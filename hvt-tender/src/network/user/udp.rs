//! UDP datagrams of the guest, and the host's sockets that carry them.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::raw;
use smoltcp::wire::{DHCP_SERVER_PORT, IpAddress, IpProtocol, IpVersion, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr};

use super::addresses::{GATEWAY, Policy, is_guest};
use crate::network::ip::{BURST, Stack};

/// Maximum number of associations. A new association replaces the one that was silent for longest.
const MOST: usize = 64;
/// Lifetime of an unused association. RFC 4787 requires at least two minutes.
const SILENCE: Duration = Duration::from_secs(120);
/// Maximum number of datagrams that one turn receives from each socket.
const EACH: usize = 32;
/// Size of the IPv4 and UDP headers in bytes.
const HEADERS: usize = 28;
/// Time to live of the packets to the guest.
const HOPS: u8 = 64;

/// UDP associations of the guest.
#[derive(Debug)]
pub(super) struct Datagrams {
    /// Raw socket for all datagrams from and to the guest.
    socket: SocketHandle,
    policy: Arc<Policy>,
    /// Maximum size of a datagram in bytes, headers included.
    mtu: usize,
    /// Associations, the most recently used last.
    associations: VecDeque<Association>,
    /// Packet to the guest that found no room in the stack. No further datagram is received from
    /// the host before this packet is queued.
    waiting: Option<Vec<u8>>,
    /// Number of calls of `carry_in`. Each call starts with another socket.
    calls: usize,
}

/// Socket of the host for the datagrams between an address of the guest and an address of a peer.
#[derive(Debug)]
struct Association {
    guest: SocketAddrV4,
    /// Peer, as addressed by the guest.
    peer: SocketAddrV4,
    host: UdpSocket,
    used: Instant,
}

impl Datagrams {
    pub(super) fn new(stack: &mut Stack, policy: Arc<Policy>, mtu: u16) -> Self {
        // Room for the packets of one turn plus one, because a packet does not wrap around in the
        // ring buffer.
        let bytes = (BURST + 1) * usize::from(mtu);
        let buffer = || raw::PacketBuffer::new(vec![raw::PacketMetadata::EMPTY; BURST], vec![0; bytes]);
        let socket = raw::Socket::new(Some(IpVersion::Ipv4), Some(IpProtocol::Udp), buffer(), buffer());
        let socket = stack.sockets.add(socket);
        Self { socket, policy, mtu: mtu.into(), associations: VecDeque::new(), waiting: None, calls: 0 }
    }

    /// Returns the sockets to wait for, in the order of the associations. Returns no sockets while
    /// a packet waits for room in the stack.
    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let wanted = self.waiting.is_none();
        self.associations.iter().filter(move |_| wanted).map(|association| association.host.as_fd())
    }

    /// Sends the datagrams of the guest to their destinations.
    pub(super) fn carry_out(&mut self, stack: &mut Stack) {
        while let Ok(packet) = stack.sockets.get_mut::<raw::Socket<'_>>(self.socket).recv() {
            let Some((guest, peer, data)) = parse(packet) else { continue };
            let Some(to) = self.policy.outside(peer) else { continue };
            // Replies must be routable to the guest, and DHCP messages belong to the gateway's
            // server.
            if !is_guest(*guest.ip()) || peer == SocketAddrV4::new(GATEWAY, DHCP_SERVER_PORT) {
                continue;
            }
            match self.association(guest, peer, to) {
                // The send fails if the destination is closed or the buffer is full: the datagram
                // is lost.
                Ok(host) => drop(host.send(data)),
                Err(error) => log::debug!("user-mode networking: datagram to {to} dropped: {error}"),
            }
        }
        self.associations.retain(|association| association.used.elapsed() < SILENCE);
    }

    /// Sends datagrams from the host's sockets to the guest until the stack has no room. The
    /// remaining datagrams wait in the sockets. `ready` is the readiness of the sockets in the
    /// order of [`sockets`](Self::sockets).
    pub(super) fn carry_in(&mut self, stack: &mut Stack, ready: impl Iterator<Item = bool>) {
        let socket = stack.sockets.get_mut::<raw::Socket<'_>>(self.socket);
        self.waiting = self.waiting.take().filter(|packet| socket.send_slice(packet).is_err());
        let mut ready: Vec<_> = self.associations.iter_mut().zip(ready).filter(|(_, ready)| *ready).collect();
        if !ready.is_empty() {
            self.calls = self.calls.wrapping_add(1);
            let first = self.calls % ready.len();
            ready.rotate_left(first);
        }
        let mut data = [0; u16::MAX as usize];
        // One datagram of each socket at a time, so that a busy socket does not use up the room.
        for _ in 0..EACH {
            for (association, ready) in &mut ready {
                if self.waiting.is_some() {
                    return;
                }
                if !*ready {
                    continue;
                }
                match association.host.recv(&mut data) {
                    Ok(len) if len + HEADERS <= self.mtu => {
                        association.used = Instant::now();
                        let packet = packet(association.peer, association.guest, &data[..len]);
                        self.waiting = socket.send_slice(&packet).is_err().then_some(packet);
                    }
                    Ok(len) => log::debug!("user-mode networking: datagram of {len} bytes dropped: above the MTU"),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => *ready = false,
                    // The peer's port is closed (ICMP port unreachable). The guest gets no reply.
                    Err(_) => {}
                }
            }
        }
    }

    /// Returns the time until the next association expires.
    pub(super) fn idle(&self) -> Option<Duration> {
        let first = self.associations.iter().map(|association| association.used).min()?;
        Some(SILENCE.saturating_sub(first.elapsed()))
    }

    /// Returns the socket of the association between `guest` and `peer`. Creates the association if
    /// it does not exist.
    fn association(&mut self, guest: SocketAddrV4, peer: SocketAddrV4, to: SocketAddr) -> io::Result<&UdpSocket> {
        let known = self.associations.iter().position(|known| (known.guest, known.peer) == (guest, peer));
        let association = match known.and_then(|position| self.associations.remove(position)) {
            Some(known) => known,
            None => {
                let any: IpAddr = match to {
                    // Bound to the loopback, so that no other machine can send to the socket.
                    SocketAddr::V4(to) if to.ip().is_loopback() => Ipv4Addr::LOCALHOST.into(),
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let host = UdpSocket::bind((any, 0))?;
                host.set_nonblocking(true)?;
                host.connect(to)?;
                if self.associations.len() >= MOST {
                    self.associations.pop_front();
                }
                Association { guest, peer, host, used: Instant::now() }
            }
        };
        self.associations.push_back(Association { used: Instant::now(), ..association });
        self.associations.back().map(|newest| &newest.host).ok_or(io::ErrorKind::NotFound.into())
    }
}

/// Returns the source, the destination and the payload of a UDP packet. Returns `None` if the
/// packet is malformed or a fragment.
fn parse(packet: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, &[u8])> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    if ip.more_frags() || ip.frag_offset() != 0 {
        return None;
    }
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    let sums = ChecksumCapabilities::default();
    let repr = UdpRepr::parse(&udp, &IpAddress::Ipv4(from), &IpAddress::Ipv4(to), &sums).ok()?;
    let len = udp.payload().len();
    let end = ip.header_len() as usize + usize::from(udp.len());
    Some((SocketAddrV4::new(from, repr.src_port), SocketAddrV4::new(to, repr.dst_port), packet.get(end - len..end)?))
}

/// Returns an IPv4 UDP packet with the payload `data`.
pub(super) fn packet(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let sums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let ip = Ipv4Repr {
        src_addr: *from.ip(),
        dst_addr: *to.ip(),
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + data.len(),
        hop_limit: HOPS,
    };
    let mut bytes = vec![0; ip.buffer_len() + ip.payload_len];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    ip.emit(&mut packet, &sums);
    let (source, destination) = (IpAddress::Ipv4(*from.ip()), IpAddress::Ipv4(*to.ip()));
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    udp.emit(&mut datagram, &source, &destination, data.len(), |payload| payload.copy_from_slice(data), &sums);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FROM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 53);
    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 1234);

    proptest! {
        #[test]
        fn packets_hold_what_was_put_in(data in prop::collection::vec(any::<u8>(), 0..1472)) {
            let bytes = packet(FROM, TO, &data);
            prop_assert_eq!(bytes.len(), data.len() + HEADERS);
            prop_assert_eq!(parse(&bytes), Some((FROM, TO, &data[..])));
        }

        /// No packet from the guest makes the parser panic.
        #[test]
        fn broken_packets(data: Vec<u8>, at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut bytes = packet(FROM, TO, &data);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = parse(&bytes);
            let _ = parse(&data);
        }
    }
}
