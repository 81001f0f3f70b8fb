//! The tender's `memory`, with the fake of its tests.

pub use hvt_tender::memory::*;

#[path = "../../src/memory/fake.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
pub mod fake;
