//! The script that turns a fresh child into a guest's address space and nothing else, and the one that changes the
//! protection of guest memory later, for a debugger.
//!
//! The child runs none of the tender's code. The tender writes down the system calls, and the [stub](super::stub) makes
//! them one after the other.

use std::mem::offset_of;
use std::os::fd::RawFd;

use hvt_abi::GuestRange;

use super::exchange::Exchange;
use super::protocol::{EXCHANGE_ADDRESS, Header, RobustList, SETUP_WORDS, STUB_ADDRESS, Step};
use super::{RELAXED, sandbox, stub};
use crate::memory::{Access, Layout};

/// The signals that a guest can cause: those its child handles. All others stay blocked in the child.
pub(super) const GUEST_SIGNALS: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// One past the last address that user mode can have with four-level paging, which is all that Linux gives unasked.
const USER_END: u64 = 0x7fff_ffff_f000;

/// A script under construction: steps from the front, the data they point to from the back.
pub(super) struct Script<'x> {
    exchange: &'x Exchange,
    steps: usize,
    data: usize,
    names: Vec<&'static str>,
}

/// The script does not fit the header page: the guest has too many segments.
#[derive(Debug)]
pub(super) struct TooLong;

/// What a child may and may not do that has a choice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    /// Reading the TSC raises #GP in the child.
    pub(super) cycles_trap: bool,
    /// The child can be told to change the protection of guest memory.
    pub(super) debugged: bool,
}

/// Part of guest memory that is to have this protection (`PROT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protection {
    pub(super) range: GuestRange,
    pub(super) bits: libc::c_int,
}

/// As many of them as a script can hold.
pub(super) const PROTECTIONS_MAX: usize = SETUP_WORDS / Step::WORDS - 1;

/// The host's word for how guest memory may be accessed.
pub(super) fn protection(access: Access) -> libc::c_int {
    let bits = [(Access::READ, libc::PROT_READ), (Access::WRITE, libc::PROT_WRITE), (Access::EXECUTE, libc::PROT_EXEC)];
    bits.into_iter().filter(|(one, _)| access.contains(*one)).fold(libc::PROT_NONE, |all, (_, bit)| all | bit)
}

impl<'x> Script<'x> {
    /// Writes the script that makes a child of the process `parent` into the exchange pages: guest memory, which is
    /// the file `memory`, is mapped as `layout` says.
    pub(super) fn write(
        exchange: &'x Exchange,
        parent: u32,
        memory: RawFd,
        layout: &Layout,
        options: Options,
    ) -> Result<Names, TooLong> {
        let mut script = Self { exchange, steps: 0, data: SETUP_WORDS, names: Vec::new() };
        script.die_with_the_tender(parent)?;
        script.handle_signals()?;
        script.empty_the_address_space()?;
        script.map_guest(memory, layout)?;
        if options.cycles_trap {
            let mode = libc::PR_TSC_SIGSEGV as u64;
            script.call("prctl(PR_SET_TSC)", libc::SYS_prctl, [libc::PR_SET_TSC as u64, mode])?;
        }
        script.give_everything_up(options.debugged)?;
        script.step("end", Step::END, [0; 6], 0)?;
        Ok(Names(script.names))
    }

    /// Writes the script that changes the protection of guest memory in a child that runs: for
    /// [`command::RUN_SCRIPT`](super::protocol::command::RUN_SCRIPT).
    pub(super) fn protect(exchange: &'x Exchange, changes: &[Protection]) -> Result<(), TooLong> {
        let mut script = Self { exchange, steps: 0, data: SETUP_WORDS, names: Vec::new() };
        for Protection { range, bits } in changes {
            script.call("mprotect", libc::SYS_mprotect, [range.start().0, range.len(), *bits as u64])?;
        }
        script.step("end", Step::END, [0; 6], 0)
    }

    fn die_with_the_tender(&mut self, parent: u32) -> Result<(), TooLong> {
        self.call("prctl(PR_SET_PDEATHSIG)", libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64])?;
        // The tender may have died before that took effect.
        self.step("getppid", libc::SYS_getppid as u64, [0; 6], u64::from(parent))?;
        let list = &self.exchange.header().robust_list;
        let head = Exchange::field(offset_of!(Header, robust_list));
        let node = head + offset_of!(RobustList, node) as u64;
        list.first.store(node, RELAXED);
        list.node.store(head, RELAXED);
        list.futex_offset.store(Exchange::TURN.wrapping_sub(node), RELAXED);
        list.pending.store(0, RELAXED);
        let head_size = offset_of!(RobustList, node) as u64;
        self.call("set_robust_list", libc::SYS_set_robust_list, [head, head_size])?;
        Ok(())
    }

    fn handle_signals(&mut self) -> Result<(), TooLong> {
        let (stack, size) = self.exchange.signal_stack();
        let stack = self.data(&[stack, 0, size])?;
        self.call("sigaltstack", libc::SYS_sigaltstack, [stack, 0])?;
        let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | SA_RESTORER;
        let all = u64::MAX;
        let action = self.data(&[stub::handler(), flags as u64, stub::restorer(), all])?;
        for signal in GUEST_SIGNALS {
            self.call("rt_sigaction", libc::SYS_rt_sigaction, [signal as u64, action, 0, size_of::<u64>() as u64])?;
        }
        let ours = GUEST_SIGNALS.iter().fold(0, |set, signal| set | 1 << (signal - 1));
        let blocked = self.data(&[!ours])?;
        let set = libc::SIG_SETMASK as u64;
        self.call("rt_sigprocmask", libc::SYS_rt_sigprocmask, [set, blocked, 0, size_of::<u64>() as u64])
    }

    /// Unmaps all but the stub and the exchange pages: the stack and the vDSO, wherever they are.
    fn empty_the_address_space(&mut self) -> Result<(), TooLong> {
        let exchange_end = EXCHANGE_ADDRESS + self.exchange.exchange_size();
        self.call("munmap", libc::SYS_munmap, [0, STUB_ADDRESS])?;
        self.call("munmap", libc::SYS_munmap, [exchange_end, USER_END - exchange_end])
    }

    fn map_guest(&mut self, memory: RawFd, layout: &Layout) -> Result<(), TooLong> {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        for region in layout.regions() {
            let start = region.range.start().0;
            let bits = protection(region.access);
            let arguments = [start, region.range.len(), bits as u64, flags as u64, memory as u64, start];
            self.call("mmap of guest memory", libc::SYS_mmap, arguments)?;
        }
        Ok(())
    }

    fn give_everything_up(&mut self, debugged: bool) -> Result<(), TooLong> {
        let name = self.data(&[u64::from_le_bytes(*b"hvt-gues"), u64::from_le_bytes(*b"t\0\0\0\0\0\0\0")])?;
        self.call("prctl(PR_SET_NAME)", libc::SYS_prctl, [libc::PR_SET_NAME as u64, name])?;
        let no_core = self.data(&[0, 0])?;
        self.call("prlimit64", libc::SYS_prlimit64, [0, u64::from(libc::RLIMIT_CORE), no_core, 0])?;
        self.call("close_range", libc::SYS_close_range, [0, u64::from(u32::MAX), 0])?;
        let set = libc::PR_SET_NO_NEW_PRIVS as u64;
        self.call("prctl(PR_SET_NO_NEW_PRIVS)", libc::SYS_prctl, [set, 1, 0, 0, 0])?;
        let filter = sandbox::filter(debugged);
        let instructions: Vec<u64> = filter
            .iter()
            .map(|one| u64::from(one.code) | u64::from(one.jt) << 16 | u64::from(one.jf) << 24 | u64::from(one.k) << 32)
            .collect();
        let instructions = self.data(&instructions)?;
        let program = self.data(&[filter.len() as u64, instructions])?;
        let set = u64::from(libc::SECCOMP_SET_MODE_FILTER);
        self.call("seccomp", libc::SYS_seccomp, [set, 0, program])
    }

    /// Adds a system call that must not fail.
    fn call<const N: usize>(
        &mut self,
        name: &'static str,
        number: libc::c_long,
        arguments: [u64; N],
    ) -> Result<(), TooLong> {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&arguments);
        self.step(name, number as u64, all, 0)
    }

    fn step(&mut self, name: &'static str, number: u64, arguments: [u64; 6], expect: u64) -> Result<(), TooLong> {
        let start = self.steps * Step::WORDS;
        if start + Step::WORDS > self.data {
            return Err(TooLong);
        }
        let words = std::iter::once(number).chain(arguments).chain([expect]);
        for (word, value) in self.exchange.header().setup[start..].iter().zip(words) {
            word.store(value, RELAXED);
        }
        self.steps += 1;
        self.names.push(name);
        Ok(())
    }

    /// Puts words where a step can point to them; returns their address in the child.
    fn data(&mut self, words: &[u64]) -> Result<u64, TooLong> {
        let start = self.data.checked_sub(words.len()).filter(|start| *start >= self.steps * Step::WORDS);
        self.data = start.ok_or(TooLong)?;
        for (word, value) in self.exchange.header().setup[self.data..].iter().zip(words) {
            word.store(*value, RELAXED);
        }
        Ok(Exchange::SETUP + (self.data * size_of::<u64>()) as u64)
    }
}

/// The kernel's own flag (`arch/x86/include/uapi/asm/signal.h`): `sa_restorer` is set. x86_64 demands it.
const SA_RESTORER: libc::c_int = 0x0400_0000;

/// The steps' names, to say which failed.
pub(super) struct Names(Vec<&'static str>);

impl Names {
    /// Name of the step at this address in the child.
    pub(super) fn at(&self, address: u64) -> &'static str {
        let index = address.wrapping_sub(Exchange::SETUP) / size_of::<Step>() as u64;
        usize::try_from(index).ok().and_then(|index| self.0.get(index)).copied().unwrap_or("an unknown step")
    }
}
