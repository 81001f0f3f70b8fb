//! Tests with valid and hostile rings.

use std::mem::offset_of;
use std::sync::{Arc, Mutex};

use hvt_abi::ring::{self, Ring};
use hvt_abi::{Gpa, GuestRange};
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::cancel::CancelToken;
use crate::device::{DeviceError, Doorbell, Slot};
use crate::memory::{GuestMemory, MappedMemory, Region};
use crate::ring::{Offer, SIZE, Worker, place, second_ends};

const MEMORY: u64 = 0x20_0000;
const DATA: u64 = 0x10_0000;
/// Handle of the only network device.
const NET: u32 = 1;

/// Sent frames, and received frames that the guest has not read yet.
#[derive(Default)]
struct Frames {
    sent: Vec<Vec<u8>>,
    arrived: Vec<Vec<u8>>,
}

/// Network device that stores sent frames and returns given frames.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Frames>>);

impl Wire {
    fn sent(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().sent.clone()
    }

    fn arrives(&self, frame: &[u8]) {
        self.0.lock().unwrap().arrived.push(frame.to_vec());
    }
}

impl Net for Wire {
    fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, 1]
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        let mut bytes = vec![0; frame.len() as usize];
        frame.read(&mut bytes);
        self.0.lock().unwrap().sent.push(bytes);
        Ok(())
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        let waiting = &mut self.0.lock().unwrap().arrived;
        if waiting.is_empty() {
            return Ok(None);
        }
        let frame = waiting.remove(0);
        into.write(&frame);
        Ok(Some(frame.len() as u64))
    }
}

/// Guest's end of a ring.
struct Guest {
    memory: MappedMemory,
    wire: Wire,
    tail: u32,
}

impl Guest {
    fn new() -> (Self, Service) {
        let guest = Self { memory: MappedMemory::anonymous(MEMORY + SIZE).unwrap(), wire: Wire::default(), tail: 0 };
        let queue = Queue::new(guest.memory.clone(), Gpa(MEMORY)).unwrap();
        let service = Service { queue, memory_map: memory_map(), devices: guest.devices() };
        (guest, service)
    }

    fn devices(&self) -> Vec<Option<Box<dyn Net + Send>>> {
        vec![None, Some(Box::new(self.wire.clone()))]
    }

    fn at(offset: usize) -> Gpa {
        Gpa(MEMORY + offset as u64)
    }

    fn word(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read(Self::at(offset), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn set_word(&self, offset: usize, value: u32) {
        self.memory.write(Self::at(offset), &value.to_le_bytes()).unwrap();
    }

    fn submit(&mut self, entry: Entry) {
        let slot = (self.tail & ring::MASK) as usize;
        let offset = offset_of!(Ring, entries) + slot * size_of::<Entry>();
        self.memory.write(Self::at(offset), entry.as_bytes()).unwrap();
        self.tail = self.tail.wrapping_add(1);
        self.set_word(offset_of!(Ring, ent_tail), self.tail);
    }

    fn commit(&self, number: u32) -> Commit {
        let mut commit = Commit::new_zeroed();
        let slot = (number & ring::MASK) as usize;
        let offset = offset_of!(Ring, commits) + slot * size_of::<Commit>();
        self.memory.read(Self::at(offset), commit.as_mut_bytes()).unwrap();
        commit
    }
}

fn memory_map() -> MemoryMap {
    let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
    let both = Permissions::READ | Permissions::WRITE;
    MemoryMap::new([region(0x1_0000, 0x1_1000, Permissions::READ), region(DATA, MEMORY, both)]).unwrap()
}

fn write(len: u32) -> Entry {
    Entry { operation: NET_WRITE, handle: NET, data: Gpa(DATA), len, id: 7, reserved: 0 }
}

fn read(len: u32) -> Entry {
    Entry { operation: NET_READ, ..write(len) }
}

#[test]
fn a_ring_lies_behind_memory() {
    assert_eq!(place(0x20_0000), Some(Gpa(0x20_0000)));
    assert_eq!(place(0x1_0000_0000), None, "pointers have 32 bits");
    let memory = MappedMemory::anonymous(MEMORY + SIZE).unwrap();
    for nowhere in [MEMORY + 8, MEMORY + 0x1000, MEMORY + SIZE, u64::MAX - 8] {
        assert!(Queue::new(memory.clone(), Gpa(nowhere)).is_none());
    }
}

#[test]
fn a_ring_is_offered_where_every_network_device_has_two_ends() {
    struct Twin(Wire);
    impl Net for Twin {
        fn mac(&self) -> [u8; 6] {
            self.0.mac()
        }
        fn mtu(&self) -> u16 {
            self.0.mtu()
        }
        fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
            self.0.send(frame)
        }
        fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
            self.0.receive(into)
        }
        fn second_end(&self) -> Option<Box<dyn Net + Send>> {
            Some(Box::new(self.0.clone()))
        }
    }
    let one = || Slot::Net(Box::new(Wire::default()));
    let two = || Slot::Net(Box::new(Twin(Wire::default())));
    let ends = |slots: &[Slot]| Some(second_ends(slots)?.iter().map(Option::is_some).collect::<Vec<_>>());
    assert_eq!(ends(&[Slot::Reserved]), None);
    assert_eq!(ends(&[Slot::Reserved, one()]), None);
    assert_eq!(ends(&[Slot::Reserved, two(), one()]), None);
    assert_eq!(ends(&[Slot::Reserved, two(), two()]), Some(vec![false, true, true]));
}

#[test]
fn frames_go_out_in_order_and_without_an_answer() {
    let (mut guest, mut service) = Guest::new();
    assert_eq!(service.serve(), Ok(0));
    for round in 0..3_000_u32 {
        guest.memory.write(Gpa(DATA), &round.to_le_bytes()).unwrap();
        guest.submit(write(60));
        assert_eq!(service.serve(), Ok(1));
        assert_eq!(guest.word(offset_of!(Ring, ent_head)), round + 1);
    }
    let sent = guest.wire.sent();
    assert!(sent.iter().zip(0_u32..).all(|(frame, round)| frame.len() == 60 && frame[..4] == round.to_le_bytes()));
    assert_eq!((sent.len(), guest.word(offset_of!(Ring, com_tail))), (3_000, 0));
}

#[test]
fn a_full_ring_is_served_at_once() {
    let (mut guest, mut service) = Guest::new();
    (0..ring::SIZE).for_each(|_| guest.submit(write(14)));
    assert_eq!(service.serve(), Ok(ring::SIZE as u64));
}

#[test]
fn short_frames_and_unknown_handles_are_not_sent() {
    let (mut guest, mut service) = Guest::new();
    guest.submit(write(13));
    guest.submit(write(0));
    for handle in [0, 2, 64, u32::MAX] {
        guest.submit(Entry { handle, ..write(60) });
    }
    assert_eq!((service.serve(), guest.wire.sent().len()), (Ok(6), 0));
}

#[test]
fn reads_are_answered() {
    let (mut guest, mut service) = Guest::new();
    guest.wire.arrives(&[1; 60]);
    guest.wire.arrives(&[2; 100]);
    for (entry, status, len) in [
        (read(1514), Status::Ok, 60),
        (Entry { id: 9, ..read(80) }, Status::Ok, 80),
        (read(1514), Status::Again, 1514),
        (Entry { handle: 5, ..read(60) }, Status::Invalid, 60),
    ] {
        let number = guest.word(offset_of!(Ring, com_tail));
        guest.submit(entry);
        assert_eq!(service.serve(), Ok(1));
        assert_eq!(guest.word(offset_of!(Ring, com_tail)), number + 1);
        assert_eq!(guest.commit(number), Commit { id: entry.id, ret: status as i32, len, reserved: 0 });
        guest.set_word(offset_of!(Ring, com_head), number + 1);
    }
}

#[test]
fn a_guest_that_takes_no_commits_is_stopped() {
    let (mut guest, mut service) = Guest::new();
    for _ in 0..ring::SIZE {
        guest.submit(read(60));
        assert_eq!(service.serve(), Ok(1));
    }
    guest.submit(read(60));
    assert_eq!(service.serve(), Err(RingError::Commits(ring::SIZE as u32)));
}

#[test]
fn invalid_submissions_are_errors() {
    for (entry, error) in [
        (Entry { operation: 0, ..write(60) }, "unknown operation 0"),
        (Entry { operation: 3, ..write(60) }, "unknown operation 3"),
        (write(2049), "a buffer of 2049 bytes exceeds 2048"),
        (Entry { data: Gpa(0x8000), ..write(60) }, "0x3c bytes at guest address 0x8000, which the guest may not read"),
        (
            Entry { data: Gpa(MEMORY - 4), ..write(60) },
            "0x3c bytes at guest address 0x1ffffc, which the guest may not read",
        ),
        (
            Entry { data: Gpa(u64::MAX), ..write(60) },
            "0x3c bytes at guest address 0xffffffffffffffff, which the guest may not read",
        ),
        (
            Entry { data: Gpa(0x1_0000), ..read(60) },
            "0x3c bytes at guest address 0x10000, which the guest may not write",
        ),
    ] {
        let (mut guest, mut service) = Guest::new();
        guest.submit(entry);
        assert_eq!(service.serve().unwrap_err().to_string(), error);
        assert!(guest.wire.sent().is_empty());
    }
}

#[test]
fn a_thread_serves_what_comes_and_all_of_it_before_it_ends() {
    let (mut guest, _) = Guest::new();
    let offer = Offer::new(guest.memory.clone(), Gpa(MEMORY), guest.devices()).unwrap();
    let (doorbell, stop) = (offer.doorbell().clone(), CancelToken::new().unwrap());
    let worker = Worker::start(offer, memory_map(), stop.clone(), None).unwrap();
    for sent in 1..=500 {
        guest.submit(write(60));
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if guest.word(offset_of!(Ring, needs_kick)) != 0 {
            doorbell.ring();
        }
        // Give the thread time to go to sleep after every 100 frames.
        while sent % 100 == 0 && guest.word(offset_of!(Ring, ent_head)) < sent {
            std::thread::yield_now();
        }
    }
    let counts = worker.end().unwrap();
    assert_eq!((counts.submissions, guest.wire.sent().len()), (500, 500));
    assert!((1..=500).contains(&counts.kicks), "{counts:?}");
    assert!(!stop.requested());
}

#[test]
fn a_thread_ends_the_run_of_a_guest_that_breaks_its_ring() {
    let (guest, _) = Guest::new();
    let offer = Offer::new(guest.memory.clone(), Gpa(MEMORY), guest.devices()).unwrap();
    let (doorbell, stop) = (offer.doorbell().clone(), CancelToken::new().unwrap());
    let worker = Worker::start(offer, memory_map(), stop.clone(), None).unwrap();
    guest.set_word(offset_of!(Ring, ent_tail), 5_000);
    doorbell.ring();
    while !stop.requested() {
        std::thread::yield_now();
    }
    assert_eq!(worker.end(), Err(RingError::Submissions(5_000)));
}

proptest! {
    /// With any content of the ring, serving it does not panic and writes only to the buffers of
    /// reads, the commits, and the tender's cache line.
    #[test]
    fn a_hostile_ring_harms_only_its_guest(
        bytes in prop::collection::vec(any::<u8>(), size_of::<Entry>() * 16),
        operations in prop::collection::vec(0_u32..4, 16),
        lens in prop::collection::vec(prop_oneof![0_u32..2100, any::<u32>()], 16),
        data in prop::collection::vec(prop_oneof![DATA - 64..MEMORY + SIZE + 64, any::<u64>()], 16),
        indices in prop::collection::vec(prop_oneof![0_u32..20, any::<u32>()], 5),
    ) {
        let (guest, mut service) = Guest::new();
        guest.wire.arrives(&[0xee; 3_000]);
        guest.memory.write(Guest::at(offset_of!(Ring, entries)), &bytes).unwrap();
        for slot in 0..16 {
            let entry = offset_of!(Ring, entries) + slot * size_of::<Entry>();
            guest.set_word(entry, operations[slot]);
            guest.set_word(entry + offset_of!(Entry, handle), slot as u32 % 3);
            guest.set_word(entry + offset_of!(Entry, len), lens[slot]);
            guest.memory.write(Guest::at(entry + offset_of!(Entry, data)), &data[slot].to_le_bytes()).unwrap();
        }
        let fields = [
            offset_of!(Ring, ent_tail), offset_of!(Ring, com_head), offset_of!(Ring, ent_head),
            offset_of!(Ring, com_tail), offset_of!(Ring, needs_kick),
        ];
        fields.iter().zip(&indices).for_each(|(offset, value)| guest.set_word(*offset, *value));
        let result = service.serve();
        if let Ok(served) = result {
            prop_assert!(served <= ring::SIZE as u64);
        }
        let mut below = vec![0; DATA as usize];
        guest.memory.read(Gpa(0), &mut below).unwrap();
        prop_assert!(below.iter().all(|byte| *byte == 0), "memory that the guest may not write");
    }
}
