//! The debugger where there is none: its registers and breakpoints are those of x86_64.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::backend::{Error, Machine, Stop};
use crate::memory::Layout;
use crate::monitor::Outcome;
use crate::sandbox::{Calls, Sandbox};

/// A debugger that is awaited: there is none.
#[derive(Debug)]
pub struct Debugger(Infallible);

/// One that has connected: there is none.
pub(crate) struct Connection(Infallible);

/// A connection that is watched: there is none.
pub(crate) struct Line(Infallible);

impl Debugger {
    /// Fails.
    ///
    /// # Errors
    /// Always [`Unsupported`](io::ErrorKind::Unsupported).
    pub fn listen(_: impl ToSocketAddrs) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "guests can be debugged on x86_64 only"))
    }

    /// The address at which it waits: none.
    ///
    /// # Errors
    /// Never.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self.0 {}
    }

    pub(crate) fn accept(self, _: &Stop) -> io::Result<Option<Connection>> {
        match self.0 {}
    }
}

impl Connection {
    pub(crate) fn watch(self, _: &Stop, _: Option<(Sandbox, Calls)>) -> io::Result<Line> {
        match self.0 {}
    }
}

impl Line {
    pub(crate) fn system_calls(&self, _: &mut Calls) {
        match self.0 {}
    }
}

/// Has a guest run under a debugger that is not there.
pub(crate) fn run(
    _: &mut dyn Machine,
    _: &Layout,
    line: Line,
    _: &Stop,
    _: impl FnOnce(&mut dyn Machine) -> Result<Outcome, Error>,
) -> Result<Outcome, Error> {
    match line.0 {}
}
