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

/// One breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plant {
    /// Where its instruction lies.
    pub(super) at: Gpa,
    /// What lies there without it.
    pub(super) original: u8,
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
    pub(super) fn add(&mut self, address: u64, kind: Kind, at: Gpa, original: u8) -> bool {
        let new = !self.plants.values().any(|plant| plant.at == at);
        // Another address of the same byte may have one already, and then what was read there is its instruction.
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
            if let Some(byte) = byte_at(start, bytes, plant.at) {
                *byte = plant.original;
            }
        }
    }

    /// Makes `bytes`, which are to be written at `start`, such that the breakpoints stay, and remembers what lies under
    /// these from now on.
    pub(super) fn keep(&mut self, start: Gpa, bytes: &mut [u8]) {
        for plant in self.plants.values_mut() {
            if let Some(byte) = byte_at(start, bytes, plant.at) {
                plant.original = *byte;
            }
        }
        for plant in self.plants.values() {
            if let Some(byte) = byte_at(start, bytes, plant.at) {
                *byte = PLANT;
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

fn byte_at(start: Gpa, bytes: &mut [u8], at: Gpa) -> Option<&mut u8> {
    let index = at.0.checked_sub(start.0)?;
    bytes.get_mut(usize::try_from(index).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_looks_as_it_does_without_them() {
        let mut plants = Plants::default();
        assert!(plants.add(0x1002, Kind::Software, Gpa(0x1002), 0x55));
        let mut read = [0x90, PLANT, 0x90];
        plants.hide(Gpa(0x1001), &mut read);
        assert_eq!(read, [0x90, 0x55, 0x90]);
        let mut written = [1, 2, 3];
        plants.keep(Gpa(0x1000), &mut written);
        assert_eq!(written, [1, 2, PLANT]);
        let plant = plants.remove(0x1002, Kind::Software).unwrap().unwrap();
        assert_eq!((plant.at, plant.original), (Gpa(0x1002), 3));
        assert!(plants.addresses().is_empty());
    }

    #[test]
    fn one_byte_can_be_wanted_twice() {
        let mut plants = Plants::default();
        assert!(plants.add(0x1000, Kind::Software, Gpa(0x1000), 0x55));
        assert!(!plants.add(0x1000, Kind::Hardware, Gpa(0x1000), PLANT));
        assert!(!plants.add(0x8000_1000, Kind::Software, Gpa(0x1000), PLANT), "another address of it");
        assert_eq!(plants.remove(0x1000, Kind::Software), Some(None));
        assert_eq!(plants.kind(0x1000), Some(Kind::Hardware));
        assert_eq!(plants.remove(0x1000, Kind::Software), None, "there is none of that kind");
        assert_eq!(plants.remove(0x1000, Kind::Hardware), Some(None));
        let plant = plants.remove(0x8000_1000, Kind::Software).unwrap().unwrap();
        assert_eq!(plant.original, 0x55);
    }
}
