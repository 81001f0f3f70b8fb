//! Instructions of x86_64 (SDM volume 2).

use hvt_abi::x86_64::HYPERCALL_PORT;

/// Appends hypercall `number` with its argument at guest address `at`.
pub(super) fn hypercall(text: &mut Vec<u8>, number: u32, at: u32) {
    text.push(0xb8); // mov eax, imm32
    text.extend(at.to_le_bytes());
    text.push(0xba); // mov edx, imm32
    text.extend((u32::from(HYPERCALL_PORT) + number).to_le_bytes());
    text.push(0xef); // out dx, eax
}

/// Appends the start of a loop of `times` iterations. Returns its offset for [`end_loop`].
pub(super) fn begin_loop(text: &mut Vec<u8>, times: u32) -> usize {
    text.push(0xb9); // mov ecx, imm32
    text.extend(times.to_le_bytes());
    let start = text.len();
    text.push(0x51); // push rcx
    start
}

/// Appends the end of the loop that starts at offset `start`.
pub(super) fn end_loop(text: &mut Vec<u8>, start: usize) {
    text.extend([0x59, 0xff, 0xc9, 0x0f, 0x85]); // pop rcx; dec ecx; jnz rel32
    let back = start as i32 - (text.len() as i32 + 4);
    text.extend(back.to_le_bytes());
}

/// Appends an infinite loop.
pub(super) fn spin(text: &mut Vec<u8>) {
    text.extend([0xeb, 0xfe]); // jmp to itself
}
