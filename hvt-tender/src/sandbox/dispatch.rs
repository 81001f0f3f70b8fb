//! A filter program that finds the rules of a system call quickly.
//!
//! A program of seccompiler's looks at one number after the other. Where dozens of calls are allowed that is slow in
//! two places: at every call on the way to the right number, and when the filter is set, because Linux tries out each
//! of its hundreds of numbers to find those that are allowed whatever their arguments (0.12 ms in all, which is a
//! tenth of what it takes to start and end a tender; 0.03 ms with this). So there is one program for a few neighbouring
//! numbers each, and before them a tree of comparisons that leads to the right one.

use std::collections::BTreeMap;
use std::mem::offset_of;

use libc::{BPF_ABS, BPF_JA, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_W, seccomp_data};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, sock_filter};

/// System calls in one program.
const GROUP: usize = 4;

/// The program for these rules, by the number of the system call. It allows what matches one, and traps all else. It
/// begins with `first`, which ends behind itself.
pub(super) fn compile(first: BpfProgram, rules: BTreeMap<i64, Vec<SeccompRule>>) -> Result<BpfProgram, BackendError> {
    let mut groups: Vec<Group> = Vec::new();
    let mut rules = rules.into_iter().peekable();
    while let Some((first, _)) = rules.peek() {
        // The numbers are those of Linux, which are small.
        let first = u32::try_from(*first).unwrap_or(u32::MAX);
        let some = rules.by_ref().take(GROUP).collect();
        let filter = SeccompFilter::new(some, SeccompAction::Trap, SeccompAction::Allow, ARCHITECTURE)?;
        groups.push(Group { first, program: filter.try_into()? });
    }
    let mut program = first;
    program.push(instruction(BPF_LD | BPF_W | BPF_ABS, offset_of!(seccomp_data, nr) as u32));
    let tree = program.len()..program.len() + tree_len(groups.len());
    let mut starts = Vec::with_capacity(groups.len());
    let mut end = tree.end;
    for group in &groups {
        starts.push((group.first, end));
        end += group.program.len();
    }
    add_tree(&mut program, &starts);
    program.extend(groups.into_iter().flat_map(|group| group.program));
    // What the kernel takes at most (`BPF_MAXINSNS`).
    if program.len() > 4096 { Err(BackendError::FilterTooLarge(program.len())) } else { Ok(program) }
}

/// What the programs are for.
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// A program for a few neighbouring system calls, the number of the first of which is `first`. It checks the
/// architecture, and that it is one of them.
struct Group {
    first: u32,
    program: BpfProgram,
}

/// Instructions of a tree with so many leaves: a jump for each leaf, a comparison for each fork.
fn tree_len(leaves: usize) -> usize {
    (2 * leaves).saturating_sub(1)
}

/// Adds a tree that jumps to the start of the group in which the loaded number lies. `starts` are the first number and
/// the index of the first instruction of each group.
fn add_tree(program: &mut BpfProgram, starts: &[(u32, usize)]) {
    match starts {
        [] => {}
        [(_, start)] => {
            let over = start - program.len() - 1;
            program.push(instruction(BPF_JMP | BPF_JA | BPF_K, over as u32));
        }
        _ => {
            let (left, right) = starts.split_at(starts.len() / 2);
            let mut fork = instruction(BPF_JMP | BPF_JGE | BPF_K, right[0].0);
            // There are less than 500 system calls, and so less than 128 groups.
            fork.jt = tree_len(left.len()) as u8;
            program.push(fork);
            add_tree(program, left);
            add_tree(program, right);
        }
    }
}

pub(super) fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::{call, verdict};
    use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn allows_the_listed_numbers_and_no_others(numbers in proptest::collection::btree_set(0_i64..500, 1..80)) {
            let program = compile(Vec::new(), numbers.iter().map(|number| (*number, Vec::new())).collect()).unwrap();
            for number in (0..600).chain([i64::from(i32::MAX), -1, 0x4000_0000]) {
                let expected = if numbers.contains(&number) { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
                prop_assert_eq!(verdict(&program, &call(number, [0; 6])), expected, "number {}", number);
            }
        }
    }
}
