//! Debugger requirements on every backend: guests of a few instructions, run by each backend's
//! tests.
//!
//! A guest starts at [`CODE`], which is executable and not writable. From [`DATA`] on, memory is
//! readable and writable. Guests that end in a hypercall make number 1.

pub(crate) use hvt_abi::Gpa;

pub(crate) use crate::backend::arch::conformance::*;

pub(crate) use super::{BREAKPOINT_INSTRUCTION, CpuState, DebugTarget, Halt, Traps, Watch};
pub(crate) use crate::backend::{CancelToken, Machine};
pub(crate) use crate::exit::Exit;
pub(crate) use crate::registers::Named;

/// Start of the code.
pub(crate) const CODE: u64 = 0x10_0000;
/// Start of the data, which extends to the end of guest memory.
pub(crate) const DATA: u64 = 0x10_1000;

/// Starts a guest at this code.
pub(crate) type Start<'a> = &'a dyn Fn(&[u8], &CancelToken) -> Box<dyn Machine>;

/// Guest under a debugger.
pub(crate) struct Guest(pub(crate) Box<dyn Machine>);

impl Guest {
    pub(crate) fn new(start: Start<'_>, code: &[u8]) -> Self {
        Self(start(code, &CancelToken::new().unwrap()))
    }

    pub(crate) fn target(&mut self) -> &mut dyn DebugTarget {
        self.0.debug().unwrap()
    }

    pub(crate) fn state(&mut self) -> CpuState {
        self.target().state().unwrap()
    }

    /// Offset of the program counter from the start of the code.
    pub(crate) fn pc(&mut self) -> u64 {
        self.state().registers.pc() - CODE
    }

    pub(crate) fn run(&mut self, traps: &Traps) -> Halt {
        assert!(self.target().set_traps(traps).unwrap(), "{traps:?}");
        self.target().run_to_trap().unwrap()
    }

    pub(crate) fn step(&mut self) -> Halt {
        self.run(&Traps { step: true, ..Traps::default() })
    }

    pub(crate) fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.target().poke(Gpa(at), bytes).unwrap();
    }

    pub(crate) fn plant(&mut self, offset: u64) -> Traps {
        self.poke(CODE + offset, &BREAKPOINT_INSTRUCTION);
        Traps { software_breakpoints: vec![CODE + offset], ..Traps::default() }
    }
}

pub(crate) fn hypercall(argument: u64) -> Halt {
    Halt::Exit(Exit::Hypercall { number: 1, argument: Gpa(argument) })
}

pub(crate) fn watch(start: u64, len: u64, reads: bool) -> Traps {
    Traps { watched: vec![Watch { start, len, reads }], ..Traps::default() }
}

/// A spinning guest stops when paused, can be inspected, and continues.
pub(crate) fn pauses(start: Start<'_>) {
    let stop = CancelToken::new().unwrap();
    let code = counting();
    let mut guest = Guest(start(code, &stop));
    let mut before = 0;
    for _ in 0..3 {
        let pauser = std::thread::spawn({
            let stop = stop.clone();
            move || stop.pause()
        });
        assert_eq!(guest.run(&Traps::default()), Halt::Exit(Exit::Interrupted));
        pauser.join().unwrap();
        assert!(stop.unpause() && !stop.requested());
        let registers = guest.state().registers;
        assert!(count(&registers) >= before && guest.pc() < code.len() as u64, "{registers:x?}");
        before = count(&registers);
        assert_eq!(guest.step(), Halt::Step);
    }
    guest.poke(DATA, &[1]);
    assert_eq!(guest.run(&Traps::default()), hypercall(0));
    stop.request();
    assert_eq!(guest.run(&Traps::default()), Halt::Exit(Exit::Interrupted));
}

/// An address that is not mapped cannot be translated or watched.
pub(crate) fn what_is_not_mapped(start: Start<'_>) {
    let mut guest = Guest::new(start, SPIN);
    assert_eq!(guest.target().translate(DATA + 5), Some(Gpa(DATA + 5)));
    for address in [1 << 32, 1 << 47, u64::MAX, 0xffff_8000_0000_0000] {
        assert_eq!(guest.target().translate(address), None, "{address:#x}");
    }
    assert!(guest.target().poke(Gpa(u64::MAX - 1), &[1, 2]).is_err());
}
