//! x86_64: Intel's and AMD's extensions, and their common code.

pub(crate) mod context;
pub(crate) mod cpu;
pub(crate) mod cpuid;
pub(crate) mod debug;
pub(crate) mod emulate;
pub(crate) mod error;
pub(crate) mod fpu;
pub(crate) mod instruction;
pub(crate) mod machine;
pub(crate) mod mitigations;
pub(crate) mod privileged;
pub(crate) mod svm;
pub(crate) mod syscall;
pub(crate) mod tag;
pub(crate) mod vendor;
pub(crate) mod vmx;
pub(crate) mod walk;
