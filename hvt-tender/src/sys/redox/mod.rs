//! Redox.

pub(crate) mod backend;
pub(crate) mod cpu_clock;
pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod event;
pub(crate) mod host_limit;
pub(crate) mod memory;
pub(crate) mod open_descriptors;
pub(crate) mod protection;
pub mod sandbox;
pub(crate) mod sleep;
pub(crate) mod socket;
pub(crate) mod timer;
pub(crate) mod unix_door;
