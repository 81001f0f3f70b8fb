//! What a child may ask of the kernel: next to nothing.
//!
//! The filter looks at where a system call is made from, which filter libraries cannot express: only the
//! [stub](super::stub) may make any, and only those of the hand-over. Everything else becomes a SIGSYS, so that a
//! guest's own `syscall` is reported as what it would be on hardware.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP,
    seccomp_data, sock_filter,
};
use std::mem::offset_of;

use super::exchange::Exchange;
use super::protocol::STUB_ADDRESS;
use super::stub::{ARCH_SET_FS, ARCH_SET_GS};

/// The filter program, `struct sock_filter` after `struct sock_filter`. Where the guest is `debugged`, the child may
/// change the protection of guest memory as well.
pub(super) fn filter(debugged: bool) -> Vec<sock_filter> {
    let page = !(hvt_abi::PAGE_SIZE as u32 - 1);
    let mut program = Program::default();
    program.require(offset_of!(seccomp_data, arch), u32::MAX, &[AUDIT_ARCH_X86_64]);
    program.require(offset_of!(seccomp_data, instruction_pointer) + 4, u32::MAX, &[high(STUB_ADDRESS)]);
    program.require(offset_of!(seccomp_data, instruction_pointer), page, &[low(STUB_ADDRESS)]);
    program.allow_if(
        libc::SYS_futex,
        &[
            (argument(0), &[low(Exchange::TURN)]),
            (argument(0) + 4, &[high(Exchange::TURN)]),
            (argument(1), &[libc::FUTEX_WAIT as u32, libc::FUTEX_WAKE as u32]),
        ],
    );
    program.allow_if(libc::SYS_rt_sigreturn, &[]);
    program.allow_if(libc::SYS_arch_prctl, &[(argument(0), &[ARCH_SET_FS as u32, ARCH_SET_GS as u32])]);
    if debugged {
        // Start and length below 4 GiB: neither the stub nor the exchange pages.
        const ANY: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
        program.allow_if(
            libc::SYS_mprotect,
            &[(argument(0) + 4, &[0]), (argument(1) + 4, &[0]), (argument(2), &ANY), (argument(2) + 4, &[0])],
        );
    }
    program.end()
}

/// `AUDIT_ARCH_X86_64` (`include/uapi/linux/audit.h`): EM_X86_64, 64-bit, little endian.
const AUDIT_ARCH_X86_64: u32 = 62 | 0x8000_0000 | 0x4000_0000;

const fn argument(index: usize) -> usize {
    offset_of!(seccomp_data, args) + index * size_of::<u64>()
}

const fn low(value: u64) -> u32 {
    value as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// A filter under construction: checks that fail jump to its last instruction, which refuses.
#[derive(Default)]
struct Program {
    instructions: Vec<sock_filter>,
}

/// Offset of a jump that [`Program::end`] turns into one to the refusal.
const REFUSE: u8 = u8::MAX;

impl Program {
    /// Refuses the call unless the word at `offset` of `seccomp_data`, masked, is one of `values`.
    fn require(&mut self, offset: usize, mask: u32, values: &[u32]) {
        self.push(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0, 0);
        if mask != u32::MAX {
            self.push(BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
        }
        for (index, value) in values.iter().enumerate() {
            let others = (values.len() - 1 - index) as u8;
            self.push(BPF_JMP | BPF_JEQ | BPF_K, *value, others, if others == 0 { REFUSE } else { 0 });
        }
    }

    /// Allows the call of this number if every word at these offsets is one of its values.
    fn allow_if(&mut self, number: libc::c_long, words: &[(usize, &[u32])]) {
        let mut body = Self::default();
        for (offset, values) in words {
            body.require(*offset, u32::MAX, values);
        }
        body.push(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
        self.push(BPF_LD | BPF_W | BPF_ABS, offset_of!(seccomp_data, nr) as u32, 0, 0);
        self.push(BPF_JMP | BPF_JEQ | BPF_K, number as u32, 0, body.instructions.len() as u8);
        self.instructions.append(&mut body.instructions);
    }

    fn end(mut self) -> Vec<sock_filter> {
        let refusal = self.instructions.len();
        for (index, instruction) in self.instructions.iter_mut().enumerate() {
            if instruction.jf == REFUSE {
                instruction.jf = (refusal - index - 1) as u8;
            }
        }
        self.push(BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
        self.instructions
    }

    fn push(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        self.instructions.push(sock_filter { code: code as u16, jt, jf, k });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the few instructions that the filter uses (Linux's Documentation/networking/filter.rst) on a call.
    fn allows(call: &seccomp_data) -> bool {
        verdict(&filter(false), call)
    }

    fn verdict(program: &[sock_filter], call: &seccomp_data) -> bool {
        let mut words = vec![call.nr as u32, call.arch, low(call.instruction_pointer), high(call.instruction_pointer)];
        words.extend(call.args.iter().flat_map(|argument| [low(*argument), high(*argument)]));
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            match u32::from(instruction.code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => accumulator = words[instruction.k as usize / 4],
                code if code == BPF_ALU | BPF_AND | BPF_K => accumulator &= instruction.k,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => {
                    let equal = accumulator == instruction.k;
                    at += usize::from(if equal { instruction.jt } else { instruction.jf });
                }
                _ => return instruction.k == SECCOMP_RET_ALLOW,
            }
        }
    }

    fn call(nr: libc::c_long, args: [u64; 6]) -> seccomp_data {
        seccomp_data { nr: nr as i32, arch: AUDIT_ARCH_X86_64, instruction_pointer: STUB_ADDRESS + 0x123, args }
    }

    #[test]
    fn lets_the_hand_over_pass() {
        for operation in [libc::FUTEX_WAIT, libc::FUTEX_WAKE] {
            assert!(allows(&call(libc::SYS_futex, [Exchange::TURN, operation as u64, 0, 0, 0, 0])));
        }
        assert!(allows(&call(libc::SYS_rt_sigreturn, [0; 6])));
        assert!(allows(&call(libc::SYS_arch_prctl, [ARCH_SET_FS, 1, 0, 0, 0, 0])));
    }

    #[test]
    fn the_protection_of_guest_memory_can_be_changed_for_a_debugger_alone() {
        let change = |start, len, protection| call(libc::SYS_mprotect, [start, len, protection, 0, 0, 0]);
        assert!(!allows(&change(0x10_0000, 0x1000, 0)));
        let debugged = filter(true);
        assert!(verdict(&debugged, &change(0x10_0000, 0x1000, 0)));
        assert!(verdict(&debugged, &change(0xffff_f000, 0x1000, 7)));
        assert!(verdict(&debugged, &call(libc::SYS_rt_sigreturn, [0; 6])));
        for (start, len, protection) in
            [(STUB_ADDRESS, 0x1000, 7), (0x10_0000, 1 << 32, 7), (0x10_0000, 0x1000, 8), (0x10_0000, 0x1000, 1 << 32)]
        {
            assert!(!verdict(&debugged, &change(start, len, protection)));
        }
        for number in (0..600).filter(|number| *number != libc::SYS_mprotect) {
            let call = call(number, [Exchange::TURN, 0, 0, 0, 0, 0]);
            assert_eq!(verdict(&debugged, &call), allows(&call), "system call {number}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        let turn = Exchange::TURN;
        assert!(!allows(&call(libc::SYS_futex, [turn, libc::FUTEX_REQUEUE as u64, 0, 0, 0, 0])));
        assert!(!allows(&call(libc::SYS_futex, [turn + (1 << 32), libc::FUTEX_WAIT as u64, 0, 0, 0, 0])));
        assert!(!allows(&call(libc::SYS_futex, [turn + 4, libc::FUTEX_WAIT as u64, 0, 0, 0, 0])));
        assert!(!allows(&call(libc::SYS_arch_prctl, [0x1003, 0, 0, 0, 0, 0])));
        let allowed = [libc::SYS_futex, libc::SYS_rt_sigreturn, libc::SYS_arch_prctl];
        for number in (0..600).filter(|number| !allowed.contains(number)) {
            assert!(!allows(&call(number, [turn, 0, 0, 0, 0, 0])), "system call {number}");
        }
    }

    #[test]
    fn refuses_calls_from_elsewhere() {
        let good = call(libc::SYS_rt_sigreturn, [0; 6]);
        for instruction_pointer in [STUB_ADDRESS - 1, STUB_ADDRESS + 0x1000, STUB_ADDRESS & 0xffff_ffff, 0x10_0000] {
            assert!(!allows(&seccomp_data { instruction_pointer, ..good }));
        }
        assert!(!allows(&seccomp_data { arch: 0x4000_0003, ..good }), "32-bit calls");
        assert!(!allows(&call(libc::SYS_rt_sigreturn | 0x4000_0000, [0; 6])), "x32 calls");
    }
}
