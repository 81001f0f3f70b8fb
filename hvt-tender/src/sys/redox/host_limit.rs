//! Resource limits on Redox, where no limit affects a tender.

use std::{fmt, io};

use crate::cancel::CancelToken;

/// Empty text.
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

/// Does nothing.
pub(crate) fn make_room_for_descriptors(_: &CancelToken) {}

/// Does nothing.
pub(crate) fn raise() {}
