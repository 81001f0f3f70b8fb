#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::os::fd::BorrowedFd;

use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

use super::*;
use crate::sandbox::Calls;
use crate::sandbox::testing::{call, verdict};

const VERDICTS: Verdicts = Verdicts { hit: SECCOMP_RET_ALLOW, miss: SECCOMP_RET_TRAP };

fn allows(program: &[sock_filter], number: libc::c_long, args: [u64; 2]) -> bool {
    verdict(program, &call(number, [args[0], args[1], 0, 0, 0, 0])) == SECCOMP_RET_ALLOW
}

/// Returns the program of seccompiler for the same rules.
fn reference(rules: &Rules) -> BpfProgram {
    let condition = |condition: &Condition| {
        let operation = match condition.operation {
            Operation::Equal => SeccompCmpOp::Eq,
            Operation::AtLeast => SeccompCmpOp::Ge,
            Operation::AtMost => SeccompCmpOp::Le,
            Operation::Bits(mask) => SeccompCmpOp::MaskedEq(mask.into()),
        };
        SeccompCondition::new(condition.argument, SeccompCmpArgLen::Dword, operation, condition.value.into()).unwrap()
    };
    let rule = |conditions: &Vec<Condition>| SeccompRule::new(conditions.iter().map(condition).collect()).unwrap();
    let rules = rules.iter().map(|(number, alternatives)| ((*number).into(), alternatives.iter().map(rule).collect()));
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules.collect(), SeccompAction::Trap, SeccompAction::Allow, arch).unwrap();
    filter.try_into().unwrap()
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let operation = prop_oneof![
        Just(Operation::Equal),
        Just(Operation::AtLeast),
        Just(Operation::AtMost),
        (0_u32..8).prop_map(Operation::Bits),
    ];
    // Bits of the value outside of the mask can never match: seccompiler removes them from both.
    (0_u8..3, operation, 0_u32..8).prop_map(|(argument, operation, value)| match operation {
        Operation::Bits(mask) => Condition { argument, operation, value: value & mask },
        operation => Condition { argument, operation, value },
    })
}

proptest! {
    #[test]
    fn agrees_with_the_program_of_seccompiler(
        rules in btree_map(0_u32..60, vec(vec(any_condition(), 1..4), 0..5), 1..40),
        calls in vec((0_i64..64, [0_u64..9, 0_u64..9, 0_u64..9]), 200),
    ) {
        // For some calls, one alternative is compared before all others.
        let often = rules.iter().filter(|(number, _)| *number % 3 == 0);
        let often = often.filter_map(|(number, alternatives)| Some((*number, alternatives.last()?.clone()))).collect();
        let (program, reference) = (compile(&rules, &Refusals::new(), &often, VERDICTS).unwrap(), reference(&rules));
        for (number, [a, b, c]) in calls {
            // The upper half of a 32-bit argument may contain anything.
            let call = call(number, [a, 1 << 32 | b, c, 0, 0, 0]);
            prop_assert_eq!(verdict(&program, &call), verdict(&reference, &call), "{} {:?}", number, call.args);
        }
    }

    #[test]
    fn allows_the_listed_numbers_and_no_others(
        numbers in btree_map(0_u32..500, any::<bool>(), 1..100),
    ) {
        // Some of the calls are allowed only if their first argument is 5.
        let alternatives = |conditional| if conditional { vec![vec![Condition::equal(0, 5)]] } else { vec![] };
        let rules = numbers.iter().map(|(number, conditional)| (*number, alternatives(*conditional))).collect();
        let program = compile(&rules, &Refusals::new(), &BTreeMap::new(), VERDICTS).unwrap();
        for number in (0..600).chain([i64::from(i32::MAX), -1, 0x4000_0000]) {
            let known = u32::try_from(number).ok().and_then(|number| numbers.get(&number));
            prop_assert_eq!(allows(&program, number, [5, 0]), known.is_some(), "number {}", number);
            prop_assert_eq!(allows(&program, number, [6, 0]), known == Some(&false), "number {}", number);
        }
    }
}

#[test]
fn a_list_that_is_too_long_is_an_error() {
    let rules = (0..5000).map(|number| (2 * number, Vec::new())).collect();
    assert!(matches!(
        compile(&rules, &Refusals::new(), &BTreeMap::new(), VERDICTS),
        Err(BackendError::FilterTooLarge(_))
    ));
}

/// `ioctl` of 1 and 2 on 5, the former often; `pread64` of 4 to 6; `pwrite64` of 6 and 9.
fn calls() -> Calls {
    let mut calls = Calls::none();
    // SAFETY: the descriptor is never used.
    let five = unsafe { BorrowedFd::borrow_raw(5) };
    calls.allow_ioctl(five, 2);
    calls.allow_frequent_ioctl(five, 1);
    (4..=6).for_each(|descriptor| calls.allow_on(libc::SYS_pread64, descriptor));
    [6, 9].into_iter().for_each(|descriptor| calls.allow_on(libc::SYS_pwrite64, descriptor));
    calls
}

#[test]
fn frequent_calls_change_no_verdict() {
    let program = calls().compile().unwrap();
    for number in [libc::SYS_ioctl, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_read] {
        for descriptor in [0, 3, 4, 5, 6, 7, 9, u64::from(u32::MAX)] {
            for request in 0..4 {
                let allowed = match (number, descriptor) {
                    (libc::SYS_ioctl, 5) => matches!(request, 1 | 2),
                    (libc::SYS_pread64, 4..=6) | (libc::SYS_pwrite64, 6 | 9) => true,
                    _ => false,
                };
                assert_eq!(allows(&program, number, [descriptor, request]), allowed, "{number} {descriptor} {request}");
            }
        }
    }
}

#[test]
fn far_jumps_lead_where_near_ones_do() {
    // More instructions for each call than a comparison can jump over.
    let descriptors =
        |number: u32| (0..150).map(|descriptor| vec![Condition::equal(0, 3 * descriptor + number)]).collect();
    let rules = (0..7).map(|number| (number, descriptors(number))).collect();
    let program = compile(&rules, &Refusals::new(), &BTreeMap::new(), VERDICTS).unwrap();
    for number in 0..7 {
        for descriptor in 0..=460 {
            let expected = descriptor >= number && descriptor < number + 450 && (descriptor - number) % 3 == 0;
            assert_eq!(allows(&program, number as i64, [descriptor, 0]), expected, "{number} {descriptor}");
        }
    }
}

#[test]
fn calls_of_another_convention_end_the_process() {
    const AUDIT_ARCH_I386: u32 = libc::EM_386 as u32 | 0x4000_0000;
    let program = calls().compile().unwrap();
    let foreign = seccomp_data { arch: AUDIT_ARCH_I386, ..call(libc::SYS_ioctl, [5, 1, 0, 0, 0, 0]) };
    assert_eq!(verdict(&program, &foreign), SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn conditions_of_every_kind_are_looked_at() {
    let rules = [
        (7, vec![vec![Condition::at_least(0, 3)], vec![Condition::equal(1, 4)]]),
        (8, vec![vec![Condition::set(1, 6), Condition::clear(1, 1)]]),
        (9, vec![vec![Condition::equal_but_for(0, 2, 8)]]),
    ];
    let program = compile(&Rules::from(rules), &Refusals::new(), &BTreeMap::new(), VERDICTS).unwrap();
    let allows = |number, args| allows(&program, number, args);
    assert!(allows(7, [3, 0]) && allows(7, [9, 0]) && allows(7, [2, 4]) && !allows(7, [2, 0]));
    assert!(allows(8, [0, 6]) && allows(8, [0, 14]) && !allows(8, [0, 7]) && !allows(8, [0, 2]));
    assert!(allows(9, [2, 0]) && allows(9, [10, 0]) && !allows(9, [8, 0]));
    assert!(!allows(6, [3, 6]) && !allows(10, [3, 6]));
}

/// A refused call fails with its error number, unless a rule allows these arguments.
#[test]
fn refusals_are_errors_and_rules_take_precedence() {
    let mut calls = calls();
    calls.refuse(libc::SYS_sched_getaffinity, &[], libc::EPERM as u16);
    calls.refuse(libc::SYS_pread64, &[Condition::at_least(0, 6)], libc::EACCES as u16);
    calls.refuse(libc::SYS_openat, &[Condition::equal(1, 3)], libc::EACCES as u16);
    calls.allow(libc::SYS_getpid);
    calls.refuse(libc::SYS_getpid, &[], libc::EPERM as u16);
    let program = calls.compile().unwrap();
    let refused = |errno: i32| SECCOMP_RET_ERRNO | errno as u32;
    for (number, arguments, expected) in [
        (libc::SYS_sched_getaffinity, [7, 7], refused(libc::EPERM)),
        (libc::SYS_pread64, [5, 0], SECCOMP_RET_ALLOW),
        (libc::SYS_pread64, [6, 0], SECCOMP_RET_ALLOW),
        (libc::SYS_pread64, [7, 0], refused(libc::EACCES)),
        (libc::SYS_pread64, [3, 0], SECCOMP_RET_TRAP),
        (libc::SYS_openat, [0, 3], refused(libc::EACCES)),
        (libc::SYS_openat, [0, 2], SECCOMP_RET_TRAP),
        (libc::SYS_getpid, [0, 0], SECCOMP_RET_ALLOW),
    ] {
        let call = call(number, [arguments[0], arguments[1], 0, 0, 0, 0]);
        assert_eq!(verdict(&program, &call), expected, "{number} {arguments:?}");
    }
}
