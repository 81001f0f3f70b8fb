//! The page that kernel and monitor share while a virtual CPU runs.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ExitRecord;
use crate::x86_64::Registers;

/// Bytes in the page.
pub const SIZE: usize = 4096;

bitflags! {
    /// What the monitor asks of the next [`Run`](super::Operation::Run), beyond running the guest. The kernel sets the
    /// word to 0 when it has read it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Request: u32 {
        /// The guest gets [`RunPage::input`] as the answer to the `in` that ended the last `Run`: AL, AX or EAX, as wide
        /// as the access was; nothing happens if the last `Run` ended in another way. Not together with
        /// `SET_REGISTERS`.
        const INPUT = 1 << 0;
        /// The guest gets [`RunPage::registers`] before it runs, as with [`SetState`](super::Operation::SetState).
        const SET_REGISTERS = 1 << 1;
        /// [`RunPage::registers`] holds the guest's when `Run` comes back.
        const GET_REGISTERS = 1 << 2;
    }
}

/// The first bytes of the page; the rest is 0. Each field has one writer at a time: the kernel while `Run` lasts, the
/// monitor else.
///
/// It is memory that both sides can change at any time: accesses are volatile, and each reads what it acts on once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct RunPage {
    /// Why the last `Run` came back. All 0 until the first one does. Written by the kernel.
    pub exit: ExitRecord,
    /// 0.
    pub reserved_exit: [u64; 4],
    /// [`Request`]. Written by the monitor.
    pub request: u32,
    /// See [`Request::INPUT`]. Written by the monitor.
    pub input: u32,
    /// 0.
    pub reserved: [u64; 7],
    /// General registers, RIP and RFLAGS, where asked for.
    pub registers: Registers,
    /// 0.
    pub reserved_end: [u64; 6],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<RunPage>() == 320 && size_of::<RunPage>() <= SIZE);
    assert!(offset_of!(RunPage, exit) == 0);
    assert!(offset_of!(RunPage, request) == 64);
    assert!(offset_of!(RunPage, input) == 68);
    assert!(offset_of!(RunPage, registers) == 128);
};
