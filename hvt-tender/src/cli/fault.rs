//! What is said about a guest that did what it may not: what, where, and with which registers.

use hvt_abi::Gpa;
use hvt_abi::native::Registers;

use super::personality::Personality;
use crate::image::symbol_at;
use crate::monitor::Failure;
use crate::registers::Named;

/// Says it, in a line for scripts and, where the guest's registers are known, a few more for people. Names are those in
/// the unikernel's `file`.
pub(super) fn report(personality: Personality, failure: &Failure, file: &[u8]) {
    personality.report(failure);
    let Some(registers) = &failure.registers else { return };
    if let Some(place) = place(file, registers.pc()) {
        personality.report(&format_args!("  in {place}"));
    }
    for line in lines(registers) {
        personality.report(&format_args!("  {line}"));
    }
}

/// The function that an address is in, and how far.
fn place(file: &[u8], address: u64) -> Option<String> {
    let symbol = symbol_at(file, Gpa(address))?;
    // Without the hash that the compiler appends.
    Some(format!("{:#}+{:#x}", rustc_demangle::demangle(symbol.name), symbol.offset))
}

/// The registers, four in a line.
fn lines(registers: &Registers) -> Vec<String> {
    let words: Vec<_> = registers.named().iter().map(|(name, value)| format!("{name}={value:#x}")).collect();
    words.chunks(4).map(|words| words.join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_shown_once() {
        let lines = lines(&Registers::default());
        let words: Vec<_> = lines.iter().flat_map(|line| line.split(' ')).collect();
        assert_eq!(words.len(), size_of::<Registers>() / size_of::<u64>());
        assert!(words.iter().all(|word| word.ends_with("=0x0")), "{lines:?}");
        assert!(lines[0].starts_with(&format!("{}=", Registers::PC)), "{lines:?}");
    }
}
