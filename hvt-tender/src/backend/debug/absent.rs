//! What a debugger asks of a backend where no backend has it: the registers and traps are those of x86_64.

/// A machine whose guest can be looked into: none can.
pub trait DebugTarget {}
