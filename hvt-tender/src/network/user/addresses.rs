//! Who has which address, and what of the world it stands for.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// Length in bits of the network's prefix.
pub(super) const PREFIX: u8 = 24;
/// The way out, and the host's loopback.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Who knows names.
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The guest.
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Port of DNS servers.
const DNS_PORT: u16 = 53;

/// What a destination of the guest's is to the host; `None` where there is nothing.
pub(super) fn outside(to: SocketAddrV4, resolver: SocketAddr) -> Option<SocketAddr> {
    let address = *to.ip();
    let same_network = address.octets()[..3] == GATEWAY.octets()[..3];
    match address {
        _ if to.port() == 0 => None,
        GATEWAY => Some((Ipv4Addr::LOCALHOST, to.port()).into()),
        DNS if to.port() == DNS_PORT => Some(resolver),
        _ if same_network => None,
        // "This" network (RFC 1122), loopback, link-local (where clouds tell machines their secrets), multicast and
        // what is reserved behind it.
        _ if address.octets()[0] == 0 || address.is_loopback() || address.is_link_local() => None,
        _ if address.octets()[0] >= 224 => None,
        _ => Some(to.into()),
    }
}

/// Whether a guest can have this address here: one of the network's that is not the stack's own.
pub(super) fn is_guest(address: Ipv4Addr) -> bool {
    let [a, b, c, host] = address.octets();
    [a, b, c] == GATEWAY.octets()[..3] && !matches!(host, 0 | 255) && address != GATEWAY && address != DNS
}

/// The server that the host asks for names.
pub(super) fn host_resolver() -> SocketAddr {
    let server = fs::read_to_string("/etc/resolv.conf").ok().and_then(|text| first_server(&text));
    // As resolv.conf(5) says.
    SocketAddr::new(server.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), DNS_PORT)
}

/// The first server that is named by its address.
fn first_server(text: &str) -> Option<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|rest| rest.trim().parse().ok()).next()
}

/// An address for the gateway's device that is not the guest's.
pub(super) fn gateway_mac(guest: [u8; 6]) -> [u8; 6] {
    let ours = [2, 0, 0, 0, 2, 2];
    if guest == ours { [2, 0, 0, 0, 2, 3] } else { ours }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_can_reach() {
        let resolver = "[2001:db8::1]:53".parse().unwrap();
        for (to, there) in [
            ("10.0.2.2:80", Some("127.0.0.1:80")),
            ("10.0.2.3:53", Some("[2001:db8::1]:53")),
            ("10.0.2.3:80", None),
            ("10.0.2.1:80", None),
            ("10.0.2.15:80", None),
            ("10.0.2.255:80", None),
            ("127.0.0.1:80", None),
            ("127.1.2.3:80", None),
            ("169.254.169.254:80", None),
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
            assert_eq!(outside(to.parse().unwrap(), resolver), there, "{to}");
        }
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
