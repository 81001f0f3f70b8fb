//! What a debugger asks of a backend where no backend has it: the registers and traps are those of x86_64.

use crate::sandbox::Calls;

/// A machine whose guest can be looked into: none can.
pub trait DebugTarget {
    /// Allows the system calls that looking into it takes: none.
    fn system_calls(&self, _calls: &mut Calls) {}

    /// Allows the system calls that stopping it takes: none.
    fn calls_to_pause(&self, _calls: &mut Calls) {}
}
