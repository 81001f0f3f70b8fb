//! The tender's end of the network ring: frames that the guest sends without a hypercall each.
//!
//! The guest writes submissions into a [ring](hvt_abi::ring) in memory that both share; a thread of the tender's takes
//! them out, sends or receives the frames, and answers. While that thread is awake the guest need not leave its CPU.
//! Before it sleeps it says so in the ring, and the guest then *kicks* it: an `out` that KVM turns into a wake-up
//! without ending the run (ioeventfd), or that the [monitor](crate::monitor) passes on.
//!
//! | file | what it does |
//! |---|---|
//! | `end` | indices and the way to sleep: what the two ends must agree on, proven with `loom` |
//! | `queue` | submissions and commits in guest memory |
//! | `service` | what a submission asks for, done on network devices |
//! | `worker` | the thread: spins, sleeps, ends |
//!
//! Nothing in the ring is trusted. A submission is copied once, and its buffer is checked as that of a hypercall; what a
//! guest may not do ends the guest with an [`RingError`]. It can lose its own frames and waste its own time, and that is all.
//!
//! A ring is offered to guests whose network devices all can be used [from two threads](crate::device::Net::second_end),
//! by backends that [gain by it](crate::backend::auto::Backend::gains_by_rings), on hosts with a CPU to spare for the second
//! one. Guests that know nothing of it use hypercalls.

mod end;
mod queue;
mod service;
mod worker;

use hvt_abi::ring::Ring;
use hvt_abi::{Gpa, MEM_MAX, PAGE_SIZE};

pub use hvt_core::ring::RingError;
pub use worker::{Counts, Offer, RingDoorbell, Worker};

use crate::device::{Net, Slot};

/// Bytes of guest memory that a ring takes, behind the memory that the guest knows of.
pub const SIZE: u64 = (size_of::<Ring>() as u64).next_multiple_of(PAGE_SIZE);

/// Where the ring of a guest with so many bytes of memory lies, if there is room for one.
#[must_use]
pub fn place(mem_size: u64) -> Option<Gpa> {
    (mem_size <= MEM_MAX - SIZE).then_some(Gpa(mem_size))
}

/// Whether a ring is of any use to a guest with these devices.
#[must_use]
pub fn has_use(slots: &[Slot]) -> bool {
    slots.iter().any(|slot| matches!(slot, Slot::Net(_)))
}

/// Second ends of all network devices among these, by handle; `None` where there are no network devices, or one that
/// cannot be used from two threads.
#[must_use]
pub fn second_ends(slots: &[Slot]) -> Option<Vec<Option<Box<dyn Net + Send>>>> {
    let second_end = |slot: &Slot| match slot {
        Slot::Net(device) => device.second_end().map(Some),
        Slot::Block(_) | Slot::Reserved => Some(None),
    };
    let ends: Vec<_> = slots.iter().map(second_end).collect::<Option<_>>()?;
    ends.iter().any(Option::is_some).then_some(ends)
}
