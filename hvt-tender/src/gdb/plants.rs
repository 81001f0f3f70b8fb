//! Software breakpoints: instructions in guest memory that end a run, which nobody who looks at that memory through the
//! debugger gets to see.

use std::collections::BTreeMap;

use hvt_abi::Gpa;

use crate::backend::debug::PLANT;

/// The breakpoints, by their guest-virtual addresses.
#[derive(Debug, Default)]
pub(super) struct Plants {
    plants: BTreeMap<u64, Plant>,
}

/// What lies where a breakpoint is.
type Code = [u8; PLANT.len()];

/// One breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plant {
    /// Where its instruction lies, at a multiple of its size.
    pub(super) at: Gpa,
    /// What lies there without it.
    pub(super) original: Code,
    /// Wanted as a software breakpoint.
    software: bool,
    /// Wanted as a hardware breakpoint, of which the machine has no more.
    hardware: bool,
}

/// What a breakpoint is wanted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Software,
    Hardware,
}

impl Plants {
    /// The addresses, ascending.
    pub(super) fn addresses(&self) -> Vec<u64> {
        self.plants.keys().copied().collect()
    }

    /// What the breakpoint at this address is wanted as, if there is one.
    pub(super) fn kind(&self, address: u64) -> Option<Kind> {
        self.plants.get(&address).map(|plant| if plant.software { Kind::Software } else { Kind::Hardware })
    }

    /// Notes that a breakpoint is wanted at `address`, which is guest-physical address `at`, where `original` lies.
    /// Returns whether the instruction must be written now.
    pub(super) fn add(&mut self, address: u64, kind: Kind, at: Gpa, original: Code) -> bool {
        let new = !self.plants.values().any(|plant| plant.at == at);
        // Another address of the same place may have one already, and then what was read there is its instruction.
        let original = self.plants.values().find(|plant| plant.at == at).map_or(original, |plant| plant.original);
        let plant = self.plants.entry(address).or_insert(Plant { at, original, software: false, hardware: false });
        *plant.wanted_as(kind) = true;
        new
    }

    /// Notes that no breakpoint of this kind is wanted at `address` any more. `None` when there was none, and otherwise
    /// the breakpoint that must be taken out of memory, if it must.
    pub(super) fn remove(&mut self, address: u64, kind: Kind) -> Option<Option<Plant>> {
        let plant = self.plants.get_mut(&address)?;
        if !std::mem::take(plant.wanted_as(kind)) {
            return None;
        }
        if plant.software || plant.hardware {
            return Some(None);
        }
        let plant = self.plants.remove(&address)?;
        Some((!self.plants.values().any(|other| other.at == plant.at)).then_some(plant))
    }

    /// Forgets all of them, which must be taken out of memory.
    pub(super) fn clear(&mut self) -> Vec<Plant> {
        std::mem::take(&mut self.plants).into_values().collect()
    }

    /// Makes `bytes`, which have been read at `start`, what they are without breakpoints.
    pub(super) fn hide(&self, start: Gpa, bytes: &mut [u8]) {
        for plant in self.plants.values() {
            for (byte, original) in shared(start, bytes, plant.at).zip(plant.original) {
                byte.into_iter().for_each(|byte| *byte = original);
            }
        }
    }

    /// Makes `bytes`, which are to be written at `start`, such that the breakpoints stay, and remembers what lies under
    /// these from now on.
    pub(super) fn keep(&mut self, start: Gpa, bytes: &mut [u8]) {
        for plant in self.plants.values_mut() {
            for (byte, original) in shared(start, bytes, plant.at).zip(&mut plant.original) {
                byte.into_iter().for_each(|byte| *original = *byte);
            }
        }
        for plant in self.plants.values() {
            for (byte, planted) in shared(start, bytes, plant.at).zip(PLANT) {
                byte.into_iter().for_each(|byte| *byte = planted);
            }
        }
    }
}

impl Plant {
    fn wanted_as(&mut self, kind: Kind) -> &mut bool {
        match kind {
            Kind::Software => &mut self.software,
            Kind::Hardware => &mut self.hardware,
        }
    }
}

/// The bytes from `at` on, as far as they are among `bytes`, which lie at `start`.
fn shared(start: Gpa, bytes: &mut [u8], at: Gpa) -> impl Iterator<Item = Option<&mut u8>> {
    // `at` lies so many bytes behind `start`, or before it.
    let (behind, before) = (at.0.saturating_sub(start.0), start.0.saturating_sub(at.0));
    let skipped = before.min(PLANT.len() as u64) as usize;
    let rest = usize::try_from(behind).ok().and_then(|behind| bytes.get_mut(behind..)).unwrap_or_default();
    (0..skipped).map(|_| None).chain(rest.iter_mut().map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = PLANT.len();
    const AT: u64 = 0x1008;
    const CODE: Code = [0x55; SIZE];

    /// These bytes with one before and one behind.
    fn between(before: u8, bytes: Code, behind: u8) -> Vec<u8> {
        [&[before], &bytes[..], &[behind]].concat()
    }

    #[test]
    fn memory_looks_as_it_does_without_them() {
        let mut plants = Plants::default();
        assert!(plants.add(AT, Kind::Software, Gpa(AT), CODE));
        let mut read = between(0x90, PLANT, 0x91);
        plants.hide(Gpa(AT - 1), &mut read);
        assert_eq!(read, between(0x90, CODE, 0x91));
        let mut written = between(1, [2; SIZE], 3);
        plants.keep(Gpa(AT - 1), &mut written);
        assert_eq!(written, between(1, PLANT, 3));
        let plant = plants.remove(AT, Kind::Software).unwrap().unwrap();
        assert_eq!((plant.at, plant.original), (Gpa(AT), [2; SIZE]));
        assert!(plants.addresses().is_empty());
    }

    #[test]
    fn a_part_of_one_looks_as_the_whole_does() {
        let mut plants = Plants::default();
        assert!(plants.add(AT, Kind::Software, Gpa(AT), CODE));
        let (last, end) = (PLANT[SIZE - 1], AT + SIZE as u64);
        let mut read = [last, 0x91];
        plants.hide(Gpa(end - 1), &mut read);
        assert_eq!(read, [0x55, 0x91]);
        let mut written = [2, 3];
        plants.keep(Gpa(end - 1), &mut written);
        assert_eq!(written, [last, 3]);
        let mut beside = [7, 8];
        plants.keep(Gpa(AT - 2), &mut beside);
        plants.keep(Gpa(end), &mut beside);
        assert_eq!(beside, [7, 8]);
        let mut original = CODE;
        original[SIZE - 1] = 2;
        assert_eq!(plants.remove(AT, Kind::Software).unwrap().unwrap().original, original);
    }

    #[test]
    fn one_place_can_be_wanted_twice() {
        let mut plants = Plants::default();
        assert!(plants.add(AT, Kind::Software, Gpa(AT), CODE));
        assert!(!plants.add(AT, Kind::Hardware, Gpa(AT), PLANT));
        assert!(!plants.add(0x8000_1008, Kind::Software, Gpa(AT), PLANT), "another address of it");
        assert_eq!(plants.remove(AT, Kind::Software), Some(None));
        assert_eq!(plants.kind(AT), Some(Kind::Hardware));
        assert_eq!(plants.remove(AT, Kind::Software), None, "there is none of that kind");
        assert_eq!(plants.remove(AT, Kind::Hardware), Some(None));
        let plant = plants.remove(0x8000_1008, Kind::Software).unwrap().unwrap();
        assert_eq!(plant.original, CODE);
    }
}
