//! The beginning of a filter program: the few system calls that a tender makes at hypercalls, before all others.
//!
//! Entering a guest is one of them, so that every hypercall pays for the way to its rule: 80 instructions where it is
//! found like any other, 20 from here. What is allowed here is allowed by the rest of the program as well.

use std::collections::BTreeMap;
use std::mem::offset_of;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{SECCOMP_RET_ALLOW, seccomp_data};
use seccompiler::{BpfProgram, sock_filter};

use super::calls::{Condition, Operation};
use super::dispatch::instruction;

/// `seccomp_data.arch` of calls by this architecture's own convention (`include/uapi/linux/audit.h`): the ELF machine,
/// 64 bits, little endian.
const AUDIT_ARCH: u32 = MACHINE | 0x8000_0000 | 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = libc::EM_X86_64 as u32;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = libc::EM_AARCH64 as u32;

/// A program that allows each of these system calls where its arguments satisfy all conditions. For all else it ends
/// behind its last instruction.
pub(super) fn compile(calls: &BTreeMap<i64, Vec<Condition>>) -> BpfProgram {
    // From the last instruction to the first: how far a jump goes is known then.
    let mut reversed = Vec::new();
    for (number, conditions) in calls.iter().rev() {
        let next = reversed.len();
        reversed.push(instruction(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
        for condition in conditions.iter().rev() {
            push_condition(&mut reversed, condition);
        }
        // To the next of these calls, whose number is loaded.
        let over = reversed.len() - next;
        reversed.push(jump(BPF_JEQ, *number as u32, 0, over));
    }
    if !calls.is_empty() {
        reversed.push(load(offset_of!(seccomp_data, nr)));
        let end = reversed.len();
        reversed.push(jump(BPF_JEQ, AUDIT_ARCH, 0, end));
        reversed.push(load(offset_of!(seccomp_data, arch)));
    }
    reversed.reverse();
    reversed
}

/// Puts a condition before the rest of a program, at whose end it goes on where the condition is not satisfied: two calls
/// have two numbers.
fn push_condition(reversed: &mut BpfProgram, condition: &Condition) {
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

fn load(offset: usize) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset as u32)
}

/// Goes over so many instructions where the comparison with `value` holds, and where it does not.
fn jump(comparison: u32, value: u32, holds: usize, fails: usize) -> sock_filter {
    // All of it is shorter than 100 instructions.
    sock_filter { jt: holds as u8, jf: fails as u8, ..instruction(BPF_JMP | comparison | BPF_K, value) }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::sandbox::Calls;
    use crate::sandbox::testing::{call, verdict};
    use libc::SECCOMP_RET_TRAP;
    use std::os::fd::BorrowedFd;

    /// `ioctl(5, 1)`, `pread64` of 4 to 6, `pwrite64` of 6 and 9.
    fn calls() -> Calls {
        let mut calls = Calls::none();
        // SAFETY: nothing is done with it.
        let five = unsafe { BorrowedFd::borrow_raw(5) };
        calls.allow_ioctl(five, 2);
        calls.allow_frequent_ioctl(five, 1);
        (4..=6).for_each(|descriptor| calls.allow_on(libc::SYS_pread64, descriptor));
        [6, 9].into_iter().for_each(|descriptor| calls.allow_on(libc::SYS_pwrite64, descriptor));
        calls
    }

    #[test]
    fn allows_what_the_rest_allows_and_no_more() {
        let program = calls().compile().unwrap();
        let descriptors = [0, 3, 4, 5, 6, 7, 9, u64::from(u32::MAX)];
        for number in [libc::SYS_ioctl, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_read] {
            for descriptor in descriptors {
                for request in 0..4 {
                    let allowed = match (number, descriptor) {
                        (libc::SYS_ioctl, 5) => matches!(request, 1 | 2),
                        (libc::SYS_pread64, 4..=6) | (libc::SYS_pwrite64, 6 | 9) => true,
                        _ => false,
                    };
                    let expected = if allowed { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
                    let call = call(number, [descriptor, request, 0, 0, 0, 0]);
                    assert_eq!(verdict(&program, &call), expected, "{number} {descriptor} {request}");
                }
            }
        }
    }

    #[test]
    fn calls_of_another_convention_are_not_allowed() {
        const AUDIT_ARCH_I386: u32 = libc::EM_386 as u32 | 0x4000_0000;
        let program = calls().compile().unwrap();
        let native = call(libc::SYS_ioctl, [5, 1, 0, 0, 0, 0]);
        assert_eq!(verdict(&program, &native), SECCOMP_RET_ALLOW);
        let foreign = seccomp_data { arch: AUDIT_ARCH_I386, ..native };
        assert_ne!(verdict(&program, &foreign), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn conditions_of_every_kind_are_looked_at() {
        let often = [(7, vec![Condition::at_least(0, 3)]), (8, vec![Condition::set(1, 6), Condition::clear(1, 1)])];
        let mut program = compile(&BTreeMap::from(often));
        program.push(instruction(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
        let allows = |number, args: [u64; 2]| {
            verdict(&program, &call(number, [args[0], args[1], 0, 0, 0, 0])) == SECCOMP_RET_ALLOW
        };
        assert!(allows(7, [3, 0]) && allows(7, [9, 0]) && !allows(7, [2, 0]));
        assert!(allows(8, [0, 6]) && allows(8, [0, 14]) && !allows(8, [0, 7]) && !allows(8, [0, 2]));
        assert!(!allows(9, [3, 6]));
    }
}
