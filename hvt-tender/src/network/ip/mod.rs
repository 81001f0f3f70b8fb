//! IPv4 stack with DHCP and DNS servers, used by [`Host`](super::Host) and by
//! [user-mode networking](super::user).
//!
//! | module | content |
//! |---|---|
//! | [`stack`] | smoltcp stack on a port; a [`Gate`] decides which connections are accepted |
//! | [`device`] | smoltcp device for a port |
//! | [`worker`] | thread of a stack, and the doorbell that wakes it |
//! | [`dhcp`] | DHCP server (RFC 2131) |
//! | [`dns`] | DNS server with a table of names (RFC 1035) |
//!
//! Received frames come from a guest and are untrusted: every queue, table and burst has a bound.

mod device;
pub(super) mod dhcp;
pub(super) mod dns;
mod stack;
mod worker;

pub(super) use stack::{Admission, BURST, Flow, Gate, Stack};
pub(super) use worker::{StackDoorbell, Worker, wait};
