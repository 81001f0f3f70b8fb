//! Software breakpoints: instructions in guest memory that end a run. They are hidden when the
//! debugger reads the memory.

use std::collections::BTreeMap;

use hvt_abi::Gpa;

use crate::backend::debug::BREAKPOINT_INSTRUCTION;

/// Software breakpoints, by guest-virtual address.
#[derive(Debug, Default)]
pub(super) struct SoftwareBreakpoints {
    breakpoints: BTreeMap<u64, SoftwareBreakpoint>,
}

/// Bytes that a breakpoint instruction replaces.
type Code = [u8; BREAKPOINT_INSTRUCTION.len()];

/// Software breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SoftwareBreakpoint {
    /// Guest-physical address of the instruction, a multiple of its size.
    pub(super) at: Gpa,
    /// Original bytes at the address.
    pub(super) original: Code,
    /// Requested as a software breakpoint.
    software: bool,
    /// Requested as a hardware breakpoint, but the machine has no free one.
    hardware: bool,
}

/// Kind of breakpoint that the debugger requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Software,
    Hardware,
}

impl SoftwareBreakpoints {
    /// Returns the addresses in ascending order.
    pub(super) fn addresses(&self) -> Vec<u64> {
        self.breakpoints.keys().copied().collect()
    }

    /// Returns the requested kind of the breakpoint at this address, if there is one.
    pub(super) fn kind(&self, address: u64) -> Option<Kind> {
        self.breakpoints
            .get(&address)
            .map(|breakpoint| if breakpoint.software { Kind::Software } else { Kind::Hardware })
    }

    /// Adds a breakpoint at guest-virtual `address`, which is mapped to guest-physical `at` and
    /// contains `original`. Returns whether the breakpoint instruction must be written now.
    pub(super) fn add(&mut self, address: u64, kind: Kind, at: Gpa, original: Code) -> bool {
        let new = !self.breakpoints.values().any(|breakpoint| breakpoint.at == at);
        // Another guest-virtual address of the same memory may have a breakpoint already. Then
        // `original` is the breakpoint instruction.
        let original = self
            .breakpoints
            .values()
            .find(|breakpoint| breakpoint.at == at)
            .map_or(original, |breakpoint| breakpoint.original);
        let breakpoint = self.breakpoints.entry(address).or_insert(SoftwareBreakpoint {
            at,
            original,
            software: false,
            hardware: false,
        });
        *breakpoint.wanted_as(kind) = true;
        new
    }

    /// Removes a breakpoint of this kind at `address`. Returns `None` if there was none. Otherwise
    /// returns the breakpoint whose instruction must be replaced by the original bytes, if this was
    /// the last one at its memory.
    pub(super) fn remove(&mut self, address: u64, kind: Kind) -> Option<Option<SoftwareBreakpoint>> {
        let breakpoint = self.breakpoints.get_mut(&address)?;
        if !std::mem::take(breakpoint.wanted_as(kind)) {
            return None;
        }
        if breakpoint.software || breakpoint.hardware {
            return Some(None);
        }
        let breakpoint = self.breakpoints.remove(&address)?;
        Some((!self.breakpoints.values().any(|other| other.at == breakpoint.at)).then_some(breakpoint))
    }

    /// Removes all breakpoints, and returns them. The caller must restore their original bytes.
    pub(super) fn clear(&mut self) -> Vec<SoftwareBreakpoint> {
        std::mem::take(&mut self.breakpoints).into_values().collect()
    }

    /// Replaces breakpoint instructions in `bytes`, which were read at `start`, by the original
    /// bytes.
    pub(super) fn hide(&self, start: Gpa, bytes: &mut [u8]) {
        for breakpoint in self.breakpoints.values() {
            for (byte, original) in shared(start, bytes, breakpoint.at).zip(breakpoint.original) {
                byte.into_iter().for_each(|byte| *byte = original);
            }
        }
    }

    /// Replaces bytes in `bytes`, which are about to be written at `start`, by the breakpoint
    /// instructions that must stay. Stores the replaced bytes as the new original bytes.
    pub(super) fn keep(&mut self, start: Gpa, bytes: &mut [u8]) {
        for breakpoint in self.breakpoints.values_mut() {
            for (byte, original) in shared(start, bytes, breakpoint.at).zip(&mut breakpoint.original) {
                byte.into_iter().for_each(|byte| *original = *byte);
            }
        }
        for breakpoint in self.breakpoints.values() {
            for (byte, software_breakpoints) in shared(start, bytes, breakpoint.at).zip(BREAKPOINT_INSTRUCTION) {
                byte.into_iter().for_each(|byte| *byte = software_breakpoints);
            }
        }
    }
}

impl SoftwareBreakpoint {
    fn wanted_as(&mut self, kind: Kind) -> &mut bool {
        match kind {
            Kind::Software => &mut self.software,
            Kind::Hardware => &mut self.hardware,
        }
    }
}

/// Returns the bytes from `at` on that are part of `bytes`, which begin at `start`.
fn shared(start: Gpa, bytes: &mut [u8], at: Gpa) -> impl Iterator<Item = Option<&mut u8>> {
    // Distance of `at` after or before `start`.
    let (behind, before) = (at.0.saturating_sub(start.0), start.0.saturating_sub(at.0));
    let skipped = before.min(BREAKPOINT_INSTRUCTION.len() as u64) as usize;
    let rest = usize::try_from(behind).ok().and_then(|behind| bytes.get_mut(behind..)).unwrap_or_default();
    (0..skipped).map(|_| None).chain(rest.iter_mut().map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = BREAKPOINT_INSTRUCTION.len();
    const AT: u64 = 0x1008;
    const CODE: Code = [0x55; SIZE];

    /// Returns the bytes with one byte before and one after them.
    fn between(before: u8, bytes: Code, behind: u8) -> Vec<u8> {
        [&[before], &bytes[..], &[behind]].concat()
    }

    #[test]
    fn memory_looks_as_it_does_without_them() {
        let mut breakpoints = SoftwareBreakpoints::default();
        assert!(breakpoints.add(AT, Kind::Software, Gpa(AT), CODE));
        let mut read = between(0x90, BREAKPOINT_INSTRUCTION, 0x91);
        breakpoints.hide(Gpa(AT - 1), &mut read);
        assert_eq!(read, between(0x90, CODE, 0x91));
        let mut written = between(1, [2; SIZE], 3);
        breakpoints.keep(Gpa(AT - 1), &mut written);
        assert_eq!(written, between(1, BREAKPOINT_INSTRUCTION, 3));
        let breakpoint = breakpoints.remove(AT, Kind::Software).unwrap().unwrap();
        assert_eq!((breakpoint.at, breakpoint.original), (Gpa(AT), [2; SIZE]));
        assert!(breakpoints.addresses().is_empty());
    }

    #[test]
    fn a_part_of_a_breakpoint_is_hidden_too() {
        let mut breakpoints = SoftwareBreakpoints::default();
        assert!(breakpoints.add(AT, Kind::Software, Gpa(AT), CODE));
        let (last, end) = (BREAKPOINT_INSTRUCTION[SIZE - 1], AT + SIZE as u64);
        let mut read = [last, 0x91];
        breakpoints.hide(Gpa(end - 1), &mut read);
        assert_eq!(read, [0x55, 0x91]);
        let mut written = [2, 3];
        breakpoints.keep(Gpa(end - 1), &mut written);
        assert_eq!(written, [last, 3]);
        let mut beside = [7, 8];
        breakpoints.keep(Gpa(AT - 2), &mut beside);
        breakpoints.keep(Gpa(end), &mut beside);
        assert_eq!(beside, [7, 8]);
        let mut original = CODE;
        original[SIZE - 1] = 2;
        assert_eq!(breakpoints.remove(AT, Kind::Software).unwrap().unwrap().original, original);
    }

    #[test]
    fn one_place_can_be_wanted_twice() {
        let mut breakpoints = SoftwareBreakpoints::default();
        assert!(breakpoints.add(AT, Kind::Software, Gpa(AT), CODE));
        assert!(!breakpoints.add(AT, Kind::Hardware, Gpa(AT), BREAKPOINT_INSTRUCTION));
        assert!(
            !breakpoints.add(0x8000_1008, Kind::Software, Gpa(AT), BREAKPOINT_INSTRUCTION),
            "another address of the same memory"
        );
        assert_eq!(breakpoints.remove(AT, Kind::Software), Some(None));
        assert_eq!(breakpoints.kind(AT), Some(Kind::Hardware));
        assert_eq!(breakpoints.remove(AT, Kind::Software), None, "no software breakpoint is left");
        assert_eq!(breakpoints.remove(AT, Kind::Hardware), Some(None));
        let breakpoint = breakpoints.remove(0x8000_1008, Kind::Software).unwrap().unwrap();
        assert_eq!(breakpoint.original, CODE);
    }
}
