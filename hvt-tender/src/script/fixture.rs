//! Guests that make given hypercalls, for unit tests.

use hvt_abi::hypercall::Number;
use hvt_abi::manifest::Kind;

use super::Script;
use crate::image::write::TEXT;

/// Guest address of the arguments of [`calls`], one every 256 bytes, followed by a page of zeros.
pub(crate) const CALLS_DATA: u64 = TEXT + 0x1000;

/// Returns the ELF file of a guest that makes these hypercalls in order and then spins.
pub(crate) fn calls(devices: &[(&str, Kind)], calls: &[(Number, &[u8])]) -> Vec<u8> {
    looping(devices, 1, calls, &[])
}

/// Returns the ELF file of a guest that makes the hypercalls `looped` `times` times, then the
/// hypercalls `behind`, and then spins.
pub(crate) fn looping(
    devices: &[(&str, Kind)],
    times: u32,
    looped: &[(Number, &[u8])],
    behind: &[(Number, &[u8])],
) -> Vec<u8> {
    let make = |script: Script, calls: &[(Number, &[u8])]| {
        calls.iter().fold(script, |script, (number, argument)| script.raw(*number, argument))
    };
    let script = devices.iter().fold(Script::new(), |script, (name, kind)| script.declare(name, *kind));
    make(script.repeat(times, |script| make(script, looped)), behind).build()
}
