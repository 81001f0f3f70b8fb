//! Device memory accesses that are not hypercalls. Addresses are relative to the start of the
//! hypercalls.

use crate::cases::stopped;
use crate::{Case, End, Reason};

const fn hypercall(name: &'static str, mode: &'static [&'static str]) -> Case {
    stopped(name, "port", mode, &[End::Stopped(Reason::Hypercall)])
}

const fn device(name: &'static str, mode: &'static [&'static str]) -> Case {
    stopped(name, "port", mode, &[End::Stopped(Reason::Device)])
}

/// The cases.
pub const CASES: &[Case] = &[
    hypercall("hypercall-0", &["store32", "0"]),
    hypercall("hypercall-9", &["store32", "0x48"]),
    hypercall("hypercall-31", &["store32", "0xf8"]),
    stopped("kick-without-a-ring", "port", &["store32", "0x100"], &[End::Stopped(Reason::RingKick)]),
    device("store-above-the-kick", &["store32", "0x108"]),
    device("store-between-hypercalls", &["store32", "0x14"]),
    device("store-at-the-end", &["store32", "0x3ffffffc"]),
    device("store-of-8-bits-to-a-hypercall", &["store8", "0x10"]),
    device("store-of-16-bits-to-a-hypercall", &["store16", "0x10"]),
    device("store-of-64-bits-to-a-hypercall", &["store64", "0x10"]),
    device("store-of-64-bits-to-the-kick", &["store64", "0x100"]),
    device("store-of-a-pair-to-a-hypercall", &["store-pair", "0x10"]),
    device("load-of-8-bits", &["load8", "0x1000"]),
    device("load-of-32-bits-from-a-hypercall", &["load32", "0x10"]),
];
