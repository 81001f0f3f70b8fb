//! Redox.

pub(crate) mod host_limit;
pub(crate) mod sleep;
