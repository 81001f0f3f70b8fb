//! Checks of the fuzz targets: `image` reads and boots files, `hypercall` serves calls.

pub mod hypercall;
pub mod image;
pub mod mutate;
mod outcome;
