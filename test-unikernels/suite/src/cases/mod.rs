//! The cases, grouped by topic.

pub mod aarch64;
pub mod basic;
pub mod bench;
pub mod block;
pub mod block_names;
pub mod c;
pub mod memory;
pub mod net;
pub mod pointer;
pub mod x86_64;

use crate::{Architecture, Case, Console, End};

/// Groups of cases, each with its architecture.
const GROUPS: [(Option<Architecture>, &[Case]); 15] = [
    (None, basic::CASES),
    (None, bench::CASES),
    (None, block::CASES),
    (None, c::CASES),
    (None, memory::CASES),
    (None, net::CASES),
    (None, pointer::CASES),
    (Some(Architecture::Aarch64), aarch64::cpu::CASES),
    (Some(Architecture::Aarch64), aarch64::device::CASES),
    (Some(Architecture::Aarch64), aarch64::exception::CASES),
    (Some(Architecture::Aarch64), aarch64::memory::CASES),
    (Some(Architecture::X86_64), x86_64::cpu::CASES),
    (Some(Architecture::X86_64), x86_64::exception::CASES),
    (Some(Architecture::X86_64), x86_64::memory::CASES),
    (Some(Architecture::X86_64), x86_64::port::CASES),
];

/// Cases of all architectures.
pub const ALL: &[Case] = &select::<{ count(None) }>(None);

/// Cases without the cases of other architectures.
pub const SUITE: &[Case] = &select::<{ count(Some(Architecture::HERE)) }>(Some(Architecture::HERE));

/// Returns `true` if a selection of cases for `wanted` includes a group. `None` selects all
/// architectures.
const fn takes(wanted: Option<Architecture>, group: Option<Architecture>) -> bool {
    match (wanted, group) {
        (Some(wanted), Some(group)) => wanted as u8 == group as u8,
        _ => true,
    }
}

const fn count(wanted: Option<Architecture>) -> usize {
    let (mut sum, mut group) = (0, 0);
    while group < GROUPS.len() {
        let (architecture, cases) = GROUPS[group];
        if takes(wanted, architecture) {
            sum += cases.len();
        }
        group += 1;
    }
    sum
}

const fn select<const COUNT: usize>(wanted: Option<Architecture>) -> [Case; COUNT] {
    let mut selected = [Case::ORDINARY; COUNT];
    let (mut at, mut group) = (0, 0);
    while group < GROUPS.len() {
        let (architecture, cases) = GROUPS[group];
        let mut index = 0;
        while index < cases.len() && takes(wanted, architecture) {
            selected[at] = Case { architecture, ..cases[index] };
            at += 1;
            index += 1;
        }
        group += 1;
    }
    selected
}

/// Creates a case in which the guest reports an exception with these texts and aborts.
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

/// Creates a case in which the tender stops the guest for one of these reasons.
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
    fn names_are_unique_on_each_architecture() {
        for other in [Architecture::X86_64, Architecture::Aarch64].map(Some) {
            let cases = ALL.iter().filter(|case| case.architecture != other);
            let names: BTreeSet<_> = cases.clone().map(|case| case.name).collect();
            assert_eq!(names.len(), cases.count());
            assert!(!names.contains(""));
        }
    }

    #[test]
    fn each_architecture_has_its_own_cases_and_those_of_none() {
        let of = |architecture| ALL.iter().filter(|case| case.architecture == architecture).count();
        let (none, here) = (of(None), of(Some(Architecture::HERE)));
        assert!(none > 0 && of(Some(Architecture::X86_64)) > 0 && of(Some(Architecture::Aarch64)) > 0);
        assert_eq!(SUITE.len(), none + here);
    }

    #[test]
    fn every_guest_has_a_case_and_every_case_a_guest() {
        let sources = |folder: &str, prefix: &str, suffix: &str| -> Vec<String> {
            let files = std::fs::read_dir(std::format!("{}/../{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            names.filter_map(|name| Some(std::format!("{prefix}{}", name.strip_suffix(suffix)?))).collect()
        };
        // A guest with several source files has a directory.
        let mut rust = sources("src/bin", "", ".rs");
        rust.extend(sources("src/bin", "", "").into_iter().filter(|name| !name.ends_with(".rs")));
        let c = sources("c", "c-", ".c");
        let guests: BTreeSet<String> = rust.into_iter().chain(c).collect();
        let used: BTreeSet<String> = ALL.iter().map(|case| case.guest.into()).collect();
        assert_eq!(guests, used);
    }

    #[test]
    fn devices_are_such_as_a_tender_accepts() {
        for case in ALL {
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
        for case in ALL {
            let line: Vec<_> = case.arguments.to_vec();
            assert!(line.join(" ").len() < 8192, "{}", case.name);
        }
    }
}
