//! Names of registers for output to people.

use alloc::vec::Vec;

use hvt_abi::{aarch64, x86_64};

/// A virtual CPU's registers, by name.
pub trait Named: Sized {
    /// Architectural name of the program counter.
    const PC: &'static str;

    /// Value of the program counter.
    fn pc(&self) -> u64;

    /// Registers with the program counter at `pc` and all others 0.
    fn at(pc: u64) -> Self;

    /// All registers with their names, beginning with program counter and stack pointer.
    fn named(&self) -> Vec<(&'static str, u64)>;
}

impl Named for x86_64::Registers {
    const PC: &'static str = "rip";

    fn pc(&self) -> u64 {
        self.rip
    }

    fn at(rip: u64) -> Self {
        Self { rip, ..Self::default() }
    }

    fn named(&self) -> Vec<(&'static str, u64)> {
        let Self { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags } = *self;
        let place = [(Self::PC, rip), ("rsp", rsp), ("rbp", rbp), ("rflags", rflags)];
        let old = [("rax", rax), ("rbx", rbx), ("rcx", rcx), ("rdx", rdx), ("rsi", rsi), ("rdi", rdi)];
        let new = [("r8", r8), ("r9", r9), ("r10", r10), ("r11", r11)];
        let last = [("r12", r12), ("r13", r13), ("r14", r14), ("r15", r15)];
        place.into_iter().chain(old).chain(new).chain(last).collect()
    }
}

impl Named for aarch64::Registers {
    const PC: &'static str = "pc";

    fn pc(&self) -> u64 {
        self.pc
    }

    fn at(pc: u64) -> Self {
        Self { pc, ..Self::default() }
    }

    fn named(&self) -> Vec<(&'static str, u64)> {
        const X: [&str; 31] = [
            "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
            "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30",
        ];
        let Self { x, sp, pc, pstate } = *self;
        [(Self::PC, pc), ("sp", sp), ("pstate", pstate)].into_iter().chain(X.into_iter().zip(x)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every register once, each with its own value.
    fn check<R: Named>(registers: &R, values: usize) {
        let named = registers.named();
        assert_eq!(named.len(), size_of::<R>() / size_of::<u64>());
        let (mut names, mut found): (Vec<_>, Vec<_>) = named.iter().copied().unzip();
        assert_eq!(named[0], (R::PC, registers.pc()));
        names.sort_unstable();
        names.dedup();
        found.sort_unstable();
        assert_eq!((names.len(), found), (values, (0..values as u64).collect()));
    }

    #[test]
    fn every_register_is_named_once() {
        let mut registers = x86_64::Registers { rip: 16, rflags: 17, ..x86_64::Registers::default() };
        (0..16).for_each(|number| *registers.general_mut(number) = number.into());
        check(&registers, 18);
        check(&aarch64::Registers { x: core::array::from_fn(|number| number as u64), sp: 31, pc: 32, pstate: 33 }, 34);
    }
}
