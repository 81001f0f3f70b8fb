//! Resource limits where the host has none that a tender meets.

use std::{fmt, io};

use crate::stop::Stop;

/// No advice.
pub(crate) struct Advice<'e>(pub(crate) &'e io::Error);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Raises nothing.
pub(crate) fn make_room_for_descriptors(_: &Stop) {}
