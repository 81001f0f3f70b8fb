//! Definitions shared by tender, stub and kernel: addresses and contents of the pages that tender
//! and child share.

use std::sync::atomic::{AtomicU32, AtomicU64};

use hvt_abi::PAGE_SIZE;

use crate::memory::Permissions;

/// Address of the stub page in the child: above all guest memory, below all mappings that Linux
/// creates.
pub(super) const STUB_ADDRESS: u64 = 0x2000_0000_0000;
/// Address of the exchange pages in the child.
pub(super) const EXCHANGE_ADDRESS: u64 = STUB_ADDRESS + PAGE_SIZE;

/// First of the exchange pages. The stub uses the offsets of the fields. The pages of the set-up
/// script and the child's signal stack follow.
#[repr(C)]
pub(super) struct Header {
    /// Current turn: see [`handover`](super::handover).
    pub(super) turn: AtomicU32,
    /// Number of checks of `turn` by the child before it sleeps.
    pub(super) spin: AtomicU32,
    /// Signal that made the child hand over.
    pub(super) signal: AtomicU32,
    /// Work of the stub before the guest continues: bits of `command`.
    pub(super) command: AtomicU32,
    /// If not 0, the child reports FS and GS base at each hand-over.
    pub(super) reads_bases: AtomicU32,
    /// If not 0, the child handed over through a trampoline: [`direct`](Self::direct) holds the
    /// guest's registers, and there is no signal.
    pub(super) is_direct: AtomicU32,
    /// Address in the child of the `siginfo_t`.
    pub(super) siginfo: AtomicU64,
    /// Address in the child of the `ucontext_t`.
    pub(super) ucontext: AtomicU64,
    /// FS base of the child, and the new one for [`command::SET_FS_BASE`].
    pub(super) fs_base: AtomicU64,
    /// GS base of the child, and the new one for [`command::SET_GS_BASE`].
    pub(super) gs_base: AtomicU64,
    /// Address in the child of the [`SetupStep`] that failed during set-up, 0 if none failed.
    pub(super) failed_step: AtomicU64,
    /// Hypercall through a trampoline.
    pub(super) direct: DirectCall,
    /// Result of the failed step: a negated errno.
    pub(super) failed_result: AtomicU64,
    /// Robust futex list of the child: at its death, the kernel marks `turn` and wakes the tender.
    pub(super) robust_list: RobustList,
}

/// Registers of the guest at a hypercall through a [trampoline](super::direct). The tender reads the
/// first three at every call.
#[repr(C)]
pub(super) struct DirectCall {
    pub(super) rax: AtomicU64,
    pub(super) rdx: AtomicU64,
    /// Address behind the `out`, at which the guest continues.
    pub(super) rip: AtomicU64,
    pub(super) rflags: AtomicU64,
    pub(super) rbx: AtomicU64,
    pub(super) rcx: AtomicU64,
    pub(super) rsi: AtomicU64,
    pub(super) rdi: AtomicU64,
    pub(super) rbp: AtomicU64,
    pub(super) rsp: AtomicU64,
    pub(super) r8: AtomicU64,
    pub(super) r9: AtomicU64,
    pub(super) r10: AtomicU64,
    pub(super) r11: AtomicU64,
    pub(super) r12: AtomicU64,
    pub(super) r13: AtomicU64,
    pub(super) r14: AtomicU64,
    pub(super) r15: AtomicU64,
}

/// Bits of [`Header::command`].
pub(super) mod command {
    /// Load FS base from [`Header::fs_base`](super::Header::fs_base).
    pub(crate) const SET_FS_BASE: u32 = 1 << 0;
    /// Load GS base from [`Header::gs_base`](super::Header::gs_base).
    pub(crate) const SET_GS_BASE: u32 = 1 << 1;
    /// Use `arch_prctl`, because the kernel does not permit WRFSBASE in user mode.
    pub(crate) const BY_SYSTEM_CALL: u32 = 1 << 2;
    /// Run the [script](super::SCRIPT_OFFSET) before the other commands.
    pub(crate) const RUN_SCRIPT: u32 = 1 << 3;
}

/// `struct robust_list_head` and its only member (`include/uapi/linux/futex.h`).
#[repr(C)]
pub(super) struct RobustList {
    pub(super) first: AtomicU64,
    pub(super) futex_offset: AtomicU64,
    pub(super) pending: AtomicU64,
    pub(super) node: AtomicU64,
}

impl RobustList {
    /// Bytes of the `struct robust_list_head`, without its member.
    pub(super) const HEAD_SIZE: u64 = std::mem::offset_of!(Self, node) as u64;
}

/// System call in a script.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct SetupStep {
    /// System call number, or [`SetupStep::END`].
    pub(super) number: u64,
    /// Arguments.
    pub(super) arguments: [u64; 6],
    /// Expected result; 0 accepts any result except an error.
    pub(super) expect: u64,
}

impl SetupStep {
    /// Number that ends a script.
    pub(super) const END: u64 = u64::MAX;
    /// Words of a step.
    pub(super) const WORDS: usize = size_of::<Self>() / 8;
}

const _: () = assert!(size_of::<Header>() <= PAGE_SIZE as usize);

/// Offset of the script in the exchange pages: first the set-up script and the data of its steps,
/// later the scripts of commands.
pub(super) const SCRIPT_OFFSET: u64 = PAGE_SIZE;
/// Words of the smallest script area: one page.
pub(super) const SCRIPT_WORDS_MIN: usize = PAGE_SIZE as usize / size_of::<u64>();

/// Returns the protection (`PROT_*`) of a guest memory mapping with these permissions.
pub(super) fn protection(access: Permissions) -> libc::c_int {
    let bits = [
        (Permissions::READ, libc::PROT_READ),
        (Permissions::WRITE, libc::PROT_WRITE),
        (Permissions::EXECUTE, libc::PROT_EXEC),
    ];
    bits.into_iter().filter(|(one, _)| access.contains(*one)).fold(libc::PROT_NONE, |all, (_, bit)| all | bit)
}

/// Values of [`Header::turn`]; [`handover`](super::handover) explains them.
pub(super) mod turn {
    /// The tender acts and the child spins.
    pub(crate) const TENDERS_TURN: u32 = 0;
    /// The tender acts and the child sleeps.
    pub(crate) const ASLEEP: u32 = 1;
    /// The child's thread ID is not yet known: neither the tender nor the child has the turn.
    pub(crate) const STARTING: u32 = u32::MAX >> 4;
}
