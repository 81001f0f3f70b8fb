//! The conformance table: the input of each test unikernel and the expected results.
//!
//! Every backend runs every [`Case`] of [`SUITE`] that applies to it, and compares the results.
//! [`SUITE`] contains all cases except the cases of other [`Architecture`]s; [`ALL`] contains all
//! cases. The table is plain data, so a test on a host, a kernel without an operating system and a
//! program on Redox use the same table.
//!
//! | module | contents |
//! |---|---|
//! | [`case`] | types of the table: guest, devices, ends, console |
//! | [`disk`] | contents of a block device before and after |
//! | [`frame`] | frames that the peer of a network device sends, and the expected replies |
//! | [`cases`] | the cases, grouped by topic |
//! | `guests` | location of the test unikernels, with the feature `std` |
#![no_std]

#[cfg(feature = "std")]
extern crate std;

pub mod case;
pub mod cases;
pub mod disk;
pub mod frame;
#[cfg(feature = "std")]
pub mod guests;

pub use case::{Ability, Architecture, Case, Console, Device, DeviceKind, Disk, End, Link, Reason, When};
pub use cases::{ALL, SUITE};
pub use disk::Contents;
pub use frame::Exchange;
