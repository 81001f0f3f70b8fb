//! The guest's end of the network ring, for sending: frames go out without a hypercall each, in the order in which they
//! were written. Frames come in by hypercall.

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

/// Frames that may be on their way to the tender at once. Each has a buffer.
const SLOTS: usize = 32;

/// The address of the ring that the tender offers, if it does.
///
/// A tender from before there were rings writes the first 40 bytes of the structure, and then the manifest.
pub(crate) fn offered(boot: &BootInfo) -> Option<usize> {
    let end = BOOT_INFO_BASE.0 + size_of::<BootInfo>() as u64;
    let knows = boot.mft.0 >= end && boot.cmdline.0 >= end;
    let offers = Features::from_bits_retain(boot.host_features).contains(Features::RING_IO);
    (knows && offers && boot.net_ring != Gpa(0)).then_some(boot.net_ring.0 as usize)
}

/// Sends a frame by the ring. `false` where it must go by hypercall: there is no ring, or it takes no such frame. What
/// was sent before has been taken by the tender then.
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

/// The guest's end of a ring.
struct End<'e, K> {
    /// The ring: shared with the tender for as long as the guest lives.
    ring: NonNull<Ring>,
    buffers: &'e Buffers,
    /// Submissions made.
    tail: &'e Cell<u32>,
    /// Submissions made when the last kick was.
    kicked: &'e Cell<u32>,
    kick: K,
}

impl<K: Fn()> End<'_, K> {
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: The word lies in the ring, which is page aligned, and is accessed atomically by either end.
        unsafe { AtomicU32::from_ptr(self.ring.as_ptr().byte_add(offset).cast()) }
    }

    /// Submissions that the tender has not yet taken.
    fn waiting(&self) -> u32 {
        self.tail.get().wrapping_sub(self.word(offset_of!(Ring, ent_head)).load(Ordering::Acquire))
    }

    /// Copies the frame into the buffer of a slot, and submits it.
    fn submit(&self, handle: Handle, frame: &[u8]) {
        self.wait_until(|waiting| (waiting as usize) < SLOTS);
        let tail = self.tail.get();
        // SAFETY: The buffer lies in the array.
        let buffer: *mut [u8; BUFFER_SIZE] =
            unsafe { self.buffers.get().cast::<[u8; BUFFER_SIZE]>().add(tail as usize % SLOTS) };
        // SAFETY: The tender is done with the buffer: it has taken the submission that used it before, `SLOTS` ago. Only
        // this function writes it, and it is not reentered.
        let buffer = unsafe { &mut (&mut *buffer)[..frame.len()] };
        buffer.copy_from_slice(frame);
        let data = Gpa(buffer.as_mut_ptr().expose_provenance() as u64);
        let (operation, handle, len) = (NET_WRITE, handle.number() as u32, frame.len() as u32);
        let entry = Entry { operation, handle, data, len, id: tail, reserved: 0 };
        // SAFETY: The slot lies in the ring, and is the guest's: less than `SLOTS` others are waiting.
        unsafe {
            let entries: *mut Entry = self.ring.as_ptr().byte_add(offset_of!(Ring, entries)).cast();
            entries.add((tail & MASK) as usize).write_volatile(entry);
        }
        self.tail.set(tail.wrapping_add(1));
        self.word(offset_of!(Ring, ent_tail)).store(self.tail.get(), Ordering::Release);
        // Either the tender sees the submission before it sleeps, or this sees that it wants a kick.
        fence(Ordering::SeqCst);
        self.kick_if_wanted();
    }

    /// Waits until the tender has taken everything.
    fn drain(&self) {
        self.wait_until(|waiting| waiting == 0);
    }

    fn wait_until(&self, enough: impl Fn(u32) -> bool) {
        /// Turns between two looks at whether the tender has gone to sleep. It does not while anything is waiting, but
        /// where it shares this CPU a kick lets it run.
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

    /// A wish that stands while the submission of the last kick has not been taken is the one which that kick answers:
    /// the tender is on its way, and looks again before it sleeps. It may be long on its way, where it shares this CPU.
    fn kick_if_wanted(&self) {
        let wanted = self.word(offset_of!(Ring, needs_kick)).load(Ordering::Relaxed) != 0;
        // Those that the last kick was for have been taken where no more are waiting than have been submitted since.
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
    fn a_ring_is_used_where_the_tender_knows_of_rings_and_offers_one() {
        assert_eq!(offered(&info(0x1_0038, 1, 0x20_0000)), Some(0x20_0000));
        assert_eq!(offered(&info(0x1_0038, 0, 0x20_0000)), None);
        assert_eq!(offered(&info(0x1_0038, 1, 0)), None);
        // What is read as its features is the version of a manifest.
        assert_eq!(offered(&info(0x1_0028, 1, 0x20_0000)), None);
    }

    #[test]
    fn a_kick_is_made_once_for_what_waits() {
        let mut ring: Box<Ring> = Box::new(Ring::new_zeroed());
        let ring = NonNull::from(&mut *ring);
        let buffers: Box<Buffers> = Box::new(OneCpu::new(UnsafeCell::new([[0; BUFFER_SIZE]; SLOTS])));
        let (tail, kicked, kicks) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let kick = || kicks.set(kicks.get() + 1);
        let end = End { ring, buffers: &buffers, tail: &tail, kicked: &kicked, kick };
        let head = end.word(offset_of!(Ring, ent_head));
        end.word(offset_of!(Ring, needs_kick)).store(1, Ordering::Relaxed);
        // The kick for the first is on its way until the first has been taken.
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
            // SAFETY: The ring lives until the end of the test, and nobody else writes.
            let entry = unsafe { (&raw const (*ring.as_ptr()).entries[(last & MASK) as usize]).read() };
            assert_eq!((entry.operation, entry.handle, entry.id), (NET_WRITE, 2, last));
            // SAFETY: The buffer is that of the submission.
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
