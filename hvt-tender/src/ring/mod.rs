//! Tender's end of the network ring, with which a guest sends and receives frames without a
//! hypercall per frame.
//!
//! The guest writes submissions into a [ring](hvt_abi::ring) in shared memory. A thread of the
//! tender removes the submissions, sends or receives the frames, and writes commits. While the
//! thread is awake, the guest need not leave its CPU. Before the thread sleeps, it sets a flag in
//! the ring, and the guest then *kicks* it: an `out` instruction that KVM turns into a wakeup
//! without an exit to user space (ioeventfd), or that the [monitor](crate::monitor) forwards.
//!
//! | file | content |
//! |---|---|
//! | `end` | indices and the sleep protocol between the two ends, checked with `loom` |
//! | `queue` | submissions and commits in guest memory |
//! | `service` | execution of submissions on network devices |
//! | `worker` | the thread: spins, sleeps, ends |
//!
//! The content of the ring is untrusted. Each submission is copied once, and its buffer is checked
//! like the buffer of a hypercall. An invalid submission ends the guest with a [`RingError`]. A
//! guest can lose only its own frames and waste only its own time.
//!
//! A ring is offered if all network devices of the guest can be used
//! [from two threads](crate::device::Net::second_end), if the backend sends faster through a ring
//! than by hypercalls, and if the host has a CPU for the second thread. Guests without ring support use hypercalls.

mod end;
mod queue;
mod service;
mod worker;

use hvt_abi::ring::Ring;
use hvt_abi::{Gpa, MEM_MAX, PAGE_SIZE};

pub(crate) use hvt_core::ring::RingError;
pub(crate) use worker::{Counts, Offer, RingDoorbell, Worker};

use crate::device::{Net, Slot};

/// Size of a ring in bytes. It lies behind the memory size that the guest is given.
pub(crate) const SIZE: u64 = (size_of::<Ring>() as u64).next_multiple_of(PAGE_SIZE);

/// Returns the guest-physical address of the ring for a guest with `mem_size` bytes of memory, or
/// `None` if it would exceed the maximum memory size.
#[must_use]
pub(crate) fn place(mem_size: u64) -> Option<Gpa> {
    (mem_size <= MEM_MAX - SIZE).then_some(Gpa(mem_size))
}

/// Returns whether a guest with these devices can use a ring.
#[must_use]
pub(crate) fn has_use(slots: &[Slot]) -> bool {
    slots.iter().any(|slot| matches!(slot, Slot::Net(_)))
}

/// Returns the second ends of all network devices by handle. Returns `None` if there is no network
/// device, or if one of them cannot be used from two threads.
#[must_use]
pub(crate) fn second_ends(slots: &[Slot]) -> Option<Vec<Option<Box<dyn Net + Send>>>> {
    let second_end = |slot: &Slot| match slot {
        Slot::Net(device) => device.second_end().map(Some),
        Slot::Block(_) | Slot::Reserved => Some(None),
    };
    let ends: Vec<_> = slots.iter().map(second_end).collect::<Option<_>>()?;
    ends.iter().any(Option::is_some).then_some(ends)
}
