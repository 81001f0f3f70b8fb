//! DNS server (RFC 1035) that answers from a table of IPv4 addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::{DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode};

use super::Stack;

/// UDP port of DNS servers.
const PORT: u16 = 53;
/// Size of a message header in bytes.
const HEADER: usize = 12;
/// Maximum number of answers. They fit behind the longest name in the 512 bytes that every client
/// accepts.
const ANSWERS: usize = 14;
/// Time to live of an answer in seconds.
const LIFETIME: u32 = 60;

/// Table of lower-case names with their addresses.
pub(in crate::network) type Names = BTreeMap<String, Vec<Ipv4Addr>>;

/// DNS server on a stack.
#[derive(Debug)]
pub(in crate::network) struct Server {
    socket: SocketHandle,
    names: Names,
}

impl Server {
    pub(in crate::network) fn start(stack: &mut Stack, names: Names) -> io::Result<Self> {
        Ok(Self { socket: stack.bind(PORT)?, names })
    }

    /// Answers the received queries.
    pub(in crate::network) fn serve(&mut self, stack: &mut Stack) {
        let socket = stack.sockets.get_mut::<udp::Socket<'_>>(self.socket);
        while let Ok((query, from)) = socket.recv() {
            let Some(answer) = answer(query, &self.names) else { continue };
            if socket.send_slice(&answer, from).is_err() {
                log::debug!("DNS: answer dropped: send queue is full");
            }
        }
    }
}

/// Returns the answer to `query`. Returns `None` if the message is not a query.
fn answer(query: &[u8], names: &Names) -> Option<Vec<u8>> {
    let packet = DnsPacket::new_checked(query).ok()?;
    if packet.flags().contains(DnsFlags::RESPONSE) {
        return None;
    }
    let question = match (packet.opcode(), packet.question_count()) {
        (DnsOpcode::Query, 1) => DnsQuestion::parse(packet.payload()).map_err(|_| DnsRcode::FormErr),
        (DnsOpcode::Query, _) => Err(DnsRcode::FormErr),
        _ => Err(DnsRcode::NotImp),
    };
    let found = question.and_then(|(_, question)| {
        let name = name(&packet, question.name).ok_or(DnsRcode::FormErr)?;
        let known = names.get(&name).ok_or(DnsRcode::NXDomain);
        Ok((question, known))
    });
    let mut answer = vec![0; HEADER];
    let (code, count) = match found {
        Ok((question, known)) => {
            answer.resize(HEADER + question.buffer_len(), 0);
            question.emit(&mut answer[HEADER..]);
            // The names of the table have A records only. A query for another type gets an empty
            // answer.
            let addresses = known.map(|known| if question.type_ == DnsQueryType::A { known.as_slice() } else { &[] });
            let addresses = addresses.map(|addresses| &addresses[..addresses.len().min(ANSWERS)]);
            for address in addresses.unwrap_or_default() {
                // smoltcp cannot emit records. Layout: pointer to the question's name (section
                // 4.1.4), type A, class IN, time to live, length 4, address.
                answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
                answer.extend(LIFETIME.to_be_bytes());
                answer.extend([0, 4]);
                answer.extend(address.octets());
            }
            (addresses.err().unwrap_or(DnsRcode::NoError), (1, addresses.unwrap_or_default().len() as u16))
        }
        Err(code) => (code, (0, 0)),
    };
    let mut header = DnsPacket::new_unchecked(&mut answer);
    header.set_transaction_id(packet.transaction_id());
    header.set_opcode(packet.opcode());
    let asked = packet.flags() & DnsFlags::RECURSION_DESIRED;
    header.set_flags(DnsFlags::RESPONSE | DnsFlags::AUTHORITATIVE | DnsFlags::RECURSION_AVAILABLE | asked);
    header.set_question_count(count.0);
    header.set_answer_record_count(count.1);
    // smoltcp cannot set the response code, the lowest four bits of the flags (section 4.1.1).
    answer[3] |= u8::from(code);
    Some(answer)
}

/// Returns a name in lower case with dots between its labels.
fn name(packet: &DnsPacket<&[u8]>, bytes: &[u8]) -> Option<String> {
    let labels = packet.parse_name(bytes).map(|label| str::from_utf8(label.ok()?).ok());
    Some(labels.collect::<Option<Vec<_>>>()?.join(".").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> Names {
        let two = vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        BTreeMap::from([("db.test".into(), two), ("many.test".into(), vec![Ipv4Addr::LOCALHOST; 100])])
    }

    /// Query for a name, with the flag RD (recursion desired).
    fn query(labels: &[&str], kind: u8) -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            query.push(label.len() as u8);
            query.extend(label.bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn a_known_name_has_its_addresses() {
        let query = query(&["DB", "test"], 1);
        let answer = answer(&query, &names()).unwrap();
        assert_eq!(answer[..12], [0x12, 0x34, 0x85, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert_eq!(answer[12..query.len()], query[12..]);
        assert_eq!(answer[query.len()..][..16], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
        assert_eq!(answer[query.len() + 16 + 12..], [10, 0, 0, 2]);
    }

    #[test]
    fn unknown_names_and_invalid_queries_get_error_codes() {
        let names = names();
        let code = |query: &[u8]| answer(query, &names).map(|answer| (answer[3] & 15, answer[7]));
        assert_eq!(code(&query(&["db", "test"], 28)), Some((0, 0)), "no IPv6 address");
        assert_eq!(code(&query(&["web", "test"], 1)), Some((3, 0)));
        assert_eq!(code(&query(&["test"], 1)), Some((3, 0)));
        assert_eq!(code(&query(&["many", "test"], 1)), Some((0, ANSWERS as u8)));
        let mut inverse = query(&["db", "test"], 1);
        inverse[2] |= 0x10;
        assert_eq!(code(&inverse), Some((4, 0)));
        let mut several = query(&["db", "test"], 1);
        several[5] = 2;
        assert_eq!(code(&several), Some((1, 0)));
        assert_eq!(code(&query(&["db", "test"], 1)[..20]), Some((1, 0)), "cut short");
        let mut response = query(&["db", "test"], 1);
        response[2] |= 0x80;
        assert_eq!(code(&response), None);
        assert_eq!(code(&[0; 11]), None);
    }

    proptest! {
        #[test]
        fn any_bytes(mut query: Vec<u8>, looks_right: bool) {
            if let (true, Some(header)) = (looks_right, query.get_mut(2..6)) {
                header.copy_from_slice(&[1, 0, 0, 1]);
            }
            prop_assert!(answer(&query, &names()).is_none_or(|answer| answer.len() <= query.len().max(12) + 16 * ANSWERS));
        }
    }
}
