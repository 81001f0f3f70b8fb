//! Compiles a list of system calls to a filter program.
//!
//! A filter costs time in two places. Each call runs the program up to the call's rule, and the
//! call that enters the guest is part of every hypercall. When the filter is set, Linux compiles
//! the program and runs it for each of its hundreds of system call numbers, for two architectures,
//! to find the calls that are allowed with any arguments. The program is therefore short. It checks
//! the architecture first, then the few calls of hypercalls, and then a tree of comparisons leads
//! to all other calls. The program of seccompiler for the same rules compares one number after the
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, seccomp_data};
use seccompiler::{BackendError, BpfProgram, sock_filter};

use super::condition::{Condition, Operation};

/// `seccomp_data.arch` of calls with this architecture's native convention
/// (`include/uapi/linux/audit.h`): the ELF machine, 64 bits, little endian.
const AUDIT_ARCH: u32 = MACHINE | 0x8000_0000 | 0x4000_0000;
const MACHINE: u32 = if cfg!(target_arch = "x86_64") { libc::EM_X86_64 } else { libc::EM_AARCH64 } as u32;

/// Longest program that the kernel accepts, in instructions (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// Longest jump of a comparison, in instructions.
const FARTHEST: usize = u8::MAX as usize;

/// Numbers in a leaf of the tree, which are compared one after the other.
const GROUP: usize = 4;

/// Allowed calls by number, with alternatives, at least one of which must be satisfied. Without
/// alternatives, any arguments are allowed.
pub(super) type Rules = BTreeMap<u32, Vec<Vec<Condition>>>;

/// System call that returns an error number instead of ending the process.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// Conditions on the arguments; all of them must hold.
    pub(super) conditions: Vec<Condition>,
    /// Error number that the call returns.
    pub(super) errno: u16,
}

/// Refusals by the number of the system call. A rule for the same call takes precedence.
pub(super) type Refusals = BTreeMap<u32, Refusal>;

/// Conditions on the arguments of a call, and the verdict if all of them hold.
type Case<'r> = (&'r [Condition], u32);

/// Results of a program (`SECCOMP_RET_*`).
#[derive(Clone, Copy)]
pub(super) struct Verdicts {
    /// Result for calls that match a rule.
    pub(super) hit: u32,
    /// Result for all other calls.
    pub(super) miss: u32,
}

/// Compiles the rules. The alternatives in `often` are compared before all others; they are part of
/// `rules`.
pub(super) fn compile(
    rules: &Rules,
    refusals: &Refusals,
    often: &BTreeMap<u32, Vec<Condition>>,
    verdicts: Verdicts,
) -> Result<BpfProgram, BackendError> {
    let mut program = vec![
        load(offset_of!(seccomp_data, arch)),
        jump(BPF_JEQ, AUDIT_ARCH, 1, 0),
        ret(SECCOMP_RET_KILL_PROCESS),
        load(offset_of!(seccomp_data, nr)),
    ];
    for (number, conditions) in often {
        let then = alternative(conditions, verdicts.hit);
        // The number stays loaded if it does not match.
        program.push(jump(BPF_JEQ, *number, 0, then.len() + 1));
        program.extend(then);
        program.push(load(offset_of!(seccomp_data, nr)));
    }
    let numbers: BTreeSet<u32> = rules.keys().chain(refusals.keys()).copied().collect();
    let rest = numbers.into_iter().filter_map(|number| {
        let allowed = rules.get(&number);
        if allowed.is_some_and(Vec::is_empty) {
            return Some((number, None));
        }
        // Without the alternative in `often`, which has been compared already.
        let allowed = allowed.into_iter().flatten().filter(|conditions| often.get(&number) != Some(conditions));
        let allowed = allowed.map(|conditions| (conditions.as_slice(), verdicts.hit));
        let refused = refusals
            .get(&number)
            .map(|refusal| (refusal.conditions.as_slice(), SECCOMP_RET_ERRNO | u32::from(refusal.errno)));
        let cases: Vec<Case<'_>> = allowed.chain(refused).collect();
        (!cases.is_empty()).then_some((number, Some(cases)))
    });
    let rest: Vec<_> = rest.collect();
    let groups: Vec<_> = rest.chunks(GROUP).map(|some| (some[0].0, group(some, verdicts))).collect();
    program.extend(tree(&groups, verdicts));
    if program.len() > LONGEST { Err(BackendError::FilterTooLarge(program.len())) } else { Ok(program) }
}

/// Compiles the tree that leads to the group of the loaded number. Each group comes with its first
/// number.
fn tree(groups: &[(u32, BpfProgram)], verdicts: Verdicts) -> BpfProgram {
    match groups {
        [] => vec![ret(verdicts.miss)],
        [(_, group)] => group.clone(),
        _ => {
            let (left, right) = groups.split_at(groups.len() / 2);
            let (first, left, right) = (right[0].0, tree(left, verdicts), tree(right, verdicts));
            let mut program = vec![];
            if left.len() <= FARTHEST {
                program.push(jump(BPF_JGE, first, left.len(), 0));
            } else {
                program.extend([jump(BPF_JGE, first, 0, 1), over(left.len())]);
            }
            program.extend(left);
            program.extend(right);
            program
        }
    }
}

/// Compiles a group: a few numbers, one of which may be the loaded number. A number without cases
/// is a hit with any arguments.
fn group(rules: &[(u32, Option<Vec<Case<'_>>>)], verdicts: Verdicts) -> BpfProgram {
    // Built from the last instruction to the first, so that the length of each jump is known.
    let mut reversed = Vec::new();
    let starts = rules.iter().rev().map(|(_, cases)| {
        let cases = cases.as_ref()?;
        let mut code: Vec<_> =
            cases.iter().flat_map(|(conditions, verdict)| alternative(conditions, *verdict)).collect();
        code.push(ret(verdicts.miss));
        reversed.extend(code.into_iter().rev());
        Some(reversed.len())
    });
    let starts: Vec<_> = starts.collect();
    reversed.push(ret(verdicts.hit));
    let hit = reversed.len();
    reversed.push(ret(verdicts.miss));
    for ((number, _), start) in rules.iter().rev().zip(starts) {
        let distance = reversed.len() - start.unwrap_or(hit);
        if distance <= FARTHEST {
            reversed.push(jump(BPF_JEQ, *number, distance, 0));
        } else {
            reversed.extend([over(distance), jump(BPF_JEQ, *number, 0, 1)]);
        }
    }
    reversed.reverse();
    reversed
}

/// Compiles an alternative: returns `verdict` if all conditions hold, and otherwise continues after
/// the last instruction.
fn alternative(conditions: &[Condition], verdict: u32) -> BpfProgram {
    // Built backwards too.
    let mut reversed = vec![ret(verdict)];
    for condition in conditions.iter().rev() {
        let end = reversed.len();
        let Condition { argument, operation, value } = *condition;
        reversed.push(match operation {
            Operation::Equal | Operation::Bits(_) => jump(BPF_JEQ, value, 0, end),
            Operation::AtLeast => jump(BPF_JGE, value, 0, end),
            Operation::AtMost => jump(BPF_JGT, value, end, 0),
        });
        if let Operation::Bits(mask) = operation {
            reversed.push(instruction(BPF_ALU | BPF_AND | BPF_K, mask));
        }
        // The lower half of the argument: these architectures are little endian.
        reversed.push(load(offset_of!(seccomp_data, args) + usize::from(argument) * size_of::<u64>()));
    }
    reversed.reverse();
    reversed
}

fn load(offset: usize) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset as u32)
}

fn ret(verdict: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, verdict)
}

/// Jumps over `distance` instructions.
fn over(distance: usize) -> sock_filter {
    instruction(BPF_JMP | BPF_JA | BPF_K, distance as u32)
}

/// Jumps over `holds` instructions if the comparison with `value` holds, and otherwise over `fails`
/// instructions. Both are at most [`FARTHEST`].
fn jump(comparison: u32, value: u32, holds: usize, fails: usize) -> sock_filter {
    sock_filter { jt: holds as u8, jf: fails as u8, ..instruction(BPF_JMP | comparison | BPF_K, value) }
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests;
