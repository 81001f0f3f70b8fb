//! Network devices. The guests answer ARP requests and ICMP echos, so a host's `ping` can be the
//! peer.

use crate::frame::{self, ECHO_HEADERS, Host};
use crate::{Case, Console, Device, DeviceKind, End, Exchange, Link};

/// MAC address of the first device.
pub const MAC0: [u8; 6] = [0x02, 0x00, 0x00, 0x00, 0x01, 0x02];
/// MAC address of the second device.
pub const MAC1: [u8; 6] = [0x02, 0x00, 0x00, 0x00, 0x02, 0x02];

/// A link on which the peer sends nothing.
pub const QUIET_LINK: Link = Link { mac: MAC0, mtu: 1500, exchanges: &[] };

pub(super) const GUEST0: Host = Host { mac: MAC0, ip: [10, 0, 0, 2] };
pub(super) const PEER0: Host = Host { mac: [0x02, 0x00, 0x00, 0x00, 0x01, 0x01], ip: [10, 0, 0, 1] };
const GUEST1: Host = Host { mac: MAC1, ip: [10, 1, 0, 2] };
const PEER1: Host = Host { mac: [0x02, 0x00, 0x00, 0x00, 0x02, 0x01], ip: [10, 1, 0, 1] };

const fn arp(peer: &'static [u8; 42], guest: &'static [u8; 42]) -> Exchange {
    Exchange { frame: peer, reply: guest }
}

/// An echo in a frame of `LEN` bytes.
macro_rules! echo {
    ($peer:ident, $guest:ident, $sequence:literal, $len:expr) => {
        Exchange {
            frame: &frame::echo_request::<{ $len }>($peer, $guest, $sequence),
            reply: &frame::echo_reply::<{ $len }>($guest, $peer, $sequence),
        }
    };
}

const ARP0: Exchange = arp(&frame::arp_request(PEER0, GUEST0), &frame::arp_reply(GUEST0, PEER0));
const ARP1: Exchange = arp(&frame::arp_request(PEER1, GUEST1), &frame::arp_reply(GUEST1, PEER1));

/// Maximum length in bytes of a frame on a device with an MTU of 1500.
pub(super) const FULL: usize = 14 + 1500;
/// Maximum length in bytes of a frame on a device with an MTU of 9000.
pub(super) const JUMBO: usize = 14 + 9000;

const LINK0: Link = Link {
    mac: MAC0,
    mtu: 1500,
    exchanges: &[
        ARP0,
        echo!(PEER0, GUEST0, 1, 98),
        echo!(PEER0, GUEST0, 2, ECHO_HEADERS),
        echo!(PEER0, GUEST0, 3, ECHO_HEADERS + 1),
        echo!(PEER0, GUEST0, 4, FULL),
    ],
};

const LINK1: Link =
    Link { mac: MAC1, mtu: 1500, exchanges: &[ARP1, echo!(PEER1, GUEST1, 1, 98), echo!(PEER1, GUEST1, 2, FULL)] };

const JUMBO0: Link =
    Link { mac: MAC0, mtu: 9000, exchanges: &[ARP0, echo!(PEER0, GUEST0, 1, 98), echo!(PEER0, GUEST0, 2, JUMBO)] };

const BLOCKS: usize = super::block_names::NAMES.len();

/// 62 block devices, and a network device with the highest handle.
const DEVICES63: [Device; BLOCKS + 1] = {
    let mut devices = [Device { name: "net63", kind: DeviceKind::Net(LINK0) }; BLOCKS + 1];
    let mut index = 0;
    while index < BLOCKS {
        devices[index] = super::block_names::device(index);
        index += 1;
    }
    devices
};

/// The cases. Arguments: the number of echos before SUCCESS, and the expected properties of each
/// device.
pub const CASES: &[Case] = &[
    Case {
        name: "net",
        guest: "net",
        arguments: &["echos=4", "ip=10.0.0.2", "mac=02:00:00:00:01:02", "mtu=1500"],
        devices: &[Device { name: "service", kind: DeviceKind::Net(LINK0) }],
        ..Case::ORDINARY
    },
    Case {
        name: "net-jumbo",
        guest: "net",
        arguments: &["echos=2", "ip=10.0.0.2", "mac=02:00:00:00:01:02", "mtu=9000"],
        devices: &[Device { name: "service", kind: DeviceKind::Net(JUMBO0) }],
        ..Case::ORDINARY
    },
    Case {
        name: "net-edges",
        guest: "net-edges",
        devices: &[Device { name: "service", kind: DeviceKind::Net(QUIET_LINK) }],
        ..Case::ORDINARY
    },
    Case {
        name: "ping-nobody",
        guest: "ping",
        arguments: &["count=1", "deadline=10", "peer=10.0.0.1"],
        devices: &[Device { name: "service", kind: DeviceKind::Net(QUIET_LINK) }],
        ends: &[End::Status(1)],
        console: Console::holds(&["PING 10.0.0.1\nFAILURE: no ARP reply from 10.0.0.1"]),
        ..Case::ORDINARY
    },
    Case {
        name: "net-two",
        guest: "net-two",
        arguments: &["echos=6", "ip=10.0.0.2", "ip2=10.1.0.2"],
        devices: &[
            Device { name: "service0", kind: DeviceKind::Net(LINK0) },
            Device { name: "service1", kind: DeviceKind::Net(LINK1) },
        ],
        ..Case::ORDINARY
    },
    // Tests of the service need a peer that implements TCP.
    Case {
        name: "http",
        guest: "http",
        arguments: &["ip=10.0.0.2/24", "requests=0"],
        devices: &[Device { name: "service", kind: DeviceKind::Net(QUIET_LINK) }],
        console: Console::holds(&["address 10.0.0.2/24\n", "listening on port 80\n", "SUCCESS\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "devices-63",
        guest: "devices63",
        arguments: &["echos=4", "ip=10.0.0.2"],
        devices: &DEVICES63,
        ..Case::ORDINARY
    },
];
