//! The network ring: frames between guest and tender without a hypercall each.
//!
//! One page-aligned [`Ring`] lies outside the guest's `mem_size`. The guest submits [`Entry`]s, the tender answers with
//! [`Commit`]s. All indices run freely and are masked with [`MASK`] when used. Each side writes only its own cache
//! line, and trusts nothing in the other's.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Gpa;

/// Number of the network ring, as a kick tells it.
pub const NET_RING: u32 = 0;
/// `HVT_RING_SIZE`: slots of either direction.
pub const SIZE: usize = 1024;
/// Turns a free-running index into a slot.
pub const MASK: u32 = SIZE as u32 - 1;
/// `HVT_RING_BUF_SIZE`: largest frame in bytes that goes through the ring; larger ones go by hypercall.
pub const BUFFER_SIZE: usize = 2048;

/// [`Entry::operation`]: send a frame. No commit follows.
pub const NET_WRITE: u32 = 1;
/// [`Entry::operation`]: receive a frame into the buffer. A commit follows.
pub const NET_READ: u32 = 2;

/// `struct hvt_ring_entry`: a submission, written by the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// [`NET_WRITE`] or [`NET_READ`].
    pub operation: u32,
    /// Index of the device in the manifest.
    pub handle: u32,
    /// The buffer.
    pub data: Gpa,
    /// Its length in bytes.
    pub len: u32,
    /// Chosen by the guest, repeated in the commit.
    pub id: u32,
    /// Zero.
    pub reserved: u64,
}

/// `struct hvt_ring_commit`: an answer, written by the tender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Commit {
    /// [`Entry::id`] of the submission.
    pub id: u32,
    /// A [`Status`](crate::hypercall::Status).
    pub ret: i32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
}

/// `struct hvt_ring`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Ring {
    /// Written by the guest: submissions made.
    pub ent_tail: u32,
    /// Written by the guest: commits taken.
    pub com_head: u32,
    /// Rest of the guest's cache line.
    pub pad0: [u8; 56],
    /// Written by the tender: submissions taken.
    pub ent_head: u32,
    /// Written by the tender: commits made.
    pub com_tail: u32,
    /// Written by the tender: not 0 when it sleeps and wants a kick.
    pub needs_kick: u32,
    /// Rest of the tender's cache line.
    pub pad1: [u8; 52],
    /// Submissions.
    pub entries: [Entry; SIZE],
    /// Commits.
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
