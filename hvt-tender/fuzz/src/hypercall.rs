//! Fuzz target for hypercalls.

use arbitrary::Arbitrary;
use hvt_abi::{Gpa, GuestRange};
use hvt_core::device::Interrupted;
use hvt_core::device::fake::Fake;
use hvt_core::hypercall::serve;
use hvt_core::memory::fake::FakeMemory;
use hvt_core::memory::{GuestMemory, GuestSpace, MemoryMap, Permissions, Region};

use crate::outcome::outcome;

/// A guest that makes calls, and its environment.
#[derive(Arbitrary, Debug)]
pub struct Guest {
    calls: Vec<Call>,
    /// Frames waiting on the network device.
    waiting: Vec<Vec<u8>>,
    /// Result of the device's poll.
    ready: Option<u64>,
    /// Selects failing devices.
    broken: bool,
}

#[derive(Arbitrary, Debug)]
struct Call {
    number: Number,
    argument: Word,
    /// Contents of the argument structure.
    words: [Word; 5],
}

#[derive(Arbitrary, Debug)]
enum Number {
    Known(u8),
    Any(u32),
}

/// A word of an argument, often close to a meaningful value.
#[derive(Arbitrary, Debug)]
enum Word {
    Small(u8),
    Address(u16),
    Blocks(u8),
    NearMax(u8),
    Any(u64),
}

impl Word {
    fn value(&self) -> u64 {
        match *self {
            Self::Small(value) => value.into(),
            Self::Address(value) => u64::from(value) % (SIZE + 64),
            Self::Blocks(value) => u64::from(value) * 512,
            Self::NearMax(value) => u64::MAX - u64::from(value),
            Self::Any(value) => value,
        }
    }
}

/// Size of guest memory in bytes. The first page is not mapped, the second is read-only, the third
/// is execute-only, and the remaining pages are writable.
const SIZE: u64 = 0x8000;
const READ_ONLY: u64 = 0x1000;
const CODE: u64 = 0x2000;
const WRITABLE: u64 = 0x3000;

/// Name of each hypercall, indexed by its number.
const NAMES: [&str; 9] =
    ["zero", "walltime", "puts", "poll", "block write", "block read", "net write", "net read", "halt"];

/// Serves the calls until one stops the guest. Asserts that memory not writable by the guest is
/// unchanged. Returns the names of the calls' outcomes.
pub fn check(guest: Guest) -> Vec<String> {
    let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
    let memory_map = MemoryMap::new([
        region(READ_ONLY, CODE, Permissions::READ),
        region(CODE, WRITABLE, Permissions::EXECUTE),
        region(WRITABLE, SIZE, Permissions::READ | Permissions::WRITE),
    ])
    .unwrap();
    let memory = FakeMemory::new(SIZE, &[0x3ff3, 0x3ffc, 0x4000, 0x4fff, 0x5001]);
    memory.fill(0xa5);
    let fake = Fake::new();
    {
        let mut world = fake.0.borrow_mut();
        world.waiting.extend(guest.waiting);
        world.ready = guest.ready.ok_or(Interrupted);
        world.broken = guest.broken;
    }
    let mut devices = fake.devices();
    let mut outcomes = Vec::new();
    for call in guest.calls {
        let number = match call.number {
            Number::Known(number) => u32::from(number % 10),
            Number::Any(number) => number,
        };
        let argument = call.argument.value();
        if (WRITABLE..SIZE).contains(&argument) {
            let words: Vec<u8> = call.words.iter().flat_map(|word| word.value().to_le_bytes()).collect();
            // Writes only the part that lies inside guest memory.
            let _ = memory.write(Gpa(argument), &words);
        }
        let before = memory.snapshot();
        let result = serve(number, Gpa(argument), &GuestSpace::new(&memory, &memory_map), &mut devices);
        let after = memory.snapshot();
        assert!(before[..WRITABLE as usize] == after[..WRITABLE as usize]);
        let name = NAMES.get(number as usize).unwrap_or(&"unknown");
        match result {
            Ok(flow) => outcomes.push(outcome(name, &flow)),
            Err(error) => {
                assert!(before == after);
                assert!(!error.to_string().contains('\n'));
                outcomes.push(outcome(name, &error));
                break;
            }
        }
    }
    outcomes
}
