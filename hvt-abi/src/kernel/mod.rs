//! What a monitor asks of a kernel that hosts guests, as plain data: a hardware-virtualization interface for any monitor
//! on any kernel, version [`VERSION`].
//!
//! | module | what is agreed on |
//! |---|---|
//! | [`operation`] | the numbers of the operations, and the structures that go with them |
//! | [`state`] | the registers of a virtual CPU |
//! | [`run_page`] | the page that kernel and monitor share while a virtual CPU runs |
//! | [`exit`] | why it stopped |
//! | [`error`] | why an operation was refused |
//! | [`redox`] | how all of this travels on the Redox kernel |
//!
//! # Objects
//!
//! Three kinds of objects, each named by a handle of the kernel's:
//!
//! - The **hypervisor**: what the machine can do. Creates VMs.
//! - A **VM**: a guest-physical address space. Its memory is *the monitor's own*: a range of the monitor's private memory
//!   is pinned and shown to the guest at a guest address, so that both see the same bytes without a copy or a call.
//!   Creates virtual CPUs.
//! - A **vCPU**: registers, and a [`RunPage`] that the monitor maps. Running it is one operation without arguments; what
//!   the guest wants comes back in the page.
//!
//! | on | operation | takes | answers |
//! |---|---|---|---|
//! | hypervisor | [`GetCapabilities`](Operation::GetCapabilities) | | 0, and [`Capabilities`] |
//! | hypervisor | create VM | | a VM |
//! | VM | [`Map`](Operation::Map) | [`MemoryMapping`] | bytes mapped, from the start of the range |
//! | VM | [`Unmap`](Operation::Unmap) | [`MemoryRange`] | bytes unmapped, from the start of the range |
//! | VM | [`Protect`](Operation::Protect) | [`MemoryRange`] | bytes protected, from the start of the range |
//! | VM | [`Pause`](Operation::Pause) | | how many vCPUs have not left the guest yet |
//! | VM | [`Resume`](Operation::Resume) | | 0 |
//! | VM | [`Destroy`](Operation::Destroy) | | 0 |
//! | VM | create vCPU | | a vCPU |
//! | vCPU | [`GetState`](Operation::GetState) | | 0, and [`VcpuState`] |
//! | vCPU | [`SetState`](Operation::SetState) | [`VcpuState`] | 0 |
//! | vCPU | [`Run`](Operation::Run) | [`RunPage::request`] | [`ExitRecord::reason`]; the record is in the [`RunPage`] |
//! | vCPU | [`Interrupt`](Operation::Interrupt) | | 0 |
//!
//! Whoever holds a handle may use it, from any of its threads. Only a process of the superuser gets the first one.
//!
//! # The states of a vCPU
//!
//! ```text
//!             SetState              Run
//!  create ─> New ───────> Ready ─────────────> Running
//!                          │ ^                  │  │
//!                 SetState └─┘  exit,           │  │ exit for which Exit::is_final holds
//!                          ^    Interrupt, Pause│  v
//!                          └────────────────────┘ Ended ──┐
//!                                                   ^     │ Run: the same exit again
//!                                                   └─────┘
//! ```
//!
//! - *New*: it has no registers. `Run` and `GetState` answer [`Error::NoState`].
//! - *Ready*: it may run, on any CPU of the machine.
//! - *Running*: a thread of the monitor is in `Run`. Others may `Interrupt` it; everything else answers [`Error::Busy`].
//! - *Ended*: the guest cannot go on. `GetState` shows where it stopped; `SetState` answers [`Error::Ended`]; `Run`
//!   answers the same exit.
//!
//! `Run` comes back for one of the reasons in [`Exit`]. [`Exit::Interrupted`] means that the host needed the CPU (its own
//! interrupts, the scheduler, a signal), or that somebody has called `Interrupt` or `Pause`: the monitor looks at what it
//! has to look at and runs the vCPU again. An `Interrupt` of a vCPU that does not run is kept, and ends its next `Run`
//! before the guest executes anything; so none is ever missed.
//!
//! # The states of a VM
//!
//! *Active* from the start. `Pause` makes it *paused*: vCPUs leave the guest, and `Run` answers [`Error::Paused`] until
//! `Resume`. `Pause` does not wait: it answers how many vCPUs have not left yet, and may be asked again (0 means that
//! the guest is at rest; it takes a tick of the host's clock at most). Pausing twice is pausing once. `Destroy` makes it
//! *destroyed*: the guest's memory is no longer pinned when it answers, and every later operation on the VM and its vCPUs
//! answers [`Error::Destroyed`].
//!
//! Memory changes only while no vCPU of the VM runs: `Map`, `Unmap`, `Protect` and `Destroy` answer [`Error::Busy`] if one
//! does. A monitor with several threads pauses first.
//!
//! A VM whose handle is closed lives on until its last vCPU is closed as well. A process that dies closes all of its
//! handles; nothing of a guest outlives them.
//!
//! # Memory
//!
//! Addresses and lengths are multiples of 4 KiB. The pages given to `Map` must be the caller's own: private, writable,
//! anonymous memory. They stay pinned until they are unmapped from the guest, even if the monitor unmaps them from itself
//! or exits. Each page counts once for every guest address it is mapped at, against the limit of the user
//! ([`Capabilities::pinned_limit`]).
//!
//! `Map`, `Unmap` and `Protect` do a bounded amount of work, at most [`Capabilities::map_step`] bytes, and answer how far
//! they came, as `write` does; the monitor asks again for the rest. An error means that the range could not even be
//! begun, and that nothing has changed.
//!
//! No page is writable and executable at once: [`Error::WriteAndExecute`]. Where the hardware has no execute-only or
//! write-only pages, readability is added.
//!
//! # Stability
//!
//! Operations, errors and offsets never change their meaning; a later version adds to them, and reserved fields and bits,
//! which are 0 now, are what it adds in. A kernel answers an operation that it does not know with
//! [`Error::UnknownOperation`], and a reserved bit that is not 0 with [`Error::BadArgument`].

pub mod error;
pub mod exit;
pub mod operation;
pub mod redox;
pub mod run_page;
pub mod state;

pub use error::Error;
pub use exit::{Direction, EntryFailure, EntryField, Exit, ExitRecord, Io, MemoryViolation};
pub use operation::{Capabilities, MemoryMapping, MemoryRange, Obstacle, Operation, Technology};
pub use run_page::{Request, RunPage};
pub use state::{SegmentState, TableState, VcpuState};

/// The version described here, as found in [`Capabilities::version`].
pub const VERSION: u32 = 1;
