//! The tender's `device`, with the fake of its tests.

pub use hvt_tender::device::*;

#[path = "../../src/device/fake.rs"]
pub mod fake;
