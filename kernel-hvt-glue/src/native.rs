//! The target architecture of this build.

pub use crate::x86_64::{
    error::{BindError, EnableError, Unsupported},
    machine::X86_64 as Machine,
};
