//! Interface between a monitor and a kernel that hosts guests, as plain data. It is a hardware
//! virtualization interface for any monitor on any kernel. This is version [`VERSION`].
//!
//! | module | contents |
//! |---|---|
//! | [`operation`] | numbers of the operations, and their argument structures |
//! | [`state`] | registers of a virtual CPU |
//! | [`run_page`] | page that kernel and monitor share while a virtual CPU runs |
//! | [`exit`] | reasons for a virtual CPU to stop |
//! | [`error`] | errors of the operations |
//! | [`redox`] | binding of the interface to the Redox kernel |
//!
//! # Objects
//!
//! There are three types of objects. Each is identified by a handle that the kernel issues:
//!
//! - The **hypervisor** describes the machine's capabilities and creates VMs.
//! - A **VM** is a guest-physical address space. Its memory is *the monitor's own*: the kernel pins
//!   a range of the monitor's private memory and maps it at a guest address. Monitor and guest
//!   access the same bytes without a copy or a call. A VM creates vCPUs.
//! - A **vCPU** has registers and a [`RunPage`] that the monitor maps. `Run` takes no argument. The
//!   guest's requests are returned in the run page.
//!
//! | object | operation | argument | result |
//! |---|---|---|---|
//! | hypervisor | [`GetCapabilities`](Operation::GetCapabilities) | | 0, and [`Capabilities`] |
//! | hypervisor | create VM | | a VM |
//! | VM | [`Map`](Operation::Map) | [`MemoryMapping`] | bytes mapped, from the start of the range |
//! | VM | [`Unmap`](Operation::Unmap) | [`MemoryRange`] | bytes unmapped, from the start of the range |
//! | VM | [`Protect`](Operation::Protect) | [`MemoryRange`] | bytes protected, from the start of the range |
//! | VM | [`Pause`](Operation::Pause) | | number of vCPUs that have not left the guest yet |
//! | VM | [`Resume`](Operation::Resume) | | 0 |
//! | VM | [`Destroy`](Operation::Destroy) | | 0 |
//! | VM | create vCPU | | a vCPU |
//! | vCPU | [`GetState`](Operation::GetState) | | 0, and [`VcpuState`] |
//! | vCPU | [`SetState`](Operation::SetState) | [`VcpuState`] | 0 |
//! | vCPU | [`Run`](Operation::Run) | [`RunPage::request`] | [`ExitRecord::reason`]; the record is in the [`RunPage`] |
//! | vCPU | [`Interrupt`](Operation::Interrupt) | | 0 |
//!
//! A process that holds a handle may use it from any of its threads. Only a superuser process can
//! open the hypervisor.
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
//! - *New*: the vCPU has no registers. `Run` and `GetState` return [`KernelError::NoState`].
//! - *Ready*: the vCPU may run on any CPU of the machine.
//! - *Running*: a thread of the monitor is in `Run`. Other threads may `Interrupt` the vCPU; every
//!   other operation returns [`KernelError::Busy`].
//! - *Ended*: the guest cannot continue. `GetState` returns the registers at the point where it
//!   stopped, `SetState` returns [`KernelError::Ended`], and `Run` returns the same exit again.
//!
//! `Run` returns for one of the reasons in [`Exit`]. [`Exit::Interrupted`] means that the host
//! required the CPU (for its own interrupts, the scheduler or a signal), or that a thread called
//! `Interrupt` or `Pause`. The monitor handles its own events and then runs the vCPU again. An
//! `Interrupt` of a vCPU that is not running stays pending and ends the next `Run` before the guest
//! executes an instruction. No `Interrupt` is ever lost.
//!
//! # The states of a VM
//!
//! A VM is *active* when it is created.
//!
//! `Pause` makes it *paused*: the vCPUs leave the guest, and `Run` returns [`KernelError::Paused`] until
//! `Resume`. `Pause` does not wait. It returns the number of vCPUs that have not left the guest yet
//! and may be called again; 0 means that no vCPU is in the guest. All vCPUs leave within one tick
//! of the host's clock. Pausing a paused VM has no further effect.
//!
//! `Destroy` makes the VM *destroyed*. The guest's memory is no longer pinned when `Destroy`
//! returns. Every later operation on the VM and its vCPUs returns [`KernelError::Destroyed`].
//!
//! Memory can change only while no vCPU of the VM runs: otherwise `Map`, `Unmap`, `Protect` and
//! `Destroy` return [`KernelError::Busy`]. A monitor with several threads pauses the VM first.
//!
//! A VM whose handle is closed exists until its last vCPU is closed. The exit of a process closes
//! all of its handles, and no part of a guest outlives its handles.
//!
//! # Memory
//!
//! Addresses and lengths are multiples of 4 KiB. The pages passed to `Map` must be private,
//! writable, anonymous memory of the caller. They stay pinned until they are unmapped from the
//! guest, even if the monitor unmaps them from its own address space or exits. Each page counts
//! against the user's limit ([`Capabilities::pinned_limit`]) once for every guest address at which
//! it is mapped.
//!
//! `Map`, `Unmap` and `Protect` do a bounded amount of work, at most [`Capabilities::map_step`]
//! bytes. Like `write`, they return the number of bytes processed, and the monitor calls again for
//! the remaining bytes. An error means that no byte was processed and nothing has changed.
//!
//! No page is both writable and executable: [`KernelError::WriteAndExecute`]. On hardware without
//! execute-only or write-only pages, read permission is added.
//!
//! # Stability
//!
//! Operations, errors and offsets never change their meaning. Later versions add operations and
//! errors, and use reserved fields and bits, which are 0 in this version. A kernel returns
//! [`KernelError::UnknownOperation`] for an operation that it does not implement, and
//! [`KernelError::BadArgument`] for a reserved bit that is not 0.

pub mod error;
pub mod exit;
pub mod operation;
pub mod redox;
pub mod run_page;
pub mod state;

pub use error::KernelError;
pub use exit::{Direction, EntryFailure, EntryField, Exit, ExitRecord, Io, MemoryViolation};
pub use operation::{Capabilities, MemoryMapping, MemoryRange, Obstacle, Operation, Technology};
pub use run_page::{Request, RunPage};
pub use state::{SegmentState, TableState, VcpuState};

/// Version of the interface described here, reported in [`Capabilities::version`].
pub const VERSION: u32 = 1;
