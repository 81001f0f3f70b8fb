//! Report of a guest's crash: the reason, the address and the registers.

use hvt_abi::Gpa;
use hvt_abi::native::Registers;

use super::personality::Personality;
use crate::image::symbol_at;
use crate::monitor::Failure;
use crate::registers::Named;

/// Prints the failure: one line for scripts and, if the guest's registers are available, more lines
/// for people. Symbol names come from the unikernel's `file`.
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

/// Returns the function that contains an address, and the offset in the function.
fn place(file: &[u8], address: u64) -> Option<String> {
    let symbol = symbol_at(file, Gpa(address))?;
    // The alternate form omits the hash that the compiler appends.
    Some(format!("{:#}+{:#x}", rustc_demangle::demangle(symbol.name), symbol.offset))
}

/// Formats the registers, four to a line.
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
