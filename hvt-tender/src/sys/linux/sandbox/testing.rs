//! Interpreter for filter programs, to test them without a kernel.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, seccomp_data,
};
use seccompiler::sock_filter;

use crate::image::fixture::MACHINE;

/// `AUDIT_ARCH_X86_64` and the corresponding constants (`include/uapi/linux/audit.h`): the
/// `e_machine` of ELF, 64-bit, little endian.
const AUDIT_ARCH: u32 = MACHINE as u32 | 0x8000_0000 | 0x4000_0000;

/// Returns the filter's input for a system call.
pub(crate) fn call(number: libc::c_long, args: [u64; 6]) -> seccomp_data {
    seccomp_data { nr: number as i32, arch: AUDIT_ARCH, instruction_pointer: 0, args }
}

/// Returns the result of a program for a call. Implements only the instructions that these filters
/// use (Linux's Documentation/networking/filter.rst).
pub(crate) fn verdict(program: &[sock_filter], call: &seccomp_data) -> u32 {
    let halves = |value: u64| [value as u32, (value >> 32) as u32];
    let mut words = vec![call.nr as u32, call.arch];
    words.extend(halves(call.instruction_pointer));
    words.extend(call.args.iter().copied().flat_map(halves));
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = &program[at];
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { *jt } else { *jf });
        match u32::from(*code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => accumulator = words[*k as usize / 4],
            code if code == BPF_ALU | BPF_AND | BPF_K => accumulator &= k,
            code if code == BPF_JMP | BPF_JEQ | BPF_K => branch(accumulator == *k),
            code if code == BPF_JMP | BPF_JGE | BPF_K => branch(accumulator >= *k),
            code if code == BPF_JMP | BPF_JGT | BPF_K => branch(accumulator > *k),
            code if code == BPF_JMP | BPF_JA | BPF_K => at += *k as usize,
            code if code == BPF_RET | BPF_K => return *k,
            code => panic!("instruction {code:#x} at {}", at - 1),
        }
    }
}
