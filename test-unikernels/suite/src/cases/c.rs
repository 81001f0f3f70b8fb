//! Guests written in C, with `guest-bindings-c`.

use super::block::{AFTER, BEFORE};
use super::net::{FULL, GUEST0, JUMBO, MAC0, PEER0};
use crate::{Case, Console, Device, DeviceKind, Disk, End, Exchange, Link, frame};

const fn block(name: &'static str, arguments: &'static [&'static str], devices: &'static [Device]) -> Case {
    Case { name, guest: "c-block", arguments, devices, ..Case::ORDINARY }
}

const fn storage(capacity: u64, block_size: u16) -> Device {
    Device { name: "storage", kind: DeviceKind::Block(Disk { capacity, block_size, before: BEFORE, after: AFTER }) }
}

const fn net(name: &'static str, arguments: &'static [&'static str], devices: &'static [Device]) -> Case {
    Case { name, guest: "c-net", arguments, devices, ..Case::ORDINARY }
}

const fn service(mtu: u16, exchanges: &'static [Exchange]) -> Device {
    Device { name: "service", kind: DeviceKind::Net(Link { mac: MAC0, mtu, exchanges }) }
}

/// A frame of `LEN` bytes, and the same frame in the reverse direction.
macro_rules! returned {
    ($len:expr) => {
        Exchange {
            frame: &frame::experiment::<{ $len }>(PEER0, GUEST0),
            reply: &frame::experiment::<{ $len }>(GUEST0, PEER0),
        }
    };
}

const fn exit(name: &'static str, argument: &'static [&'static str], status: &'static [End]) -> Case {
    Case { name, guest: "c-exit", arguments: argument, ends: status, console: Console::holds(&[]), ..Case::ORDINARY }
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "c-hello",
        guest: "c-hello",
        arguments: &["--solo5:quiet", "one", "ü"],
        memory: 512,
        console: Console::exact("Command line is: 'one ü'\nSUCCESS\n".as_bytes()),
        ..Case::ORDINARY
    },
    Case { name: "c-hello-in-2-mib", guest: "c-hello", memory: 2, ..Case::ORDINARY },
    exit("c-exit-0", &["0"], &[End::Status(0)]),
    exit("c-exit-7", &["7"], &[End::Status(7)]),
    Case {
        name: "c-abort",
        guest: "c-abort",
        ends: &[End::Status(255)],
        console: Console::cut_short(&["Solo5: ABORT: the application called solo5_abort()\n"]),
        ..Case::ORDINARY
    },
    Case { name: "c-time", guest: "c-time", ..Case::ORDINARY },
    Case { name: "c-tls", guest: "c-tls", ..Case::ORDINARY },
    Case { name: "c-memory", guest: "c-memory", arguments: &["eleven", "long"], ..Case::ORDINARY },
    Case { name: "c-not-smashed", guest: "c-smash", arguments: &["16"], ends: &[End::Status(0)], ..Case::ORDINARY },
    Case {
        name: "c-smashed",
        guest: "c-smash",
        arguments: &["40"],
        ends: &[End::Status(255)],
        console: Console::cut_short(&["in bounds\n", "Solo5: ABORT: stack corruption detected\n"]),
        ..Case::ORDINARY
    },
    block("c-block-one-by-one", &["1048576", "512", "512"], &[storage(1 << 20, 512)]),
    block("c-block-many-at-once", &["4194304", "512", "65536"], &[storage(4 << 20, 512)]),
    block("c-block-4096", &["1048576", "4096", "32768"], &[storage(1 << 20, 4096)]),
    net("c-net", &["4", "1500"], &[service(1500, &[returned!(60), returned!(61), returned!(15), returned!(FULL)])]),
    net("c-net-jumbo", &["2", "9000"], &[service(9000, &[returned!(60), returned!(JUMBO)])]),
];
