//! DHCP server (RFC 2131) that leases the addresses of a range.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::Ipv4Addr;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, IpEndpoint,
};

use super::Stack;

/// Lease time in seconds (7 days), longer than a guest is expected to run.
const LEASE: u32 = 7 * 24 * 3600;

/// Maximum number of leases. The bound is required because a guest can use any number of hardware
/// addresses.
const MOST: usize = 1024;

/// Parameters of a server's leases.
#[derive(Clone, Debug)]
pub(in crate::network) struct Offer {
    /// Address of the server.
    pub(in crate::network) server: Ipv4Addr,
    /// Prefix length of the network in bits.
    pub(in crate::network) prefix: u8,
    /// Router to other networks.
    pub(in crate::network) router: Option<Ipv4Addr>,
    /// DNS server.
    pub(in crate::network) dns: Option<Ipv4Addr>,
    /// First and last address to lease.
    pub(in crate::network) range: (Ipv4Addr, Ipv4Addr),
}

/// DHCP server on a stack.
#[derive(Debug)]
pub(in crate::network) struct Server {
    socket: SocketHandle,
    offer: Offer,
    leases: Leases,
}

impl Server {
    /// Starts the server.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if the range has no address to lease.
    pub(in crate::network) fn start(stack: &mut Stack, offer: Offer) -> io::Result<Self> {
        let (first, last) = offer.range;
        if first > last || (first == last && first == offer.server) {
            let what = format!("DHCP range {first} to {last}: no address to lease");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let socket = stack.bind(DHCP_SERVER_PORT)?;
        Ok(Self { socket, leases: Leases { range: offer.range, server: offer.server, given: VecDeque::new() }, offer })
    }

    /// Answers the received messages.
    pub(in crate::network) fn serve(&mut self, stack: &mut Stack) {
        let socket = stack.sockets.get_mut::<udp::Socket<'_>>(self.socket);
        while let Ok((message, _)) = socket.recv() {
            let Some(answer) = self.answer(message) else { continue };
            // Broadcast even if the client has an address: with unicast, a client that does not
            // answer ARP for its address would delay the answers to the other clients.
            let to = IpEndpoint::new(Ipv4Addr::BROADCAST.into(), DHCP_CLIENT_PORT);
            let from = udp::UdpMetadata { local_address: Some(self.offer.server.into()), ..to.into() };
            if socket.send_slice(&answer, from).is_err() {
                log::debug!("DHCP: answer dropped: send queue is full");
            }
        }
    }

    /// Returns the answer to `message`. Returns `None` if it is malformed or needs no answer.
    fn answer(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let client = request.client_hardware_address;
        let elsewhere = request.server_identifier.is_some_and(|server| server != self.offer.server);
        let (answer, address) = match request.message_type {
            DhcpMessageType::Discover => (DhcpMessageType::Offer, self.leases.of(client)),
            // The client has accepted the offer of another server.
            DhcpMessageType::Request if elsewhere => return None,
            DhcpMessageType::Request => {
                let address = self.leases.of(client);
                let wished = request.requested_ip.unwrap_or(request.client_ip);
                match wished == address {
                    true => (DhcpMessageType::Ack, address),
                    false => (DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED),
                }
            }
            DhcpMessageType::Release | DhcpMessageType::Decline => {
                self.leases.end(client);
                return None;
            }
            _ => return None,
        };
        let granted = answer != DhcpMessageType::Nak;
        let mask = u32::MAX.checked_shl(32 - u32::from(self.offer.prefix)).unwrap_or(0);
        let repr = DhcpRepr {
            message_type: answer,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: client,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: address,
            server_ip: self.offer.server,
            router: self.offer.router.filter(|_| granted),
            subnet_mask: granted.then(|| mask.into()),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.offer.server),
            parameter_request_list: None,
            dns_servers: self.offer.dns.filter(|_| granted).map(|server| [server].into_iter().collect()),
            max_size: None,
            lease_duration: granted.then_some(LEASE),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).ok()?;
        Some(bytes)
    }
}

/// Leases of the server: one for each address of the range, [`MOST`] at most. A new lease replaces
/// the oldest if no address is free.
#[derive(Debug)]
struct Leases {
    range: (Ipv4Addr, Ipv4Addr),
    /// Address of the server, which is not leased.
    server: Ipv4Addr,
    given: VecDeque<(EthernetAddress, Ipv4Addr)>,
}

impl Leases {
    /// Returns the address of `client`. Leases an address if the client has none.
    fn of(&mut self, client: EthernetAddress) -> Ipv4Addr {
        if let Some((_, address)) = self.given.iter().find(|(holder, _)| *holder == client) {
            return *address;
        }
        let mut taken: BTreeSet<_> = self.given.iter().map(|(_, address)| *address).collect();
        taken.insert(self.server);
        let (first, last) = (self.range.0.to_bits(), self.range.1.to_bits());
        let mut free = (first..=last).map(Ipv4Addr::from_bits);
        let free = if self.given.len() < MOST { free.find(|address| !taken.contains(address)) } else { None };
        let address = free.or_else(|| self.given.pop_front().map(|(_, address)| address)).unwrap_or(self.range.0);
        self.given.push_back((client, address));
        address
    }

    fn end(&mut self, client: EthernetAddress) {
        self.given.retain(|(holder, _)| *holder != client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> EthernetAddress {
        EthernetAddress([2, 0, 0, 0, 0, number])
    }

    #[test]
    fn a_client_keeps_its_address() {
        let [first, server, last] = [9, 10, 11].map(|host| Ipv4Addr::new(10, 0, 0, host));
        let mut leases = Leases { range: (first, last), server, given: VecDeque::new() };
        assert_eq!((leases.of(client(1)), leases.of(client(2)), leases.of(client(1))), (first, last, first));
        // All addresses are leased: the oldest lease is replaced.
        assert_eq!((leases.of(client(3)), leases.of(client(2)), leases.of(client(1))), (first, last, last));
        leases.end(client(3));
        assert_eq!((leases.of(client(4)), leases.given.len()), (first, 2));
    }

    #[test]
    fn clients_are_forgotten_when_they_are_too_many() {
        let [server, first, last] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 255, 255, 254]].map(Ipv4Addr::from);
        let mut leases = Leases { range: (first, last), server, given: VecDeque::new() };
        for number in 0..2000_u16 {
            let [high, low] = number.to_be_bytes();
            leases.of(EthernetAddress([2, 0, 0, 0, high, low]));
        }
        assert_eq!(leases.given.len(), MOST);
    }
}
