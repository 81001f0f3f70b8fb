//! The network ring where there is none: on Redox it is offered to no guest.

use std::fmt;

/// What would make somebody look at a ring: nothing.
#[derive(Debug)]
pub enum Bell {}

impl Bell {
    /// There is no bell to be rung.
    pub fn ring(&self) {
        match *self {}
    }
}

/// What a guest could do with a ring that it has not: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {}

impl fmt::Display for Error {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
