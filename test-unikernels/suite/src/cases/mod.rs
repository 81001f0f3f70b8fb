//! The cases, grouped by what they test.

pub mod basic;
pub mod bench;
pub mod block;
pub mod block_names;
pub mod cpu;
pub mod exception;
pub mod memory;
pub mod net;
pub mod pointer;
pub mod port;

use crate::{Case, Console, End};

const GROUPS: [&[Case]; 9] = [
    basic::CASES,
    bench::CASES,
    block::CASES,
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
