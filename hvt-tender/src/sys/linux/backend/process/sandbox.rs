//! Seccomp filter of the child, which denies nearly all system calls.
//!
//! The filter checks the address of the `syscall` instruction, which filter libraries cannot
//! express. Only the [stub](super::stub) may make system calls, and only the calls of the hand-over.
//! Every other call becomes a SIGSYS, so that a guest's `syscall` instruction has the same effect
//! as on hardware.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_TRAP, seccomp_data, sock_filter,
};
use std::mem::offset_of;

use super::exchange::Exchange;
use super::protocol::{STUB_ADDRESS, protection};
use super::stub::{ARCH_SET_FS, ARCH_SET_GS};
use crate::memory::MemoryMap;

/// Largest number of guest memory regions in a filter that checks them: the kernel limits the
/// length of a filter (`BPF_MAXINSNS`).
pub(super) const WATCHED_REGIONS_MAX: usize = 1000;

/// Returns the filter program, a sequence of `struct sock_filter`. The child of a `watched` guest
/// may change the protection of pages, because a debugger closes and opens them. The guest could do
/// the same by a jump into the stub, so that no page ever gets more permissions than its region
/// has.
pub(super) fn filter(watched: Option<&MemoryMap>) -> Vec<sock_filter> {
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
    let mut protects = Program::default();
    if let Some(memory_map) = watched {
        program.go_on_if(libc::SYS_mprotect);
        protects.check_protection(memory_map);
    }
    program.end(protects)
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

/// Filter under construction. Failed checks jump to the last instruction, which denies the call.
#[derive(Default)]
struct Program {
    instructions: Vec<sock_filter>,
}

/// Jump offset that [`Program::end`] replaces by the offset of the denial.
const REFUSE: u8 = u8::MAX;

impl Program {
    /// Denies the call unless the word at `offset` of `seccomp_data`, masked, is one of `values`.
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

    /// Allows the call of this number if every word at these offsets has one of the given values.
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

    /// Continues behind the denial if the call has this number.
    fn go_on_if(&mut self, number: libc::c_long) {
        self.push(BPF_LD | BPF_W | BPF_ABS, offset_of!(seccomp_data, nr) as u32, 0, 0);
        // The next instruction is the denial.
        self.push(BPF_JMP | BPF_JEQ | BPF_K, number as u32, 1, 0);
    }

    /// Checks the arguments of mprotect: one page, and no protection bits beyond the permissions of
    /// its region.
    fn check_protection(&mut self, memory_map: &MemoryMap) {
        let page = hvt_abi::PAGE_SIZE as u32;
        let words = [(argument(0) + 4, 0), (argument(1), page), (argument(1) + 4, 0), (argument(2) + 4, 0)];
        for (offset, value) in words {
            self.push(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0, 0);
            self.push(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
            self.refuse();
        }
        // Boundaries of regions in descending order: a page that is not below a boundary lies
        // behind it. The kernel accepts only page addresses.
        self.push(BPF_LD | BPF_W | BPF_ABS, argument(0) as u32, 0, 0);
        let mut boundaries = Vec::new();
        for region in memory_map.regions() {
            boundaries.push((region.range.start().0, Some(protection(region.access) as u32)));
            boundaries.push((region.range.end().0, None));
        }
        // Neighbours share a boundary, and the later region counts. A region that ends at 4 GiB has
        // no end boundary.
        let boundaries: std::collections::BTreeMap<_, _> = boundaries.into_iter().collect();
        let boundaries: Vec<_> =
            boundaries.into_iter().filter_map(|(at, bits)| Some((u32::try_from(at).ok()?, bits))).rev().collect();
        // The boundaries are followed by a denial, then for each set of bits by a check of four
        // instructions and a denial.
        const CHECK: usize = 5;
        let refusal = self.instructions.len() + 2 * boundaries.len();
        for (at, bits) in boundaries {
            self.push(BPF_JMP | BPF_JGE | BPF_K, at, 0, 1);
            let target = bits.map_or(refusal, |bits| refusal + 1 + bits as usize * CHECK);
            let distance = target - self.instructions.len() - 1;
            self.push(BPF_JMP | BPF_JA | BPF_K, distance as u32, 0, 0);
        }
        self.refuse();
        for bits in 0..8 {
            self.push(BPF_LD | BPF_W | BPF_ABS, argument(2) as u32, 0, 0);
            self.push(BPF_ALU | BPF_AND | BPF_K, !bits, 0, 0);
            self.push(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1);
            self.push(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
            self.refuse();
        }
    }

    fn refuse(&mut self) {
        self.push(BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
    }

    /// Returns the program, followed by the program `behind` after its denial.
    fn end(mut self, behind: Self) -> Vec<sock_filter> {
        let refusal = self.instructions.len();
        for (index, instruction) in self.instructions.iter_mut().enumerate() {
            if instruction.jf == REFUSE {
                instruction.jf = (refusal - index - 1) as u8;
            }
        }
        self.refuse();
        self.instructions.extend(behind.instructions);
        self.instructions
    }

    fn push(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        self.instructions.push(sock_filter { code: code as u16, jt, jf, k });
    }
}

#[cfg(test)]
mod tests {
    use hvt_abi::{Gpa, GuestRange};

    use super::*;
    use crate::memory::{Permissions, Region};

    /// Evaluates the few instructions that the filter uses (Linux,
    /// Documentation/networking/filter.rst) for a call.
    fn allows(call: &seccomp_data) -> bool {
        verdict(&filter(None), call)
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
                code if code == BPF_JMP | BPF_JGE | BPF_K => {
                    let holds = accumulator >= instruction.k;
                    at += usize::from(if holds { instruction.jt } else { instruction.jf });
                }
                code if code == BPF_JMP | BPF_JA | BPF_K => at += instruction.k as usize,
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

    fn region(start: u64, end: u64, access: Permissions) -> Region {
        Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access }
    }

    #[test]
    fn a_debugger_gives_no_page_more_than_its_region_has() {
        let change = |start, len, protection| call(libc::SYS_mprotect, [start, len, protection, 0, 0, 0]);
        assert!(!allows(&change(0x10_0000, 0x1000, 0)));
        let (read, write, execute) = (Permissions::READ, Permissions::WRITE, Permissions::EXECUTE);
        let regions = [
            region(0x1_0000, 0x2_0000, read),
            region(0x10_0000, 0x10_2000, read | execute),
            region(0x10_2000, 0x20_0000, read | write),
            region(0x30_0000, 1 << 32, read | write),
        ];
        let watched = filter(Some(&MemoryMap::new(regions).unwrap()));
        for (page, most) in [
            (0, None),
            (0xf000, None),
            (0x1_0000, Some(1)),
            (0x1_f000, Some(1)),
            (0x2_0000, None),
            (0x10_1000, Some(5)),
            (0x10_2000, Some(3)),
            (0x1f_f000, Some(3)),
            (0x20_0000, None),
            (0x30_0000, Some(3)),
            (0xffff_f000, Some(3)),
            (1 << 32, None),
            (0x1_0010_1000, None),
            (STUB_ADDRESS, None),
        ] {
            for bits in 0..16 {
                let within = most.is_some_and(|most| bits & !most == 0);
                assert_eq!(verdict(&watched, &change(page, 0x1000, bits)), within, "{page:#x}: {bits:#x}");
            }
        }
        assert!(!verdict(&watched, &change(0x10_0000, 0x2000, 5)), "two pages");
        assert!(!verdict(&watched, &change(0x10_0000, 1 << 32 | 0x1000, 5)));
        assert!(!verdict(&watched, &change(0x10_0000, 0x1000, 1 << 32 | 5)));
        for number in (0..600).filter(|number| *number != libc::SYS_mprotect) {
            let call = call(number, [Exchange::TURN, 0, 0, 0, 0, 0]);
            assert_eq!(verdict(&watched, &call), allows(&call), "system call {number}");
        }
        assert!(!verdict(&watched, &seccomp_data { instruction_pointer: 0x10_0000, ..change(0x10_2000, 0x1000, 1) }));
    }

    #[test]
    fn the_kernel_takes_a_filter_of_as_many_regions_as_are_promised() {
        const BPF_MAXINSNS: usize = 4096;
        let page = |index| region(0x10_0000 + index * 0x2000, 0x10_1000 + index * 0x2000, Permissions::READ);
        let memory_map = MemoryMap::new((0..WATCHED_REGIONS_MAX as u64).map(page)).unwrap();
        assert!(filter(Some(&memory_map)).len() <= BPF_MAXINSNS);
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
