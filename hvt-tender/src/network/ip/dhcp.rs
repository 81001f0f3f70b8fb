//! A DHCP server (RFC 2131): hands out the addresses of a range.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::Ipv4Addr;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, IpEndpoint,
};

use super::Stack;

/// How long a lease lasts in seconds: longer than anything that runs here.
const LEASE: u32 = 7 * 24 * 3600;

/// Leases at a time: a client can ask under any number of hardware addresses.
const MOST: usize = 1024;

/// What a server tells its clients.
#[derive(Clone, Debug)]
pub(in crate::network) struct Offer {
    /// The server's own address.
    pub(in crate::network) server: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub(in crate::network) prefix: u8,
    /// The way to other networks.
    pub(in crate::network) router: Option<Ipv4Addr>,
    /// Who answers DNS queries.
    pub(in crate::network) dns: Option<Ipv4Addr>,
    /// First and last address of the range.
    pub(in crate::network) range: (Ipv4Addr, Ipv4Addr),
}

/// A server on a stack.
#[derive(Debug)]
pub(in crate::network) struct Server {
    socket: SocketHandle,
    offer: Offer,
    leases: Leases,
}

impl Server {
    /// # Errors
    /// When the range is empty.
    pub(in crate::network) fn start(stack: &mut Stack, offer: Offer) -> io::Result<Self> {
        let (first, last) = offer.range;
        if first > last || (first == last && first == offer.server) {
            let what = format!("from {first} to {last} there is no address to hand out");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let socket = stack.bind(DHCP_SERVER_PORT)?;
        Ok(Self { socket, leases: Leases { range: offer.range, server: offer.server, given: VecDeque::new() }, offer })
    }

    /// Answers what has been asked.
    pub(in crate::network) fn serve(&mut self, stack: &mut Stack) {
        let socket = stack.sockets.get_mut::<udp::Socket<'_>>(self.socket);
        while let Ok((message, _)) = socket.recv() {
            let Some(answer) = self.answer(message) else { continue };
            // To all, even where the client has an address: one that does not answer for it would hold up the others.
            let to = IpEndpoint::new(Ipv4Addr::BROADCAST.into(), DHCP_CLIENT_PORT);
            let from = udp::UdpMetadata { local_address: Some(self.offer.server.into()), ..to.into() };
            if socket.send_slice(&answer, from).is_err() {
                log::debug!("DHCP: an answer is lost, too many wait");
            }
        }
    }

    /// The answer to a message.
    fn answer(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let client = request.client_hardware_address;
        let elsewhere = request.server_identifier.is_some_and(|server| server != self.offer.server);
        let (answer, address) = match request.message_type {
            DhcpMessageType::Discover => (DhcpMessageType::Offer, self.leases.of(client)),
            // It has taken the offer of another server.
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

/// Who has which address. There are as many as the range has addresses, [`MOST`] at most: the oldest makes way for a new
/// one.
#[derive(Debug)]
struct Leases {
    range: (Ipv4Addr, Ipv4Addr),
    /// The server's own address, which it does not give away.
    server: Ipv4Addr,
    given: VecDeque<(EthernetAddress, Ipv4Addr)>,
}

impl Leases {
    /// The address of this client, from now on if it has none yet.
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
        // The range is used up: the oldest one goes.
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
