//! Builds small unikernels, good ones and broken ones, for tests.

use alloc::vec;
use alloc::vec::Vec;

use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_INTERP, PT_NOTE};
#[cfg(target_os = "linux")]
use hvt_abi::hypercall::Number;
use hvt_abi::manifest::Kind;
use hvt_abi::note::{INTERPRETER, NoteHeader, OPENBSD_OWNER, OPENBSD_TYPE, Target};
use zerocopy::IntoBytes;

pub(crate) use super::write::{Elf, MACHINE, Part, TEXT, manifest};

/// Indices into [`Elf::parts`] of a good unikernel.
pub(crate) const TEXT_PART: usize = 1;
pub(crate) const RODATA_PART: usize = 2;
pub(crate) const DATA_PART: usize = 3;
pub(crate) const BSS_PART: usize = 5;
pub(crate) const ABI_PART: usize = 7;
pub(crate) const MANIFEST_PART: usize = 8;

impl Elf {
    /// What Solo5's toolchain makes: text that may only be executed, read-only data, data, a wholly empty segment,
    /// `.bss` in a segment of its own, and three notes.
    pub(crate) fn unikernel(devices: &[(&str, Kind)]) -> Self {
        let openbsd = NoteHeader { namesz: 8, descsz: 4, kind: OPENBSD_TYPE, owner: OPENBSD_OWNER };
        Self::of([
            Part::other(PT_INTERP, *INTERPRETER),
            Part::load(PF_X, TEXT, 0x1123, vec![0xcc; 0x1123]),
            Part::load(PF_R, TEXT + 0x2000, 0x11, *b"read-only data..."),
            Part::load(PF_R | PF_W, TEXT + 0x3000, 0x800, *b"data"),
            Part::load(PF_R, 0, 0, []),
            Part::load(PF_R | PF_W, TEXT + 0x4000, 0x20_3ca0, []),
            Part::other(PT_NOTE, [openbsd.as_bytes(), &[0; 4]].concat()),
            Part::abi(Target::Hvt as u32, hvt_abi::ABI_VERSION),
            Part::manifest(&manifest(devices)),
        ])
    }

    /// A unikernel without devices that has these segments and starts where the first one does.
    pub(crate) fn with_segments(segments: impl IntoIterator<Item = Part>) -> Self {
        Self::with_devices(segments, &[])
    }
}

/// Where the guests of [`calls`] have their arguments, one every 256 bytes, and a page of zeros behind them.
pub(crate) const CALLS_DATA: u64 = TEXT + 0x1000;

/// The file of a guest that makes these hypercalls, one after the other, and then spins.
#[cfg(target_os = "linux")]
pub(crate) fn calls(devices: &[(&str, Kind)], calls: &[(Number, &[u8])]) -> Vec<u8> {
    looping(devices, 1, calls, &[])
}

/// The file of a guest that makes these hypercalls so many times, then those behind them, and then spins.
#[cfg(target_os = "linux")]
pub(crate) fn looping(
    devices: &[(&str, Kind)],
    times: u32,
    looped: &[(Number, &[u8])],
    behind: &[(Number, &[u8])],
) -> Vec<u8> {
    use crate::script::Script;
    let make = |script: Script, calls: &[(Number, &[u8])]| {
        calls.iter().fold(script, |script, (number, argument)| script.raw(*number, argument))
    };
    let script = devices.iter().fold(Script::new(), |script, (name, kind)| script.declare(name, *kind));
    make(script.repeat(times, |script| make(script, looped)), behind).build()
}
