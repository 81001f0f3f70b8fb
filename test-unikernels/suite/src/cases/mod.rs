//! The cases, grouped by what they test.

pub mod basic;
pub mod bench;
pub mod block;
pub mod block_names;
pub mod c;
pub mod cpu;
pub mod exception;
pub mod memory;
pub mod net;
pub mod pointer;
pub mod port;

use crate::{Case, Console, End};

const GROUPS: [&[Case]; 10] = [
    basic::CASES,
    bench::CASES,
    block::CASES,
    c::CASES,
    cpu::CASES,
    exception::CASES,
    memory::CASES,
    net::CASES,
    pointer::CASES,
    port::CASES,
];

/// Every case.
pub const SUITE: &[Case] = &all();

const fn count() -> usize {
    let (mut sum, mut group) = (0, 0);
    while group < GROUPS.len() {
        sum += GROUPS[group].len();
        group += 1;
    }
    sum
}

const fn all() -> [Case; count()] {
    let mut cases = [Case::ORDINARY; count()];
    let (mut at, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut index = 0;
        while index < GROUPS[group].len() {
            cases[at] = GROUPS[group][index];
            at += 1;
            index += 1;
        }
        group += 1;
    }
    cases
}

/// An exception ends the guest: it reports it in these words and aborts.
const fn trap(
    name: &'static str,
    guest: &'static str,
    mode: &'static [&'static str],
    report: &'static [&'static str],
) -> Case {
    Case {
        name,
        guest,
        arguments: mode,
        ends: &[End::Status(255)],
        console: Console::cut_short(report),
        ..Case::ORDINARY
    }
}

/// The tender stops the guest, for one of these reasons.
const fn stopped(name: &'static str, guest: &'static str, mode: &'static [&'static str], ends: &'static [End]) -> Case {
    Case { name, guest, arguments: mode, ends, console: Console::cut_short(&[]), ..Case::ORDINARY }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;
    use std::string::String;
    use std::vec::Vec;

    use super::*;
    use crate::DeviceKind;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = SUITE.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), SUITE.len());
        assert!(!names.contains(""));
    }

    #[test]
    fn every_guest_has_a_case_and_every_case_a_guest() {
        let sources = |folder: &str, prefix: &str, suffix: &str| -> Vec<String> {
            let files = std::fs::read_dir(std::format!("{}/../{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            names.filter_map(|name| Some(std::format!("{prefix}{}", name.strip_suffix(suffix)?))).collect()
        };
        let (rust, c) = (sources("src/bin", "", ".rs"), sources("c", "c-", ".c"));
        let guests: BTreeSet<String> = rust.into_iter().chain(c).collect();
        let used: BTreeSet<String> = SUITE.iter().map(|case| case.guest.into()).collect();
        assert_eq!(guests, used);
    }

    #[test]
    fn devices_are_such_as_a_tender_accepts() {
        for case in SUITE {
            assert!(case.memory.is_multiple_of(2) && case.memory <= 4096, "{}", case.name);
            let names: BTreeSet<_> = case.devices.iter().map(|device| device.name).collect();
            assert_eq!(names.len(), case.devices.len(), "{}", case.name);
            for device in case.devices {
                match device.kind {
                    DeviceKind::Block(disk) => {
                        assert!(disk.block_size >= 512 && disk.block_size.is_power_of_two(), "{}", case.name);
                        assert!(
                            disk.capacity > 0 && disk.capacity.is_multiple_of(disk.block_size.into()),
                            "{}",
                            case.name
                        );
                    }
                    DeviceKind::Net(link) => {
                        assert!(link.mac[0] & 3 == 2, "{}: not a locally administered address", case.name);
                        let longest = link.exchanges.iter().map(|exchange| exchange.frame.len()).max();
                        assert!(longest.is_none_or(|len| len <= 14 + usize::from(link.mtu)), "{}", case.name);
                    }
                }
            }
        }
    }

    #[test]
    fn command_lines_fit() {
        for case in SUITE {
            let line: Vec<_> = case.arguments.to_vec();
            assert!(line.join(" ").len() < 8192, "{}", case.name);
        }
    }
}
