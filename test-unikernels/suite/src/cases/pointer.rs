//! Hypercalls with arguments or buffers at invalid addresses. Memory ends at 0x2000000, and code
//! begins at 0x100000.

use crate::cases::net::QUIET_LINK;
use crate::{Case, Console, Contents, Device, DeviceKind, Disk, End, Reason};

/// Devices of the guests `pointer` and `boot-info`.
pub const DEVICES: &[Device] = &[
    Device {
        name: "storage",
        kind: DeviceKind::Block(Disk {
            capacity: 1 << 20,
            block_size: 512,
            before: Contents::Zeros,
            after: Contents::Zeros,
        }),
    },
    Device { name: "service", kind: DeviceKind::Net(QUIET_LINK) },
];

const fn bad(name: &'static str, arguments: &'static [&'static str]) -> Case {
    Case {
        name,
        guest: "pointer",
        arguments,
        devices: DEVICES,
        ends: &[End::Stopped(Reason::Pointer)],
        console: Console::cut_short(&[]),
        ..Case::ORDINARY
    }
}

const fn harmless(name: &'static str, arguments: &'static [&'static str]) -> Case {
    Case { name, guest: "pointer", arguments, devices: DEVICES, ..Case::ORDINARY }
}

/// The cases: the hypercall, and the invalid field of its argument.
pub const CASES: &[Case] = &[
    harmless("puts-nothing", &["puts", "len=0"]),
    harmless("puts-nothing-from-nowhere", &["puts", "data=0", "len=0"]),
    // Address of the argument.
    bad("walltime-at-zero", &["walltime", "argument=0"]),
    bad("walltime-in-tender-memory", &["walltime", "argument=0xfff8"]),
    bad("walltime-across-the-end", &["walltime", "argument=0x1fffffc"]),
    bad("walltime-beyond-memory", &["walltime", "argument=0x2000000"]),
    bad("walltime-at-the-top-of-32-bits", &["walltime", "argument=0xfffffffc"]),
    bad("walltime-in-code", &["walltime", "argument=0x100000"]),
    bad("walltime-in-boot-info", &["walltime", "argument=0x10000"]),
    bad("puts-at-zero", &["puts", "argument=0"]),
    bad("puts-across-the-end", &["puts", "argument=0x1fffff8"]),
    bad("poll-in-tender-memory", &["poll", "argument=0x2000"]),
    bad("poll-across-the-end", &["poll", "argument=0x1fffff0"]),
    bad("poll-in-boot-info", &["poll", "argument=0x10000"]),
    bad("block-read-across-the-end", &["block-read", "argument=0x1ffffe0"]),
    bad("block-write-beyond-memory", &["block-write", "argument=0x2000000"]),
    bad("net-read-across-the-end", &["net-read", "argument=0x1ffffe8"]),
    bad("net-write-at-zero", &["net-write", "argument=0"]),
    bad("halt-across-the-end", &["halt", "argument=0x1fffff8"]),
    // Addresses in the argument.
    bad("puts-from-zero", &["puts", "data=0"]),
    bad("puts-from-tender-memory", &["puts", "data=0x1000"]),
    bad("puts-from-across-the-start", &["puts", "data=0xffff", "len=2"]),
    bad("puts-from-across-the-end", &["puts", "data=0x1fffff0", "len=17"]),
    bad("puts-from-beyond-memory", &["puts", "data=0x2000000", "len=1"]),
    bad("puts-from-beyond-4-gib", &["puts", "data=0x100100000", "len=1"]),
    bad("puts-all-of-memory-and-more", &["puts", "len=0xffffffff"]),
    bad("puts-overflow", &["puts", "len=0xffffffffffffffff"]),
    bad("puts-overflow-to-a-good-end", &["puts", "data=0xfffffffffff00000", "len=0x200000"]),
    bad("block-read-to-zero", &["block-read", "data=0"]),
    bad("block-read-to-across-the-end", &["block-read", "data=0x1ffff00"]),
    bad("block-read-to-boot-info", &["block-read", "data=0x10000"]),
    bad("block-read-to-code", &["block-read", "data=0x100000"]),
    bad("block-read-to-constant", &["block-read", "data=constant"]),
    bad("block-read-overflow", &["block-read", "data=0xffffffffffffff00"]),
    bad("block-write-from-tender-memory", &["block-write", "data=0x3000"]),
    bad("block-write-from-across-the-end", &["block-write", "data=0x1ffff00"]),
    bad("block-write-overflow", &["block-write", "data=0xffffffffffffff00"]),
    bad("net-read-to-zero", &["net-read", "data=0"]),
    bad("net-read-to-across-the-end", &["net-read", "data=0x1fffff0"]),
    bad("net-read-to-code", &["net-read", "data=0x100000"]),
    bad("net-read-overflow", &["net-read", "len=0xffffffffffffffff"]),
    bad("net-write-from-zero", &["net-write", "data=0"]),
    bad("net-write-from-across-the-end", &["net-write", "data=0x1fffff0"]),
    bad("net-write-overflow", &["net-write", "len=0xffffffffffffff00"]),
    bad("halt-with-a-cookie-in-tender-memory", &["halt", "cookie=0x1"]),
    bad("halt-with-a-cookie-across-the-end", &["halt", "cookie=0x1fffe01"]),
    bad("halt-with-a-cookie-beyond-memory", &["halt", "cookie=0x2000000"]),
    bad("halt-with-a-cookie-at-the-top", &["halt", "cookie=0xffffffffffffffff"]),
    // The bytes of a valid cookie may end at the end of memory.
    Case {
        name: "halt-with-a-cookie-at-the-end",
        guest: "pointer",
        arguments: &["halt", "cookie=0x1fffe00"],
        devices: DEVICES,
        console: Console::cut_short(&[]),
        ..Case::ORDINARY
    },
];
