//! The guest of a sandboxed process under a debugger.

use super::ProcessMachine;
use crate::backend::Error;
use crate::backend::debug::{CpuState, DebugTarget};

impl DebugTarget for ProcessMachine {
    fn state(&self) -> Result<CpuState, Error> {
        let frame = self.frame()?;
        let mut registers = frame.registers();
        registers.rflags = self.cpu.rflags(registers.rflags);
        Ok(CpuState { registers, segments: self.cpu.segments(), fpu: frame.fpu() })
    }
}
