use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use hvt_abi::GuestRange;
use hvt_abi::hypercall::{BlockIo, NetIo};
use proptest::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::*;
use crate::device::fake::Fake;
use crate::memory::fake::FakeMemory;
use crate::memory::{GuestMemory, MemoryMap, Region};

/// Size of the guest's memory. Its first page is not mapped, the second is read-only, the third
/// execute-only, all others are writable.
const SIZE: u64 = 0x8000;
const READ_ONLY: u64 = 0x1000;
const CODE: u64 = 0x2000;
const WRITABLE: Range<u64> = 0x3000..SIZE;
/// Guest addresses of arguments and data in the tests.
const ARGUMENT: u64 = 0x3ff0;
const DATA: u64 = 0x4ff8;

struct Guest {
    memory: FakeMemory,
    memory_map: MemoryMap,
    fake: Fake,
}

impl Guest {
    fn new() -> Self {
        let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
        let memory_map = MemoryMap::new([
            region(READ_ONLY, CODE, Permissions::READ),
            region(CODE, WRITABLE.start, Permissions::EXECUTE),
            region(WRITABLE.start, WRITABLE.end, Permissions::READ | Permissions::WRITE),
        ]);
        // Piece boundaries lie inside the argument and inside the data.
        let memory = FakeMemory::new(SIZE, &[0x3ff3, 0x3ffc, 0x4000, 0x4fff, 0x5001]);
        Self { memory, memory_map: memory_map.unwrap(), fake: Fake::new() }
    }

    fn serve(&self, number: u32, argument: u64) -> Result<Flow, HypercallError> {
        serve(number, Gpa(argument), &GuestSpace::new(&self.memory, &self.memory_map), &mut self.fake.devices())
    }

    /// Serves a call with this argument, which must succeed, and returns the argument afterwards.
    fn call<T: IntoBytes + FromBytes + Immutable>(&self, number: Number, argument: &T) -> T {
        self.memory.write(Gpa(ARGUMENT), argument.as_bytes()).unwrap();
        assert_eq!(self.serve(number as u32, ARGUMENT), Ok(Flow::Continue));
        T::read_from_bytes(&self.memory.bytes(ARGUMENT, size_of::<T>())).unwrap()
    }

    /// Message that ends a guest that makes a call with this argument. Its memory must stay
    /// unchanged.
    fn stopped<T: IntoBytes + Immutable>(&self, number: Number, argument: &T) -> alloc::string::String {
        self.memory.write(Gpa(ARGUMENT), argument.as_bytes()).unwrap();
        let before = self.memory.snapshot();
        let error = self.serve(number as u32, ARGUMENT).unwrap_err();
        assert_eq!(self.memory.snapshot(), before);
        error.to_string()
    }

    fn block(&self, number: Number, handle: u64, offset: u64, len: u64) -> i32 {
        let io = BlockIo { handle, offset, data: Gpa(DATA), len, ret: -1, reserved: 7 };
        let after = self.call(number, &io);
        assert_eq!((after.handle, after.offset, after.data, after.len), (handle, offset, Gpa(DATA), len));
        assert_eq!(after.reserved, 7);
        after.ret
    }

    fn net(&self, number: Number, handle: u64, len: u64) -> (i32, u64) {
        let io = NetIo { handle, data: Gpa(DATA), len, ret: -1, reserved: 7 };
        let after = self.call(number, &io);
        assert_eq!((after.handle, after.data, after.reserved), (handle, Gpa(DATA), 7));
        (after.ret, after.len)
    }
}

const OK: i32 = 0;
const AGAIN: i32 = 1;
const INVALID: i32 = 2;
const UNSPECIFIED: i32 = 3;

#[test]
fn walltime_is_the_clocks() {
    let guest = Guest::new();
    assert_eq!(guest.call(Number::Walltime, &Walltime::default()).nsecs, guest.fake.0.borrow().now);
}

#[test]
fn puts_reaches_the_console_whole() {
    let guest = Guest::new();
    guest.memory.write(Gpa(DATA), b"Hello, World\n").unwrap();
    guest.call(Number::Puts, &Puts { data: Gpa(DATA), len: 13 });
    assert_eq!(guest.fake.0.borrow().console, b"Hello, World\n");
    for data in [READ_ONLY, CODE] {
        guest.call(Number::Puts, &Puts { data: Gpa(data), len: 0x1000 });
    }
    assert_eq!(guest.fake.0.borrow().console.len(), 13 + 0x2000);
}

#[test]
fn puts_of_nothing_writes_nothing() {
    let guest = Guest::new();
    for data in [0, 1, READ_ONLY, SIZE] {
        guest.call(Number::Puts, &Puts { data: Gpa(data), len: 0 });
    }
    assert_eq!(guest.fake.0.borrow().console_calls, 0);
}

#[test]
fn poll_counts_what_is_ready() {
    let guest = Guest::new();
    guest.fake.0.borrow_mut().ready = Ok(1 << 63 | 0b110);
    let after = guest.call(Number::Poll, &Poll { timeout_nsecs: u64::MAX, reserved: 7, ..Poll::default() });
    assert_eq!((after.ready_set, after.ret, after.timeout_nsecs), (1 << 63 | 0b110, 3, u64::MAX));
    assert_eq!(after.reserved, 7);
    assert_eq!(guest.fake.0.borrow().sleeps, [u64::MAX]);
}

#[test]
fn an_interrupted_poll_can_be_served_again() {
    let guest = Guest::new();
    guest.fake.0.borrow_mut().ready = Err(Interrupted);
    guest.memory.write(Gpa(ARGUMENT), &[0xa5; 24]).unwrap();
    let before = guest.memory.snapshot();
    assert_eq!(guest.serve(3, ARGUMENT), Ok(Flow::Interrupted));
    assert_eq!(guest.memory.snapshot(), before);
}

#[test]
fn blocks_are_read_and_written() {
    let guest = Guest::new();
    let disk = guest.fake.0.borrow().disk.clone();
    assert_eq!(guest.block(Number::BlockRead, 1, 512, 1024), OK);
    assert_eq!(guest.memory.bytes(DATA, 1024), disk[512..1536]);
    assert_eq!(guest.memory.bytes(DATA + 1024, 8), [0; 8]);
    assert_eq!(guest.block(Number::BlockWrite, 1, 7 * 512, 512), OK);
    assert_eq!(guest.fake.0.borrow().disk[7 * 512..], disk[512..1024]);
    assert_eq!(guest.fake.0.borrow().disk[..7 * 512], disk[..7 * 512]);
    assert_eq!(guest.block(Number::BlockRead, 1, 0, 4096), OK, "the whole device");
}

#[test]
fn what_is_no_block_is_invalid() {
    let guest = Guest::new();
    let disk = guest.fake.0.borrow().disk.clone();
    for call in [Number::BlockRead, Number::BlockWrite] {
        for (handle, offset, len) in [
            (1, 0, 0),
            (1, 0, 511),
            (1, 0, 513),
            (1, 1, 512),
            (1, 4096, 512),
            (1, 4096 - 512, 1024),
            (1, 0, 4096 + 512),
            (1, u64::MAX - 511, 512),
            (1, 512, u64::MAX - 511),
            (1, 1 << 63, 1 << 63),
            (0, 0, 512),
            (2, 0, 512),
            (3, 0, 512),
            (1 << 32 | 1, 0, 512),
            (u64::MAX, 0, 512),
        ] {
            assert_eq!(guest.block(call, handle, offset, len), INVALID, "{handle} {offset} {len}");
        }
    }
    assert_eq!(guest.fake.0.borrow().disk, disk);
    guest.fake.0.borrow_mut().block_size = 4096;
    assert_eq!(guest.block(Number::BlockRead, 1, 0, 512), INVALID);
}

#[test]
fn frames_are_sent() {
    let guest = Guest::new();
    let frame: Vec<u8> = (0..60).collect();
    guest.memory.write(Gpa(DATA), &frame).unwrap();
    assert_eq!(guest.net(Number::NetWrite, 2, 60), (OK, 60));
    assert_eq!(guest.net(Number::NetWrite, 2, 14), (OK, 14));
    assert_eq!(guest.net(Number::NetWrite, 2, 1500 + 18), (OK, 1518));
    assert_eq!(guest.fake.0.borrow().sent[0], frame);
    for (handle, len) in [(2, 0), (2, 13), (0, 60), (1, 60), (3, 60), (1 << 32 | 2, 60)] {
        assert_eq!(guest.net(Number::NetWrite, handle, len), (INVALID, len));
    }
    assert_eq!(guest.fake.0.borrow().sent.len(), 3);
}

#[test]
fn frames_are_received_one_at_a_time() {
    let guest = Guest::new();
    guest.fake.0.borrow_mut().waiting.extend([vec![1; 60], vec![2; 100]]);
    assert_eq!(guest.net(Number::NetRead, 2, 0), (AGAIN, 0), "the frame stays");
    assert_eq!(guest.net(Number::NetRead, 2, 1514), (OK, 60));
    assert_eq!(guest.memory.bytes(DATA, 61), [&[1; 60][..], &[0]].concat());
    assert_eq!(guest.net(Number::NetRead, 2, 70), (OK, 70), "its end is lost");
    assert_eq!(guest.memory.bytes(DATA, 71), [&[2; 70][..], &[0]].concat());
    assert_eq!(guest.net(Number::NetRead, 2, 1514), (AGAIN, 1514));
    for handle in [0, 1, 3, u64::MAX] {
        assert_eq!(guest.net(Number::NetRead, handle, 1514), (INVALID, 1514));
    }
}

#[test]
fn failing_devices_are_unspecified() {
    let guest = Guest::new();
    guest.fake.0.borrow_mut().broken = true;
    assert_eq!(guest.block(Number::BlockRead, 1, 0, 512), UNSPECIFIED);
    assert_eq!(guest.block(Number::BlockWrite, 1, 0, 512), UNSPECIFIED);
    assert_eq!(guest.net(Number::NetRead, 2, 1514), (UNSPECIFIED, 1514));
    assert_eq!(guest.net(Number::NetWrite, 2, 60), (UNSPECIFIED, 60));
}

#[test]
fn halt_returns_status_and_cookie() {
    let guest = Guest::new();
    let halt = |cookie, exit_status| {
        let halt = Halt { cookie: Gpa(cookie), exit_status, reserved: 0 };
        guest.memory.write(Gpa(ARGUMENT), halt.as_bytes()).unwrap();
        guest.serve(8, ARGUMENT)
    };
    assert_eq!(halt(0, 0), Ok(Flow::Halt { status: 0, cookie: None }));
    assert_eq!(halt(DATA, -1), Ok(Flow::Halt { status: -1, cookie: Some(Gpa(DATA)) }));
    let last = SIZE - HALT_COOKIE_SIZE;
    assert_eq!(halt(last, 255), Ok(Flow::Halt { status: 255, cookie: Some(Gpa(last)) }));
    for cookie in [1, last + 1, SIZE, u64::MAX] {
        let message = halt(cookie, 0).unwrap_err().to_string();
        let expected =
            format!("hypercall halt: cookie: 0x200 bytes at guest address {cookie:#x}, which the guest may not read");
        assert_eq!(message, expected);
    }
}

#[test]
fn unknown_hypercalls_stop_the_guest() {
    let guest = Guest::new();
    for number in [0, 9, 255, u32::MAX] {
        assert_eq!(guest.serve(number, ARGUMENT), Err(HypercallError::Unknown(number)));
    }
}

#[test]
fn arguments_must_be_the_guests_to_access() {
    let guest = Guest::new();
    for number in Number::ALL {
        for (argument, writable_only) in [
            (0, false),
            (SIZE - 4, false),
            (SIZE, false),
            (0xffff_fff8, false),
            (u64::MAX, false),
            (READ_ONLY, true),
            (CODE, true),
            (WRITABLE.start - 4, true),
        ] {
            let reads_only = matches!(number, Number::Puts | Number::Halt);
            if reads_only && writable_only {
                assert!(guest.serve(number as u32, argument).is_ok());
                continue;
            }
            let error = guest.serve(number as u32, argument).unwrap_err();
            let verb = if reads_only { "read" } else { "write" };
            let message = error.to_string();
            assert!(message.starts_with(&format!("hypercall {}: argument: 0x", number.name())), "{message}");
            assert!(
                message.ends_with(&format!("guest address {argument:#x}, which the guest may not {verb}")),
                "{message}"
            );
        }
    }
    assert_eq!(guest.memory.snapshot(), [0; SIZE as usize]);
}

#[test]
fn buffers_must_be_the_guests_to_access() {
    let guest = Guest::new();
    let frame = |data, len| NetIo { handle: 2, data: Gpa(data), len, ..NetIo::default() };
    let block = |data| BlockIo { handle: 1, data: Gpa(data), len: 512, ..BlockIo::default() };
    guest.fake.0.borrow_mut().waiting.push_back(vec![1; 60]);
    let outside = [0, SIZE - 16, SIZE, u64::MAX - 16, u64::MAX];
    for data in outside {
        let message = guest.stopped(Number::Puts, &Puts { data: Gpa(data), len: 20 });
        let expected =
            format!("hypercall puts: data: 0x14 bytes at guest address {data:#x}, which the guest may not read");
        assert_eq!(message, expected);
        assert!(
            guest.stopped(Number::NetWrite, &frame(data, 20)).starts_with("hypercall net_write: buffer: 0x14 bytes")
        );
        assert!(guest.stopped(Number::BlockWrite, &block(data)).ends_with("which the guest may not read"));
    }
    for data in outside.into_iter().chain([READ_ONLY, CODE, WRITABLE.start - 1]) {
        let message = guest.stopped(Number::NetRead, &frame(data, 20));
        let expected =
            format!("hypercall net_read: buffer: 0x14 bytes at guest address {data:#x}, which the guest may not write");
        assert_eq!(message, expected);
        assert!(
            guest.stopped(Number::BlockRead, &block(data)).starts_with("hypercall block_read: buffer: 0x200 bytes")
        );
    }
    assert!(guest.stopped(Number::Puts, &Puts { data: Gpa(DATA), len: u64::MAX }).contains("0xffffffffffffffff bytes"));
    assert_eq!(guest.fake.0.borrow().waiting.len(), 1, "nothing was taken from the device");
}

/// Guest memory ranges that a call may change: the out fields of its argument, and the buffer that
/// it fills.
fn may_change(number: u32, argument: u64, memory: &[u8]) -> Vec<Range<u64>> {
    let argument_bytes = &memory[argument as usize..];
    let field = |offset, len| argument + offset as u64..argument + offset as u64 + len;
    match Number::from_u32(number) {
        Some(Number::Walltime) => vec![field(0, 8)],
        Some(Number::Poll) => vec![field(8, 8), field(16, 4)],
        Some(Number::BlockWrite) => vec![field(32, 4)],
        Some(Number::NetWrite) => vec![field(24, 4)],
        Some(Number::BlockRead) => {
            let io = BlockIo::read_from_prefix(argument_bytes).unwrap().0;
            vec![field(32, 4), io.data.0..io.data.0.saturating_add(io.len)]
        }
        Some(Number::NetRead) => {
            let io = NetIo::read_from_prefix(argument_bytes).unwrap().0;
            vec![field(24, 4), field(16, 8), io.data.0..io.data.0.saturating_add(io.len)]
        }
        Some(Number::Puts | Number::Halt) | None => vec![],
    }
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..4_u64,
        3 => 0..SIZE + 64,
        3 => (0..12_u64).prop_map(|blocks| blocks * 512),
        1 => any::<u64>(),
        1 => (0..64_u64).prop_map(|below| u64::MAX - below),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_guest_changes_only_what_it_names(
        number in prop_oneof![9 => 0_u32..10, 1 => any::<u32>()],
        argument in prop_oneof![8 => WRITABLE, 1 => 0..SIZE + 64, 1 => any::<u64>()],
        words in prop::collection::vec(word(), 5),
        waiting in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..2),
        ready in prop::option::of(any::<u64>()),
        broken in any::<bool>(),
    ) {
        let guest = Guest::new();
        guest.memory.fill(0xa5);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // Only the part inside memory: a short structure may end at the end of memory.
        let _ = guest.memory.write(Gpa(argument), &bytes);
        {
            let mut world = guest.fake.0.borrow_mut();
            world.waiting.extend(waiting);
            world.ready = ready.ok_or(Interrupted);
            world.broken = broken;
        }
        let before = guest.memory.snapshot();
        let result = guest.serve(number, argument);
        let mut after = guest.memory.snapshot();
        let allowed = match result {
            Ok(Flow::Continue) => may_change(number, argument, &before),
            _ => vec![],
        };
        for named in allowed {
            let named = named.start.clamp(WRITABLE.start, SIZE) as usize..named.end.clamp(WRITABLE.start, SIZE) as usize;
            after[named.clone()].copy_from_slice(&before[named]);
        }
        prop_assert!(after == before);
    }
}
