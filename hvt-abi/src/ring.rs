//! The network ring: a shared-memory queue for frames that needs no hypercall per frame.
//!
//! One page-aligned [`Ring`] lies outside the guest's `mem_size` bytes of memory. The guest submits
//! [`Entry`] structures, and the tender replies with [`Commit`] structures. Indices are
//! free-running and are masked with [`MASK`] on use. Each side writes only its own cache line and
//! treats the other cache line as untrusted.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Gpa;

/// Number of the network ring. The guest passes it in a kick.
pub const NET_RING: u32 = 0;
/// `HVT_RING_SIZE`: number of slots in each direction.
pub const SIZE: usize = 1024;
/// Mask that converts a free-running index to a slot number.
pub const MASK: u32 = SIZE as u32 - 1;
/// `HVT_RING_BUF_SIZE`: largest frame in bytes that the ring carries. Larger frames require a
/// hypercall.
pub const BUFFER_SIZE: usize = 2048;

/// [`Entry::operation`]: send a frame. The tender returns no commit.
pub const NET_WRITE: u32 = 1;
/// [`Entry::operation`]: receive a frame into the buffer. The tender returns a commit.
pub const NET_READ: u32 = 2;

/// `struct hvt_ring_entry`: a submission, written by the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// Operation: [`NET_WRITE`] or [`NET_READ`].
    pub operation: u32,
    /// Handle: index of the device's entry in the manifest.
    pub handle: u32,
    /// Address of the buffer.
    pub data: Gpa,
    /// Length of the buffer in bytes.
    pub len: u32,
    /// Identifier that the guest chooses. The commit repeats it.
    pub id: u32,
    /// Reserved; zero.
    pub reserved: u64,
}

/// `struct hvt_ring_commit`: a completion, written by the tender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Commit {
    /// [`Entry::id`] of the submission.
    pub id: u32,
    /// Result of the operation: a [`Status`](crate::hypercall::Status).
    pub ret: i32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// Reserved; zero.
    pub reserved: u32,
}

/// `struct hvt_ring`: the ring as it lies in shared memory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Ring {
    /// Number of submissions made, written by the guest.
    pub ent_tail: u32,
    /// Number of commits consumed, written by the guest.
    pub com_head: u32,
    /// Padding to the end of the guest's cache line.
    pub pad0: [u8; 56],
    /// Number of submissions consumed, written by the tender.
    pub ent_head: u32,
    /// Number of commits made, written by the tender.
    pub com_tail: u32,
    /// Non-zero while the tender sleeps and requires a kick, written by the tender.
    pub needs_kick: u32,
    /// Padding to the end of the tender's cache line.
    pub pad1: [u8; 52],
    /// Submission slots.
    pub entries: [Entry; SIZE],
    /// Commit slots.
    pub commits: [Commit; SIZE],
}

const _: () = {
    assert!(SIZE.is_power_of_two());
    assert!(size_of::<Entry>() == 32 && offset_of!(Entry, data) == 8 && offset_of!(Entry, id) == 20);
    assert!(size_of::<Commit>() == 16);
    assert!(offset_of!(Ring, ent_head) == 64 && offset_of!(Ring, needs_kick) == 72);
    assert!(offset_of!(Ring, entries) == 128);
    assert!(offset_of!(Ring, commits) == 128 + SIZE * size_of::<Entry>());
    assert!(size_of::<Ring>() == 128 + SIZE * (size_of::<Entry>() + size_of::<Commit>()));
};
