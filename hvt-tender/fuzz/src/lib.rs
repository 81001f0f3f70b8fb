//! What the fuzz targets do with what the fuzzer makes up: `image` reads and boots files, `hypercall` serves calls.
//!
//! Both use the fixtures of the tender's own tests, which are not part of its library.

extern crate alloc;

mod device;
pub mod hypercall;
pub mod image;
mod memory;

#[path = "../../src/image/fixture.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod fixture;
