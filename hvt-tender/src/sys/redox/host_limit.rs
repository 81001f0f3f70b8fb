//! Resource limits where the host has none that a tender meets.

use std::{fmt, io};

use crate::cancel::CancelToken;

/// No advice.
pub(crate) struct Advice;

impl Advice {
    pub(crate) fn on(_: &io::Error) -> Self {
        Self
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Raises nothing.
pub(crate) fn make_room_for_descriptors(_: &CancelToken) {}
