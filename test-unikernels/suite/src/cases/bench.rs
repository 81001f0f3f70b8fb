//! Benchmark guests with small counts, which test only that they work.

use super::net::QUIET_LINK;
use crate::{Case, Console, Contents, Device, DeviceKind, Disk};

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "bench-walltime",
        guest: "bench-walltime",
        arguments: &["100"],
        console: Console::holds(&["cycles per call: ", "SUCCESS\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "bench-add",
        guest: "bench-add",
        arguments: &["1000"],
        console: Console::holds(&["cycles: ", "SUCCESS\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "bench-block",
        guest: "bench-block",
        arguments: &["10"],
        devices: &[Device {
            name: "storage",
            kind: DeviceKind::Block(Disk {
                capacity: 64 << 10,
                block_size: 512,
                before: Contents::Zeros,
                after: Contents::Zeros,
            }),
        }],
        console: Console::holds(&["cycles per read: ", "cycles per write: ", "SUCCESS\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "bench-net",
        guest: "bench-net",
        // A network without a reader queues only a limited number of frames.
        arguments: &["4"],
        devices: &[Device { name: "service", kind: DeviceKind::Net(QUIET_LINK) }],
        console: Console::holds(&["cycles per frame: ", "SUCCESS\n"]),
        ..Case::ORDINARY
    },
];
