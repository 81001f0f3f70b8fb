//! Port I/O that is not a hypercall.

use crate::cases::stopped;
use crate::{Case, End, Reason};

const fn hypercall(name: &'static str, mode: &'static [&'static str]) -> Case {
    stopped(name, "port", mode, &[End::Stopped(Reason::Hypercall)])
}

const fn port(name: &'static str, mode: &'static [&'static str]) -> Case {
    stopped(name, "port", mode, &[End::Stopped(Reason::Port)])
}

/// The cases.
pub const CASES: &[Case] = &[
    hypercall("hypercall-0", &["out32", "0x500"]),
    hypercall("hypercall-9", &["out32", "0x509"]),
    hypercall("hypercall-255", &["out32", "0x5ff"]),
    stopped("kick-without-a-ring", "port", &["out32", "0x600"], &[End::Stopped(Reason::RingKick)]),
    port("out-below-the-hypercalls", &["out32", "0x4ff"]),
    port("out-above-the-kick", &["out32", "0x601"]),
    port("out-to-a-serial-port", &["out8", "0x3f8"]),
    port("out-of-8-bits-to-a-hypercall", &["out8", "0x502"]),
    port("out-of-16-bits-to-a-hypercall", &["out16", "0x502"]),
    port("out-of-16-bits-to-the-kick", &["out16", "0x600"]),
    port("out-with-the-port-in-the-instruction", &["out-immediate"]),
    port("out-of-a-string", &["out-string"]),
    port("in-of-8-bits", &["in8", "0x60"]),
    port("in-of-16-bits", &["in16", "0x1f0"]),
    port("in-of-32-bits-from-a-hypercall", &["in32", "0x502"]),
    port("in-with-the-port-in-the-instruction", &["in-immediate"]),
    port("in-of-a-string", &["in-string"]),
];
