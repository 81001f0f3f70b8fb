//! What of the guest's frames gets to the stack.

use std::net::Ipv4Addr;
use std::sync::Arc;

use smoltcp::iface::SocketHandle;
use smoltcp::wire::{ArpPacket, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet};

use super::addresses::{DNS, GATEWAY, Policy};
use crate::network::ip::{Admission, Flow, Gate};

/// Decides what the guest reaches. The stack behind it takes every address for its own.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) policy: Arc<Policy>,
    /// Connections that may still be begun.
    pub(super) room: usize,
    /// Those that the guest wants to begin, each with its first frame: it is answered once it is known what comes of it.
    pub(super) asked: Vec<(Flow, Vec<u8>)>,
}

impl Keeper {
    fn decide(&mut self, frame: &[u8]) -> Option<Admission> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        match ethernet.ethertype() {
            EthernetProtocol::Arp => {
                let arp = ArpPacket::new_checked(ethernet.payload()).ok()?;
                // Whom it asks for, or tells: nobody is to hear that others' addresses are taken.
                let target = <[u8; 4]>::try_from(arp.target_protocol_addr()).ok()?;
                ours(target.into()).then_some(Admission::Pass)
            }
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
                let to = packet.dst_addr();
                match packet.next_header() {
                    // What is refused is refused aloud: the stack knows of no such connection.
                    IpProtocol::Tcp => Some(self.connection(frame)),
                    IpProtocol::Udp => Some(Admission::Pass),
                    _ => ours(to).then_some(Admission::Pass),
                }
            }
            _ => None,
        }
    }

    fn connection(&mut self, frame: &[u8]) -> Admission {
        match Flow::of_syn(frame) {
            Some(flow) if self.asked.len() < self.room && self.policy.connection(flow.local).is_some() => {
                self.asked.push((flow, frame.to_vec()));
                Admission::Drop
            }
            _ => Admission::Pass,
        }
    }
}

impl Gate for Keeper {
    fn admit(&mut self, frame: &[u8]) -> Admission {
        self.decide(frame).unwrap_or(Admission::Drop)
    }

    fn opened(&mut self, _: Flow, _: SocketHandle) {}
}

/// Whether this is an address of the stack's own.
fn ours(address: Ipv4Addr) -> bool {
    address == GATEWAY || address == DNS
}
