//! Script that reduces a new child to the guest's address space, and script that changes the
//! protection of guest memory for a debugger.
//!
//! The child runs none of the tender's code. The tender writes down the system calls, and the
//! [stub] makes them one after the other.

use std::os::fd::RawFd;

use hvt_abi::GuestRange;

use super::direct::Direct;
use super::exchange::{Exchange, Places};
use super::protocol::{RobustList, SCRIPT_WORDS_MIN, STUB_ADDRESS, SetupStep, protection};
use super::{sandbox, stub};
use crate::memory::MemoryMap;

/// Signals that a guest can cause, which the child handles. All others stay blocked in the child.
pub(super) const GUEST_SIGNALS: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// End of the user address space with four-level paging, the default limit on Linux.
const USER_END: u64 = 0x7fff_ffff_f000;

/// Script under construction: steps, then the data that they point to.
#[derive(Debug)]
pub(super) struct Script {
    steps: Vec<SetupStep>,
    /// Names of the steps for error messages.
    names: Vec<&'static str>,
    data: Vec<u64>,
    /// Number of steps of the whole script, behind which its data lies.
    all_steps: usize,
}

/// Parameters of a child's set-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetupPlan<'a> {
    /// Process id of the tender.
    pub(super) parent: u32,
    /// File of guest memory.
    pub(super) memory: RawFd,
    /// File of the stub and the exchange pages.
    pub(super) stub: RawFd,
    pub(super) memory_map: &'a MemoryMap,
    /// Pages that replace pages of guest memory.
    pub(super) direct: &'a Direct,
    pub(super) options: Options,
}

/// Optional restrictions of a child.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    /// The child traps reads of the TSC as #GP.
    pub(super) cycles_trap: bool,
    /// The child can close and open pages of guest memory on command.
    pub(super) watched: bool,
    /// The child closes its descriptors with close_range(2). Otherwise it was created with only the
    /// two files.
    pub(super) close_range: bool,
}

/// New protection (`PROT_*`) of a range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protection {
    pub(super) range: GuestRange,
    pub(super) bits: libc::c_int,
}

/// Number of protection changes that fit into the smallest script area.
pub(super) const PROTECTIONS_MAX: usize = SCRIPT_WORDS_MIN / SetupStep::WORDS - 1;

impl Script {
    /// Returns the number of steps of the set-up script and the resulting layout, which do not
    /// depend on the stub's file.
    pub(super) fn measure(plan: &SetupPlan<'_>) -> (usize, Places) {
        let counted = Self::build(plan, Places::around(0), 0);
        (counted.steps.len(), Places::around(counted.words().count()))
    }

    /// Creates the script that turns a child into a guest's address space. `steps` and `places`
    /// come from `measure`.
    pub(super) fn new(plan: &SetupPlan<'_>, steps: usize, places: Places) -> Self {
        Self::build(plan, places, steps)
    }

    fn build(plan: &SetupPlan<'_>, places: Places, all_steps: usize) -> Self {
        let mut script = Self { steps: Vec::new(), names: Vec::new(), data: Vec::new(), all_steps };
        script.die_with_the_tender(plan.parent);
        script.handle_signals(places.signal_stack());
        script.empty_the_address_space(places.end());
        script.map_guest(plan.memory, plan.memory_map);
        script.map_direct(plan, places);
        if plan.options.cycles_trap {
            let mode = libc::PR_TSC_SIGSEGV as u64;
            script.call("prctl(PR_SET_TSC)", libc::SYS_prctl, [libc::PR_SET_TSC as u64, mode]);
        }
        script.give_everything_up(plan);
        script.step("end", SetupStep::END, [0; 6], 0);
        script
    }

    /// Creates a script for [`command::RUN_SCRIPT`](super::protocol::command::RUN_SCRIPT) that
    /// changes the protection of guest memory in a running child. At most [`PROTECTIONS_MAX`]
    /// changes fit.
    pub(super) fn protect(changes: &[Protection]) -> Self {
        let mut script = Self { steps: Vec::new(), names: Vec::new(), data: Vec::new(), all_steps: changes.len() + 1 };
        for Protection { range, bits } in changes {
            script.call("mprotect", libc::SYS_mprotect, [range.start().0, range.len(), *bits as u64]);
        }
        script.step("end", SetupStep::END, [0; 6], 0);
        script
    }

    /// Words of the script in the exchange pages.
    pub(super) fn words(&self) -> impl Iterator<Item = u64> {
        let steps = self.steps.iter().flat_map(|SetupStep { number, arguments, expect }| {
            std::iter::once(*number).chain(*arguments).chain([*expect])
        });
        steps.chain(self.data.iter().copied())
    }

    /// Name of the step at this address in the child.
    pub(super) fn name_at(&self, address: u64) -> &'static str {
        let index = address.wrapping_sub(Exchange::SCRIPT) / size_of::<SetupStep>() as u64;
        usize::try_from(index).ok().and_then(|index| self.names.get(index)).copied().unwrap_or("an unknown step")
    }

    fn die_with_the_tender(&mut self, parent: u32) {
        self.call("prctl(PR_SET_PDEATHSIG)", libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64]);
        // The tender may have died before that took effect.
        self.step("getppid", libc::SYS_getppid as u64, [0; 6], u64::from(parent));
        self.call("set_robust_list", libc::SYS_set_robust_list, [Exchange::ROBUST_LIST, RobustList::HEAD_SIZE]);
    }

    fn handle_signals(&mut self, (stack, size): (u64, u64)) {
        let stack = self.data(&[stack, 0, size]);
        self.call("sigaltstack", libc::SYS_sigaltstack, [stack, 0]);
        let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | SA_RESTORER;
        let all = u64::MAX;
        let action = self.data(&[stub::handler(), flags as u64, stub::restorer(), all]);
        for signal in GUEST_SIGNALS {
            self.call("rt_sigaction", libc::SYS_rt_sigaction, [signal as u64, action, 0, size_of::<u64>() as u64]);
        }
        let ours = GUEST_SIGNALS.iter().fold(0, |set, signal| set | 1 << (signal - 1));
        let blocked = self.data(&[!ours]);
        let set = libc::SIG_SETMASK as u64;
        self.call("rt_sigprocmask", libc::SYS_rt_sigprocmask, [set, blocked, 0, size_of::<u64>() as u64]);
    }

    /// Unmaps everything except the stub and the exchange pages, such as the stack and the vDSO at
    /// unknown addresses.
    fn empty_the_address_space(&mut self, exchange_end: u64) {
        self.call("munmap", libc::SYS_munmap, [0, STUB_ADDRESS]);
        self.call("munmap", libc::SYS_munmap, [exchange_end, USER_END - exchange_end]);
    }

    fn map_guest(&mut self, memory: RawFd, memory_map: &MemoryMap) {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        for region in memory_map.regions() {
            let start = region.range.start().0;
            let bits = protection(region.access);
            let arguments = [start, region.range.len(), bits as u64, flags as u64, memory as u64, start];
            self.call("mmap of guest memory", libc::SYS_mmap, arguments);
        }
    }

    /// Maps the trampolines, and the copies of code over the guest's code.
    fn map_direct(&mut self, plan: &SetupPlan<'_>, places: Places) {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        for mapping in plan.direct.mappings(plan.memory_map) {
            let (start, len) = (mapping.range.start().0, mapping.range.len());
            let bits = protection(mapping.access);
            let offset = places.file_offset(mapping.index);
            let arguments = [start, len, bits as u64, flags as u64, plan.stub as u64, offset];
            self.call("mmap of trampolines", libc::SYS_mmap, arguments);
        }
    }

    fn give_everything_up(&mut self, plan: &SetupPlan<'_>) {
        let name = self.data(&[u64::from_le_bytes(*b"hvt-gues"), u64::from_le_bytes(*b"t\0\0\0\0\0\0\0")]);
        self.call("prctl(PR_SET_NAME)", libc::SYS_prctl, [libc::PR_SET_NAME as u64, name]);
        let no_core = self.data(&[0, 0]);
        self.call("prlimit64", libc::SYS_prlimit64, [0, u64::from(libc::RLIMIT_CORE), no_core, 0]);
        if plan.options.close_range {
            self.call("close_range", libc::SYS_close_range, [0, u64::from(u32::MAX), 0]);
        } else {
            for file in [plan.stub, plan.memory] {
                self.call("close", libc::SYS_close, [file as u64]);
            }
        }
        let set = libc::PR_SET_NO_NEW_PRIVS as u64;
        self.call("prctl(PR_SET_NO_NEW_PRIVS)", libc::SYS_prctl, [set, 1, 0, 0, 0]);
        let filter = sandbox::filter(plan.options.watched.then_some(plan.memory_map));
        let instructions: Vec<u64> = filter
            .iter()
            .map(|one| u64::from(one.code) | u64::from(one.jt) << 16 | u64::from(one.jf) << 24 | u64::from(one.k) << 32)
            .collect();
        let instructions = self.data(&instructions);
        let program = self.data(&[filter.len() as u64, instructions]);
        // Not seccomp(2), which service managers do not allow.
        let mode = u64::from(libc::SECCOMP_MODE_FILTER);
        self.call("prctl(PR_SET_SECCOMP)", libc::SYS_prctl, [libc::PR_SET_SECCOMP as u64, mode, program]);
    }

    /// Adds a system call that must succeed.
    fn call<const N: usize>(&mut self, name: &'static str, number: libc::c_long, arguments: [u64; N]) {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&arguments);
        self.step(name, number as u64, all, 0);
    }

    fn step(&mut self, name: &'static str, number: u64, arguments: [u64; 6], expect: u64) {
        self.steps.push(SetupStep { number, arguments, expect });
        self.names.push(name);
    }

    /// Stores words that a step can point to and returns their address in the child.
    fn data(&mut self, words: &[u64]) -> u64 {
        let at = self.all_steps * size_of::<SetupStep>() + self.data.len() * size_of::<u64>();
        self.data.extend(words);
        Exchange::SCRIPT + at as u64
    }
}

/// Flag of the kernel's ABI (`arch/x86/include/uapi/asm/signal.h`): `sa_restorer` is set, as x86_64
/// requires.
const SA_RESTORER: libc::c_int = 0x0400_0000;

#[cfg(test)]
mod tests {
    use hvt_abi::Gpa;

    use super::*;
    use crate::memory::{Permissions, Region};

    #[test]
    fn a_script_is_as_long_as_its_guest_has_regions() {
        let page = |index: u64| Region {
            range: GuestRange::new(Gpa(0x10_0000 + index * 0x2000), 0x1000).unwrap(),
            access: Permissions::READ,
        };
        for regions in [1, 40, 1000] {
            let memory_map = MemoryMap::new((0..regions).map(page)).unwrap();
            let options = Options { close_range: regions == 40, ..Options::default() };
            let plan = SetupPlan {
                parent: 1,
                memory: 3,
                stub: 4,
                memory_map: &memory_map,
                direct: &Direct::default(),
                options,
            };
            let (steps, places) = Script::measure(&plan);
            let script = Script::new(&plan, steps, places);
            let words = script.words().count();
            let (stack, size) = places.signal_stack();
            assert!(
                Exchange::SCRIPT + 8 * words as u64 <= stack,
                "{regions} regions: it reaches into the signal stack"
            );
            assert_eq!(places.end(), stack + size);
            assert_eq!(script.steps.len(), script.all_steps);
            assert!(words >= regions as usize * SetupStep::WORDS);
            // Each pointer refers to the data, not to the steps.
            let data = Exchange::SCRIPT + (script.steps.len() * size_of::<SetupStep>()) as u64;
            let alternate = script.steps.iter().find(|step| step.number == libc::SYS_sigaltstack as u64).unwrap();
            assert!((data..stack).contains(&alternate.arguments[0]));
            assert_eq!(script.words().nth((alternate.arguments[0] - Exchange::SCRIPT) as usize / 8), Some(stack));
        }
    }

    #[test]
    fn as_many_protections_fit_as_are_promised() {
        let range = GuestRange::new(Gpa(0x10_0000), 0x1000).unwrap();
        let changes = vec![Protection { range, bits: libc::PROT_READ }; PROTECTIONS_MAX];
        assert!(Script::protect(&changes).words().count() <= SCRIPT_WORDS_MIN);
    }
}
