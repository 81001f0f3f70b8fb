//! Instructions of aarch64 (Arm ARM, C6.2).

use hvt_abi::aarch64::{HYPERCALL_STRIDE, MMIO_BASE};

/// Appends hypercall `number` with its argument at guest address `at`.
pub(super) fn hypercall(text: &mut Vec<u8>, number: u32, at: u32) {
    let to = MMIO_BASE.0 + u64::from(number) * HYPERCALL_STRIDE;
    let low = to as u32;
    add(text, movz(0, at as u16, 0)); // w0 = at
    add(text, movk(0, (at >> 16) as u16, 1));
    add(text, movz(1, low as u16, 0)); // x1 = to
    add(text, movk(1, (low >> 16) as u16, 1));
    add(text, movk(1, (to >> 32) as u16, 2));
    add(text, 0xb900_0020); // str w0, [x1]
}

/// Appends the start of a loop of `times` iterations. Returns its offset for [`end_loop`].
pub(super) fn begin_loop(text: &mut Vec<u8>, times: u32) -> usize {
    add(text, movz(2, times as u16, 0)); // x2 = times
    add(text, movk(2, (times >> 16) as u16, 1));
    let start = text.len();
    add(text, 0xf81f_0fe2); // str x2, [sp, #-16]!
    start
}

/// Appends the end of the loop that starts at offset `start`.
pub(super) fn end_loop(text: &mut Vec<u8>, start: usize) {
    add(text, 0xf841_07e2); // ldr x2, [sp], #16
    add(text, 0xf100_0442); // subs x2, x2, #1
    // The conditional branch has a range of 1 MiB, the unconditional branch behind it 128 MiB.
    add(text, 0x5400_0040); // b.eq over the next instruction
    let back = (start as i64 - text.len() as i64) / 4;
    add(text, 0x1400_0000 | back as u32 & 0x03ff_ffff); // b start
}

/// Appends an infinite loop.
pub(super) fn spin(text: &mut Vec<u8>) {
    add(text, 0x1400_0000); // b to itself
}

/// `movz x, #value, lsl #(16 * part)`.
fn movz(register: u32, value: u16, part: u32) -> u32 {
    0xd280_0000 | part << 21 | u32::from(value) << 5 | register
}

/// `movk x, #value, lsl #(16 * part)`.
fn movk(register: u32, value: u16, part: u32) -> u32 {
    0xf280_0000 | part << 21 | u32::from(value) << 5 | register
}

fn add(text: &mut Vec<u8>, instruction: u32) {
    text.extend(instruction.to_le_bytes());
}
