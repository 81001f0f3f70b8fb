//! The one conformance table: what each test unikernel is run with, and how it must end.
//!
//! Every backend runs every [`Case`] of [`SUITE`] and compares. The table is plain data, so that a test on a host, a
//! kernel without an operating system and a program on Redox can all walk through it.
#![no_std]

/// A guest, what it is given, and what must come of it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name of the case, unique.
    pub name: &'static str,
    /// Name of the binary.
    pub guest: &'static str,
    /// Its arguments.
    pub arguments: &'static [&'static str],
    /// How it must end.
    pub end: End,
    /// Texts that its console must hold.
    pub prints: &'static [&'static str],
}

/// How a guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Status(i32),
}

/// Every case.
pub const SUITE: &[Case] = &[Case {
    name: "hello",
    guest: "hello",
    arguments: &["one", "two"],
    end: End::Status(0),
    prints: &["Hello, World\n", "Command line is: 'one two'\n", "SUCCESS\n"],
}];
