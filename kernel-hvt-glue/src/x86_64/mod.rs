//! x86_64: what Intel's and AMD's extensions share, and each of them.

pub(crate) mod capabilities;
pub(crate) mod context;
pub(crate) mod cpuid;
pub(crate) mod debug;
pub(crate) mod emulate;
pub(crate) mod fpu;
pub(crate) mod instruction;
pub(crate) mod mitigations;
pub(crate) mod privileged;
pub(crate) mod svm;
pub(crate) mod syscall;
pub(crate) mod tag;
pub(crate) mod vmx;
pub(crate) mod walk;
