//! Frames that the peer of a network device sends, and the expected replies: ARP (RFC 826), IPv4
//! (RFC 791) and ICMP echo (RFC 792), built at compile time.

/// A frame that the peer sends, and the reply that it waits for.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Frame of the peer, including the header.
    pub frame: &'static [u8],
    /// Expected reply of the guest.
    pub reply: &'static [u8],
}

/// One end of a link.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// MAC address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: [u8; 4],
}

/// Destination address of a broadcast frame.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// Length of the Ethernet, IPv4 and ICMP headers together, the minimum length of an echo.
pub const ECHO_HEADERS: usize = 14 + 20 + 8;

/// Returns an ARP request of `from` for the address of `to`.
#[must_use]
pub const fn arp_request(from: Host, to: Host) -> [u8; 42] {
    arp(BROADCAST, from, 1, Host { mac: [0; 6], ip: to.ip })
}

/// Returns the ARP reply of `from` to `to`.
#[must_use]
pub const fn arp_reply(from: Host, to: Host) -> [u8; 42] {
    arp(to.mac, from, 2, to)
}

const fn arp(destination: [u8; 6], from: Host, operation: u8, to: Host) -> [u8; 42] {
    let mut frame = ethernet([0; 42], destination, from.mac, 0x0806);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame = put(frame, 14, &[0, 1, 8, 0, 6, 4, 0, operation]);
    frame = put(frame, 22, &from.mac);
    frame = put(frame, 28, &from.ip);
    frame = put(frame, 32, &to.mac);
    put(frame, 38, &to.ip)
}

/// Returns an ICMP echo request with a total length of `LEN` bytes.
#[must_use]
pub const fn echo_request<const LEN: usize>(from: Host, to: Host, sequence: u16) -> [u8; LEN] {
    echo(from, to, 8, sequence)
}

/// Returns the reply to [`echo_request`].
#[must_use]
pub const fn echo_reply<const LEN: usize>(from: Host, to: Host, sequence: u16) -> [u8; LEN] {
    echo(from, to, 0, sequence)
}

/// Returns a frame of `LEN` bytes with the type for experiments in a local network (IEEE Std 802,
/// 9.2.3).
#[must_use]
pub const fn experiment<const LEN: usize>(from: Host, to: Host) -> [u8; LEN] {
    let mut frame = ethernet([0; LEN], to.mac, from.mac, 0x88b5);
    let mut index = 14;
    while index < LEN {
        frame[index] = (index * 7) as u8;
        index += 1;
    }
    frame
}

const fn echo<const LEN: usize>(from: Host, to: Host, kind: u8, sequence: u16) -> [u8; LEN] {
    assert!(LEN >= ECHO_HEADERS && LEN <= 14 + 65535);
    let mut frame = ethernet([0; LEN], to.mac, from.mac, 0x0800);
    let ip_len = ((LEN - 14) as u16).to_be_bytes();
    // Version 4, five words of header, don't fragment, 64 hops, ICMP.
    frame = put(frame, 14, &[0x45, 0, ip_len[0], ip_len[1], 0, 0, 0x40, 0, 64, 1, 0, 0]);
    frame = put(frame, 26, &from.ip);
    frame = put(frame, 30, &to.ip);
    let sum = checksum(&frame, 14, 34);
    frame = put(frame, 24, &sum);

    let sequence = sequence.to_be_bytes();
    frame = put(frame, 34, &[kind, 0, 0, 0, b'h', b'v', sequence[0], sequence[1]]);
    let mut index = ECHO_HEADERS;
    while index < LEN {
        frame[index] = (index * 7) as u8;
        index += 1;
    }
    let sum = checksum(&frame, 34, LEN);
    put(frame, 36, &sum)
}

const fn ethernet<const LEN: usize>(frame: [u8; LEN], to: [u8; 6], from: [u8; 6], kind: u16) -> [u8; LEN] {
    let frame = put(frame, 0, &to);
    let frame = put(frame, 6, &from);
    put(frame, 12, &kind.to_be_bytes())
}

const fn put<const LEN: usize>(mut frame: [u8; LEN], at: usize, bytes: &[u8]) -> [u8; LEN] {
    let mut index = 0;
    while index < bytes.len() {
        frame[at + index] = bytes[index];
        index += 1;
    }
    frame
}

/// Returns the Internet checksum (RFC 1071) of `bytes[start..end]`.
const fn checksum(bytes: &[u8], start: usize, end: usize) -> [u8; 2] {
    let mut sum = 0_u32;
    let mut index = start;
    while index < end {
        let low = if index + 1 < end { bytes[index + 1] } else { 0 };
        sum += (bytes[index] as u32) << 8 | low as u32;
        index += 2;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Host = Host { mac: [2, 0, 0, 0, 0, 1], ip: [10, 0, 0, 1] };
    const B: Host = Host { mac: [2, 0, 0, 0, 0, 2], ip: [10, 0, 0, 2] };

    #[test]
    fn checksums_cover_themselves() {
        let frame: [u8; 99] = echo_request(A, B, 7);
        assert_eq!(checksum(&frame, 14, 34), [0, 0]);
        assert_eq!(checksum(&frame, 34, 99), [0, 0]);
    }

    #[test]
    fn ip_header_checksum_is_that_of_a_known_packet() {
        // Example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0, 8), [0x22, 0x0d]);
    }

    #[test]
    fn arp_contains_both_addresses() {
        let request = arp_request(A, B);
        assert_eq!(&request[..6], &BROADCAST);
        assert_eq!(&request[20..42], &[0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        let reply = arp_reply(B, A);
        assert_eq!(&reply[..14], &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6]);
        assert_eq!(&reply[20..42], &[0, 2, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
    }
}
