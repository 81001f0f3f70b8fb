//! Run page: memory that kernel and monitor share while a virtual CPU runs.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ExitRecord;
use crate::x86_64::Registers;

/// Size of the page in bytes.
pub const SIZE: usize = 4096;

bitflags! {
    /// Options for the next [`Run`](super::Operation::Run). The kernel sets the word to 0 after it
    /// has read it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Request: u32 {
        /// Writes [`RunPage::input`] to AL, AX or EAX, depending on the width of the access, as the
        /// result of the `in` that ended the last `Run`. It has no effect if the last `Run` ended
        /// for another reason. It must not be combined with `SET_REGISTERS`.
        const INPUT = 1 << 0;
        /// Sets the guest's registers to [`RunPage::registers`] before the guest runs, as
        /// [`SetState`](super::Operation::SetState) does.
        const SET_REGISTERS = 1 << 1;
        /// Stores the guest's registers in [`RunPage::registers`] when `Run` returns.
        const GET_REGISTERS = 1 << 2;
    }
}

/// Contents of the run page. The rest of the page is 0. Each field has one writer at a time: the
/// kernel during `Run`, the monitor otherwise.
///
/// Both sides can change the page at any time. Accesses must therefore be volatile, and each side
/// must read a value once before it acts on that value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct RunPage {
    /// Reason for the return of the last `Run`. All zero until the first `Run` returns. Written by
    /// the kernel.
    pub exit: ExitRecord,
    /// Reserved; 0.
    pub reserved_exit: [u64; 4],
    /// Options of the next `Run`: [`Request`]. Written by the monitor.
    pub request: u32,
    /// Value for [`Request::INPUT`]. Written by the monitor.
    pub input: u32,
    /// Reserved; 0.
    pub reserved: [u64; 7],
    /// General-purpose registers, RIP and RFLAGS. Used only with [`Request::SET_REGISTERS`] and
    /// [`Request::GET_REGISTERS`].
    pub registers: Registers,
    /// Reserved; 0.
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
