//! What is said about a guest that did what it may not: what, where, and with which registers.

use std::fmt::Write;

use hvt_abi::Gpa;
use hvt_abi::x86_64::Registers;

use super::manner::Manner;
use crate::image::symbol_at;
use crate::monitor::Failure;

/// Says it, in a line for scripts and, where the guest's registers are known, a few more for people. Names are those in
/// the unikernel's `file`.
pub(super) fn report(manner: Manner, failure: &Failure, file: &[u8]) {
    manner.report(failure);
    let Some(registers) = &failure.registers else { return };
    if let Some(place) = place(file, registers.rip) {
        manner.report(&format_args!("  in {place}"));
    }
    for line in lines(registers) {
        manner.report(&format_args!("  {line}"));
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
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags } =
        *registers;
    let rows: [&[(&str, u64)]; 5] = [
        &[("rip", rip), ("rsp", rsp), ("rbp", rbp), ("rflags", rflags)],
        &[("rax", rax), ("rbx", rbx), ("rcx", rcx), ("rdx", rdx)],
        &[("rsi", rsi), ("rdi", rdi), ("r8", r8), ("r9", r9)],
        &[("r10", r10), ("r11", r11), ("r12", r12), ("r13", r13)],
        &[("r14", r14), ("r15", r15)],
    ];
    let line = |row: &[(&str, u64)]| {
        row.iter().fold(String::new(), |mut line, (name, value)| {
            let space = if line.is_empty() { "" } else { " " };
            // Writing to a `String` does not fail.
            let _ = write!(line, "{space}{name}={value:#x}");
            line
        })
    };
    rows.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_shown_once() {
        let registers = Registers { rip: 0x10_0000, r15: u64::MAX, rflags: 2, ..Registers::default() };
        let text = lines(&registers).join(" ");
        let words: Vec<_> = text.split(' ').collect();
        assert_eq!(words.len(), size_of::<Registers>() / size_of::<u64>());
        for word in ["rip=0x100000", "r15=0xffffffffffffffff", "rflags=0x2", "rax=0x0"] {
            assert!(words.contains(&word), "{text}");
        }
    }
}
