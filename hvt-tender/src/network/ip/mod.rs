//! An IPv4 stack on a port, and the services that come with it: what a [`Host`](super::Host) and
//! [user-mode networking](super::user) share.
//!
//! | module | what is in it |
//! |---|---|
//! | [`stack`] | smoltcp's stack on a port; connections are accepted as a [`Gate`] says |
//! | [`device`] | the port as smoltcp sees it |
//! | [`worker`] | the thread that a stack lives on, and what wakes it |
//! | [`dhcp`] | hands out addresses (RFC 2131) |
//! | [`dns`] | answers from a table (RFC 1035) |
//!
//! What arrives was made by a guest and is not trusted: every queue, table and burst here has a bound.

mod device;
pub(super) mod dhcp;
pub(super) mod dns;
mod stack;
mod worker;

pub(super) use stack::{Admission, BURST, Flow, Gate, Stack};
pub(super) use worker::{StackDoorbell, Worker, wait};
