//! Tests of the stub with arbitrary packets and a guest that does nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use hvt_abi::native::Registers;
use hvt_abi::{Gpa, GuestRange};
use proptest::prelude::*;

use super::*;
use crate::Vcpu;
use crate::backend::debug::{BREAKPOINT_INSTRUCTION, CpuState, DebugTarget, Halt, Traps};
use crate::exit::Exit;
use crate::memory::fake::FakeMemory;
use crate::memory::{GuestMemory, Permissions, Region};
use crate::registers::Named;

/// Guest with one page of memory. It stops at every requested trap, and exits after a fixed number
/// of runs.
struct Idle {
    memory: FakeMemory,
    state: CpuState,
    traps: Traps,
    left: u32,
}

const CODE: u64 = 0x1000;

impl Idle {
    fn new() -> Self {
        let state = CpuState::from(Registers::at(CODE));
        Self { memory: FakeMemory::new(0x2000, &[]), state, traps: Traps::default(), left: 20 }
    }
}

fn memory_map() -> MemoryMap {
    let range = GuestRange::between(Gpa(CODE), Gpa(0x2000)).unwrap();
    MemoryMap::new([Region { range, access: Permissions::READ | Permissions::EXECUTE }]).unwrap()
}

impl Vcpu for Idle {
    type Error = BackendError;

    fn run(&mut self) -> Result<Exit, BackendError> {
        Ok(Exit::Halted)
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn registers(&self) -> Result<Registers, BackendError> {
        Ok(self.state.registers)
    }
}

impl Machine for Idle {
    fn debug(&mut self) -> Option<&mut dyn DebugTarget> {
        Some(self)
    }
}

impl DebugTarget for Idle {
    fn state(&self) -> Result<CpuState, BackendError> {
        Ok(self.state)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), BackendError> {
        self.state = *state;
        Ok(())
    }

    fn translate(&self, address: u64) -> Option<Gpa> {
        (CODE..0x2000).contains(&address).then_some(Gpa(address))
    }

    fn poke(&mut self, at: Gpa, bytes: &[u8]) -> Result<(), BackendError> {
        let written = self.memory.write(at, bytes).map_err(io::Error::other);
        written.map_err(|source| BackendError { what: "poking", source })
    }

    fn set_traps(&mut self, traps: &Traps) -> Result<bool, BackendError> {
        self.traps = traps.clone();
        Ok(traps.executed.len() + traps.watched.len() <= 4)
    }

    fn run_to_trap(&mut self) -> Result<Halt, BackendError> {
        self.left -= 1;
        Ok(match (self.left, &self.traps) {
            (0, _) => Halt::Exit(Exit::Halted),
            (_, Traps { step: true, .. }) => Halt::Step,
            (_, Traps { watched, .. }) if !watched.is_empty() => Halt::Watched(watched[0].start),
            (_, Traps { executed, .. }) if !executed.is_empty() => Halt::Executed,
            (_, Traps { software_breakpoints, .. }) if !software_breakpoints.is_empty() => Halt::SoftwareBreakpoint,
            _ => Halt::Exit(Exit::Halted),
        })
    }

    fn describe(&self) -> Result<String, BackendError> {
        Ok("nothing\n".into())
    }
}

/// Runs the guest with a debugger that sends `said` and disconnects. Returns the bytes that the
/// debugger received.
fn converse(said: &[u8]) -> Vec<u8> {
    converse_about(&[], said)
}

/// Like [`converse`], for a guest whose code begins with `code`.
fn converse_about(code: &[u8], said: &[u8]) -> Vec<u8> {
    let debugger = Debugger::listen("127.0.0.1:0").unwrap();
    let address = debugger.address().unwrap();
    let talker = thread::spawn({
        let said = said.to_vec();
        move || {
            let mut stream = TcpStream::connect(address).unwrap();
            // The stub may close the connection before it has read everything.
            let _ = stream.write_all(&said).and_then(|()| stream.shutdown(Shutdown::Write));
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard);
            heard
        }
    });
    let stop = CancelToken::new().unwrap();
    let line = debugger.accept(&stop).unwrap().unwrap().watch(&stop, None).unwrap();
    let mut machine = Idle::new();
    machine.memory.write(Gpa(CODE), code).unwrap();
    let outcome = Box::new(line).run(&mut machine, &memory_map(), &stop, &mut |machine| {
        // As the monitor does; this guest makes no hypercalls.
        machine.run().map(|exit| match exit {
            Exit::Interrupted => Outcome::Interrupted,
            _ => Outcome::Exited { status: 0, cookie: None },
        })
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    let (mut left, mut before) = ([0; 0x1000], [0; 0x1000]);
    machine.memory.read(Gpa(CODE), &mut left).unwrap();
    before[..code.len()].copy_from_slice(code);
    assert_eq!(machine.traps, Traps::default(), "all traps are removed");
    assert!(said.windows(2).any(|pair| b"MXPG".contains(&pair[1])) || left == before);
    drop(machine);
    talker.join().unwrap()
}

fn packet(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    [b"+$", body, format!("#{sum:02x}").as_bytes()].concat()
}

#[test]
fn answers_what_gdb_asks_first() {
    let said = [&b"qSupported:swbreak+;hwbreak+"[..], b"?", b"m1000,4", b"m0,4", b"Z0,1000,4", b"m1000,4", b"k"];
    let heard = converse(&said.map(packet).concat());
    let heard = String::from_utf8(heard).unwrap();
    for words in ["PacketSize=", "$T05thread:01;#", "$000*\"#", "$E0e#", "$OK#9a"] {
        assert!(heard.contains(words), "{words}: {heard}");
    }
    assert_eq!(heard.matches("$000*\"#").count(), 2, "{heard}");
    let software_breakpoints = format!("{:02x}", BREAKPOINT_INSTRUCTION[BREAKPOINT_INSTRUCTION.len() - 1]);
    assert!(!heard.contains(&software_breakpoints), "the breakpoint is hidden: {heard}");
}

/// The guest never leaves the range; its machine ends the run after a while. At an instruction that
/// gdb must see, the run ends at once.
#[test]
fn a_range_of_addresses_is_stepped_through() {
    let said = [&b"qSupported:vContSupported+"[..], b"vCont;r1000,2000:1"].map(packet).concat();
    let heard = |code: &[u8]| String::from_utf8(converse_about(code, &said)).unwrap();
    assert!(heard(&[]).contains("$S06#"), "{}", heard(&[]));
    // ldxr x8, [x0]
    let exclusive = 0xc85f_7c08_u32.to_le_bytes();
    let signal = if cfg!(target_arch = "aarch64") { "$S05#" } else { "$S06#" };
    assert!(heard(&exclusive).contains(signal), "{}", heard(&exclusive));
}

/// Bodies of packets that begin with a packet name of the protocol.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let begin = prop::sample::select(vec![
        "g",
        "G",
        "m",
        "M",
        "X",
        "c",
        "s",
        "vCont;",
        "vCont?",
        "Z0,",
        "Z1,",
        "Z2,",
        "Z3,",
        "Z4,",
        "z0,",
        "z1,",
        "z2,",
        "qRcmd,",
        "qXfer:features:read:target.xml:",
        "qSupported",
        "p",
        "P",
        "H",
        "D",
        "k",
        "vKill;",
        "?",
        "!",
        "R",
    ]);
    let rest = prop_oneof![
        "[0-9a-f]{0,20}(,[0-9a-f]{0,20})?([;:,][cs0-9a-f.-]{0,40})?".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..80),
    ];
    (begin, rest).prop_map(|(begin, rest)| [begin.as_bytes(), &rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_ends_the_tender(bodies in prop::collection::vec(body(), 0..8)) {
        converse(&bodies.iter().flat_map(|body| packet(body)).collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_end_the_tender(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        converse(&bytes);
    }
}
