//! The filter program that comes of a list of system calls.
//!
//! It costs in two places. At every call: the way to the call's rule, which for entering a guest belongs to every hypercall.
//! And when the filter is set: Linux compiles it, and tries out each of its hundreds of numbers, of two architectures, to
//! find those that are allowed whatever their arguments. So it is short, the architecture is looked at first, then the few
//! calls that are made at hypercalls, and then a tree of comparisons leads to all others. What seccompiler makes of the same
//! rules looks at one number after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, seccomp_data};
use seccompiler::{BackendError, BpfProgram, sock_filter};

use super::condition::{Condition, Operation};

/// `seccomp_data.arch` of calls by this architecture's own convention (`include/uapi/linux/audit.h`): the ELF machine,
/// 64 bits, little endian.
const AUDIT_ARCH: u32 = MACHINE | 0x8000_0000 | 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = libc::EM_X86_64 as u32;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = libc::EM_AARCH64 as u32;

/// Instructions that the kernel takes at most (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// Instructions that a comparison can go over at most.
const FARTHEST: usize = u8::MAX as usize;

/// Numbers at an end of the tree, one looked at after the other.
const GROUP: usize = 4;

/// The calls that a program tells from others: by number, the alternatives of which one must be satisfied. No
/// alternatives: whatever the arguments.
pub(super) type Rules = BTreeMap<u32, Vec<Vec<Condition>>>;

/// System call that fails with an error number instead of ending the process.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// Conditions on the arguments. All of them must hold.
    pub(super) conditions: Vec<Condition>,
    /// Error number that the call returns.
    pub(super) errno: u16,
}

/// Refusals by the number of the system call. A rule for the same call takes precedence.
pub(super) type Refusals = BTreeMap<u32, Refusal>;

/// Conditions on the arguments of a call, and the verdict if all of them hold.
type Case<'r> = (&'r [Condition], u32);

/// What a program says (`SECCOMP_RET_*`).
#[derive(Clone, Copy)]
pub(super) struct Verdicts {
    /// Of calls that match a rule.
    pub(super) hit: u32,
    /// Of all others.
    pub(super) miss: u32,
}

/// The program for these rules. `often` are looked at before all others; they are among the rules.
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
        // A number that is not this one stays loaded.
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
        // `often` has been compared already.
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

/// The program that leads to the group in which the loaded number lies, given the first number of each.
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

/// The program for a few numbers, one of which may be the loaded one. A number without cases is a hit whatever the
/// arguments are.
fn group(rules: &[(u32, Option<Vec<Case<'_>>>)], verdicts: Verdicts) -> BpfProgram {
    // From the last instruction to the first: how far it is to what lies behind is known then.
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

/// Ends with `verdict` where all conditions are satisfied, and else behind itself.
fn alternative(conditions: &[Condition], verdict: u32) -> BpfProgram {
    // Backwards, too.
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
        // The lower half: these machines are little endian.
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

/// Goes over so many instructions.
fn over(distance: usize) -> sock_filter {
    instruction(BPF_JMP | BPF_JA | BPF_K, distance as u32)
}

/// Goes over so many instructions, at most [`FARTHEST`], where the comparison with `value` holds, and where it does not.
fn jump(comparison: u32, value: u32, holds: usize, fails: usize) -> sock_filter {
    sock_filter { jt: holds as u8, jf: fails as u8, ..instruction(BPF_JMP | comparison | BPF_K, value) }
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests;
