//! Transmit side of the network ring in the guest. Frames are sent without a hypercall per frame,
//! in the order of the writes. Frames are received by hypercall.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering, fence};

use hvt_abi::boot_info::Features;
use hvt_abi::hypercall::FRAME_HEADER_SIZE;
use hvt_abi::ring::{BUFFER_SIZE, Entry, MASK, NET_RING, NET_WRITE, Ring};
use hvt_abi::{BOOT_INFO_BASE, BootInfo, Gpa};

use crate::device::Handle;
use crate::one_cpu::OneCpu;
use crate::{arch, boot};

/// Maximum number of frames that the tender has not taken yet. Each slot has a buffer.
const SLOTS: usize = 32;

/// Returns the address of the ring that the tender offers, or `None`.
///
/// A tender that predates the ring writes the first 40 bytes of the structure, followed by the
/// manifest.
pub(crate) fn offered(boot: &BootInfo) -> Option<usize> {
    let end = BOOT_INFO_BASE.0 + size_of::<BootInfo>() as u64;
    let knows = boot.mft.0 >= end && boot.cmdline.0 >= end;
    let offers = Features::from_bits_retain(boot.host_features).contains(Features::RING_IO);
    (knows && offers && boot.net_ring != Gpa(0)).then_some(boot.net_ring.0 as usize)
}

/// Sends a frame through the ring. Returns `false` if the frame must be sent by hypercall because
/// there is no ring or the ring does not accept its length. In the latter case the tender has
/// already taken all earlier frames.
pub(crate) fn send(handle: Handle, frame: &[u8]) -> bool {
    static BUFFERS: Buffers = OneCpu::new(UnsafeCell::new([[0; BUFFER_SIZE]; SLOTS]));
    static TAIL: OneCpu<Cell<u32>> = OneCpu::new(Cell::new(0));
    static KICKED: OneCpu<Cell<u32>> = OneCpu::new(Cell::new(0));

    let Some(ring) = boot::ring().and_then(|address| NonNull::new(ptr::with_exposed_provenance_mut(address))) else {
        return false;
    };
    let end = End { ring, buffers: &BUFFERS, tail: &TAIL, kicked: &KICKED, kick: || arch::kick_ring(NET_RING) };
    if (FRAME_HEADER_SIZE as usize..=BUFFER_SIZE).contains(&frame.len()) {
        end.submit(handle, frame);
        true
    } else {
        end.drain();
        false
    }
}

type Buffers = OneCpu<UnsafeCell<[[u8; BUFFER_SIZE]; SLOTS]>>;

/// The guest's side of a ring.
struct End<'e, K> {
    /// The ring, which is shared with the tender for the lifetime of the guest.
    ring: NonNull<Ring>,
    buffers: &'e Buffers,
    /// Number of submissions made.
    tail: &'e Cell<u32>,
    /// Number of submissions made at the time of the last kick.
    kicked: &'e Cell<u32>,
    kick: K,
}

impl<K: Fn()> End<'_, K> {
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: The word lies in the ring, which is page-aligned, and both sides access it
        // atomically.
        unsafe { AtomicU32::from_ptr(self.ring.as_ptr().byte_add(offset).cast()) }
    }

    /// Returns the number of submissions that the tender has not taken yet.
    fn waiting(&self) -> u32 {
        self.tail.get().wrapping_sub(self.word(offset_of!(Ring, ent_head)).load(Ordering::Acquire))
    }

    /// Copies the frame to the buffer of a slot and submits it.
    fn submit(&self, handle: Handle, frame: &[u8]) {
        self.wait_until(|waiting| (waiting as usize) < SLOTS);
        let tail = self.tail.get();
        // SAFETY: The index is masked to the length of the array.
        let buffer: *mut [u8; BUFFER_SIZE] =
            unsafe { self.buffers.get().cast::<[u8; BUFFER_SIZE]>().add(tail as usize % SLOTS) };
        // SAFETY: The tender no longer uses the buffer, because it has taken the buffer's previous
        // submission, `SLOTS` submissions ago. Only this function writes the buffer, and it is not
        // reentrant.
        let buffer = unsafe { &mut (&mut *buffer)[..frame.len()] };
        buffer.copy_from_slice(frame);
        let data = Gpa(buffer.as_mut_ptr().expose_provenance() as u64);
        let (operation, handle, len) = (NET_WRITE, handle.number() as u32, frame.len() as u32);
        let entry = Entry { operation, handle, data, len, id: tail, reserved: 0 };
        // SAFETY: The slot lies in the ring and belongs to the guest, because fewer than `SLOTS`
        // submissions are waiting.
        unsafe {
            let entries: *mut Entry = self.ring.as_ptr().byte_add(offset_of!(Ring, entries)).cast();
            entries.add((tail & MASK) as usize).write_volatile(entry);
        }
        self.tail.set(tail.wrapping_add(1));
        self.word(offset_of!(Ring, ent_tail)).store(self.tail.get(), Ordering::Release);
        // Either the tender sees the submission before it sleeps, or the load below sees the kick
        // request.
        fence(Ordering::SeqCst);
        self.kick_if_wanted();
    }

    /// Waits until the tender has taken all submissions.
    fn drain(&self) {
        self.wait_until(|waiting| waiting == 0);
    }

    fn wait_until(&self, enough: impl Fn(u32) -> bool) {
        /// Number of spins between two kicks. The tender does not sleep while a submission is
        /// waiting. If the tender shares this CPU, however, the kick allows it to run.
        const TURNS: u32 = 1024;
        let mut turns = 0_u32;
        while !enough(self.waiting()) {
            core::hint::spin_loop();
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS) {
                (self.kick)();
            }
        }
    }

    /// Kicks the tender if it requests a kick and has taken the submission of the last kick. Until
    /// then, the last kick answers the request: the tender is awake and checks the ring again
    /// before it sleeps. A tender that shares this CPU may need a long time to do so.
    fn kick_if_wanted(&self) {
        let wanted = self.word(offset_of!(Ring, needs_kick)).load(Ordering::Relaxed) != 0;
        // The submissions of the last kick have been taken if at most as many are waiting as were
        // submitted since.
        let since = self.tail.get().wrapping_sub(self.kicked.get());
        if wanted && self.waiting() <= since {
            self.kicked.set(self.tail.get());
            (self.kick)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::boxed::Box;
    use std::vec::Vec;

    use zerocopy::FromZeros;

    fn info(mft: u64, host_features: u32, net_ring: u64) -> BootInfo {
        let (mft, cmdline) = (Gpa(mft), Gpa(0x1_1000));
        BootInfo { mft, cmdline, host_features, net_ring: Gpa(net_ring), ..BootInfo::default() }
    }

    #[test]
    fn a_ring_is_used_if_the_tender_offers_one() {
        assert_eq!(offered(&info(0x1_0038, 1, 0x20_0000)), Some(0x20_0000));
        assert_eq!(offered(&info(0x1_0038, 0, 0x20_0000)), None);
        assert_eq!(offered(&info(0x1_0038, 1, 0)), None);
        // The features field overlaps the version of a manifest.
        assert_eq!(offered(&info(0x1_0028, 1, 0x20_0000)), None);
    }

    #[test]
    fn waiting_submissions_get_one_kick() {
        let mut ring: Box<Ring> = Box::new(Ring::new_zeroed());
        let ring = NonNull::from(&mut *ring);
        let buffers: Box<Buffers> = Box::new(OneCpu::new(UnsafeCell::new([[0; BUFFER_SIZE]; SLOTS])));
        let (tail, kicked, kicks) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let kick = || kicks.set(kicks.get() + 1);
        let end = End { ring, buffers: &buffers, tail: &tail, kicked: &kicked, kick };
        let head = end.word(offset_of!(Ring, ent_head));
        end.word(offset_of!(Ring, needs_kick)).store(1, Ordering::Relaxed);
        // The kick for the first submission is pending until that submission has been taken.
        for (taken, expected) in [(0, 1), (0, 1), (0, 1), (1, 2), (3, 2), (4, 3), (6, 4), (6, 4)] {
            head.store(taken, Ordering::Relaxed);
            end.submit(Handle(1), &[0; 60]);
            assert_eq!(kicks.get(), expected, "{} submitted, {taken} taken", tail.get());
        }
    }

    #[test]
    fn frames_are_submitted_in_order_and_kicks_made_when_wanted() {
        let mut ring: Box<Ring> = Box::new(Ring::new_zeroed());
        let ring = NonNull::from(&mut *ring);
        let buffers: Box<Buffers> = Box::new(OneCpu::new(UnsafeCell::new([[0; BUFFER_SIZE]; SLOTS])));
        let (tail, kicked, kicks) = (Cell::new(u32::MAX), Cell::new(u32::MAX), Cell::new(0));
        let end = End { ring, buffers: &buffers, tail: &tail, kicked: &kicked, kick: || kicks.set(kicks.get() + 1) };
        let word = |offset| end.word(offset);
        word(offset_of!(Ring, ent_head)).store(u32::MAX, Ordering::Relaxed);
        for number in 0..3 * SLOTS as u32 {
            word(offset_of!(Ring, needs_kick)).store(u32::from(number.is_multiple_of(3)), Ordering::Relaxed);
            let frame: Vec<u8> = (0..14 + number as usize).map(|byte| byte as u8 ^ number as u8).collect();
            end.submit(Handle(2), &frame);
            let last = number.wrapping_sub(1);
            assert_eq!(word(offset_of!(Ring, ent_tail)).load(Ordering::Relaxed), number);
            // SAFETY: The ring lives until the end of the test, and no other code writes to it.
            let entry = unsafe { (&raw const (*ring.as_ptr()).entries[(last & MASK) as usize]).read() };
            assert_eq!((entry.operation, entry.handle, entry.id), (NET_WRITE, 2, last));
            // SAFETY: The address and length describe the buffer of the submission.
            let data = unsafe {
                core::slice::from_raw_parts(
                    ptr::with_exposed_provenance::<u8>(entry.data.0 as usize),
                    entry.len as usize,
                )
            };
            assert_eq!(data, frame);
            assert_eq!(end.waiting(), 1);
            word(offset_of!(Ring, ent_head)).store(number, Ordering::Relaxed);
        }
        assert_eq!(kicks.get(), SLOTS as u32);
        end.drain();
    }
}
