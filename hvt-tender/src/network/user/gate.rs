//! Filter of the guest's frames in front of the stack.

use std::net::Ipv4Addr;
use std::sync::Arc;

use smoltcp::iface::SocketHandle;
use smoltcp::wire::{ArpPacket, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet};

use super::addresses::{DNS, GATEWAY, Policy};
use crate::network::ip::{Admission, Flow, Gate};

/// Filter that admits frames by the [`Policy`]. It is required because the stack accepts packets to
/// any address.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) policy: Arc<Policy>,
    /// Number of connections that the guest may still open.
    pub(super) room: usize,
    /// Connections that the guest has requested, each with its SYN frame. The stack receives the
    /// frame once the host's connection is established or has failed.
    pub(super) asked: Vec<(Flow, Vec<u8>)>,
}

impl Keeper {
    fn decide(&mut self, frame: &[u8]) -> Option<Admission> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        match ethernet.ethertype() {
            EthernetProtocol::Arp => {
                let arp = ArpPacket::new_checked(ethernet.payload()).ok()?;
                // Answer ARP for the stack's addresses only: the stack accepts every address, so
                // its answers would make all other addresses of the network appear taken.
                let target = <[u8; 4]>::try_from(arp.target_protocol_addr()).ok()?;
                ours(target.into()).then_some(Admission::Pass)
            }
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
                let to = packet.dst_addr();
                match packet.next_header() {
                    // A refused SYN passes: the stack has no such connection and answers with RST.
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

/// Returns whether this is an address of the stack: the gateway or the DNS server.
fn ours(address: Ipv4Addr) -> bool {
    address == GATEWAY || address == DNS
}
