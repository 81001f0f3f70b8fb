//! Addresses of the guest's network, and their translation to addresses of the host.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::config::HostLoopback;

/// Prefix length of the network in bits.
pub(super) const PREFIX: u8 = 24;
/// Gateway. As a destination, it stands for the host's loopback.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// DNS server.
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Guest.
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Port of DNS servers.
const DNS_PORT: u16 = 53;

/// Metadata services of clouds that hold credentials and are not link-local: Azure, Alibaba Cloud,
/// Oracle Cloud.
const METADATA: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

/// Destinations that the guest may reach.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// DNS server of the host.
    pub(super) resolver: SocketAddr,
    /// Open ports of the host's loopback.
    pub(super) loopback: HostLoopback,
    /// [Withheld](is_withheld) addresses that are open.
    pub(super) opened: Vec<Ipv4Addr>,
}

impl Policy {
    /// Translates a destination of the guest to an address of the host. Returns `None` if the guest
    /// may not reach it.
    pub(super) fn outside(&self, to: SocketAddrV4) -> Option<SocketAddr> {
        let address = *to.ip();
        let same_network = address.octets()[..3] == GATEWAY.octets()[..3];
        match address {
            _ if to.port() == 0 => None,
            GATEWAY if self.loopback.contains(to.port()) => Some((Ipv4Addr::LOCALHOST, to.port()).into()),
            // The host's DNS server is open even on the loopback.
            DNS if to.port() == DNS_PORT => Some(self.resolver),
            _ if same_network => None,
            _ if is_withheld(address) && !self.opened.contains(&address) => None,
            // Closed: "this network" (RFC 1122), which Linux takes for the local host, loopback,
            // multicast, and the reserved addresses above multicast.
            _ if address.octets()[0] == 0 || address.is_loopback() || address.octets()[0] >= 224 => None,
            _ => Some(to.into()),
        }
    }

    /// Like [`outside`](Self::outside), for TCP connections: the listening debuggers of this
    /// process are closed.
    pub(super) fn connection(&self, to: SocketAddrV4) -> Option<SocketAddr> {
        self.outside(to).filter(|to| !crate::debugger_port::is_waited_at(*to))
    }
}

/// Returns whether an address is closed by default: a link-local address or a metadata service.
pub(super) fn is_withheld(address: Ipv4Addr) -> bool {
    address.is_link_local() || METADATA.contains(&address)
}

/// Returns whether a guest can have this address: a host address of the network that is neither the
/// gateway nor the DNS server.
pub(super) fn is_guest(address: Ipv4Addr) -> bool {
    let [a, b, c, host] = address.octets();
    [a, b, c] == GATEWAY.octets()[..3] && !matches!(host, 0 | 255) && address != GATEWAY && address != DNS
}

/// Returns the DNS server of the host.
pub(super) fn host_resolver() -> SocketAddr {
    let server = fs::read_to_string("/etc/resolv.conf").ok().and_then(|text| first_server(&text));
    // The default of resolv.conf(5) is the local host.
    SocketAddr::new(server.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), DNS_PORT)
}

/// Returns the first `nameserver` of a resolv.conf(5) that is a valid IP address.
fn first_server(text: &str) -> Option<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|rest| rest.trim().parse().ok()).next()
}

/// Returns a hardware address for the gateway that differs from the guest's.
pub(super) fn gateway_mac(guest: [u8; 6]) -> [u8; 6] {
    let ours = [2, 0, 0, 0, 2, 2];
    if guest == ours { [2, 0, 0, 0, 2, 3] } else { ours }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_can_reach() {
        let loopback = HostLoopback::Ports([80].into());
        let policy =
            Policy { resolver: "127.0.0.53:53".parse().unwrap(), loopback, opened: vec![[169, 254, 1, 1].into()] };
        for (to, there) in [
            ("10.0.2.2:80", Some("127.0.0.1:80")),
            ("10.0.2.2:53", None),
            ("10.0.2.2:81", None),
            ("10.0.2.3:53", Some("127.0.0.53:53")),
            ("10.0.2.3:80", None),
            ("10.0.2.1:80", None),
            ("10.0.2.15:80", None),
            ("10.0.2.255:80", None),
            ("127.0.0.1:80", None),
            ("127.1.2.3:80", None),
            ("127.0.0.53:53", None),
            ("169.254.169.254:80", None),
            ("169.254.1.1:80", Some("169.254.1.1:80")),
            ("168.63.129.16:80", None),
            ("168.63.129.17:80", Some("168.63.129.17:80")),
            ("100.100.100.200:80", None),
            ("192.0.0.192:80", None),
            ("0.0.0.0:80", None),
            ("0.1.2.3:80", None),
            ("224.0.0.1:80", None),
            ("240.0.0.1:80", None),
            ("255.255.255.255:80", None),
            ("10.0.2.2:0", None),
            ("10.0.3.2:80", Some("10.0.3.2:80")),
            ("192.0.2.1:443", Some("192.0.2.1:443")),
        ] {
            let there = there.map(|there: &str| there.parse().unwrap());
            assert_eq!(policy.outside(to.parse().unwrap()), there, "{to}");
        }
    }

    #[test]
    fn the_loopback_is_open_as_far_as_it_is_opened() {
        let reached = |loopback: HostLoopback| {
            let policy = Policy { resolver: "192.0.2.1:53".parse().unwrap(), loopback, opened: Vec::new() };
            [1, 80, 443, 65535].map(|port| policy.outside(SocketAddrV4::new(GATEWAY, port)).is_some())
        };
        assert_eq!(reached(HostLoopback::default()), [false; 4]);
        assert_eq!(reached(HostLoopback::All), [true; 4]);
        let (web, tls) = (HostLoopback::Ports([80].into()), HostLoopback::Ports([443].into()));
        assert_eq!(reached(web.clone()), [false, true, false, false]);
        assert_eq!(reached(HostLoopback::Closed.and(web).and(tls.clone())), [false, true, true, false]);
        assert_eq!(reached(tls.and(HostLoopback::All)), [true; 4]);
    }

    #[test]
    fn what_a_guest_can_be() {
        for (address, can) in [
            ("10.0.2.15", true),
            ("10.0.2.1", true),
            ("10.0.2.2", false),
            ("10.0.2.3", false),
            ("10.0.2.0", false),
            ("10.0.2.255", false),
            ("10.0.3.15", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(is_guest(address.parse().unwrap()), can, "{address}");
        }
    }

    #[test]
    fn the_first_server_is_asked() {
        for (text, server) in [
            ("", None),
            ("search example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n", Some("192.0.2.1")),
            ("nameserver\t2001:db8::1", Some("2001:db8::1")),
            ("# nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 192.0.2.2", Some("192.0.2.2")),
        ] {
            assert_eq!(first_server(text), server.map(|server: &str| server.parse().unwrap()), "{text}");
        }
    }
}
