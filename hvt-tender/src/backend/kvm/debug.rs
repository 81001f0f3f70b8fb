//! A guest of KVM under a debugger.

use super::{KvmMachine, arch};
use crate::backend::Error;
use crate::backend::debug::{CpuState, DebugTarget};

impl DebugTarget for KvmMachine {
    fn state(&self) -> Result<CpuState, Error> {
        arch::state(&self.vcpu)
    }
}
