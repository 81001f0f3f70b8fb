//! Search for hypercall sites in the guest's code.
//!
//! A site is `mov edx, port`, at most [`BETWEEN_MAX`] bytes that load other registers, and `out dx,
//! eax`. Compilers produce it from the inline assembly of Solo5's bindings and of this project's.
//! The five bytes of the `mov` have room for a jump.
//!
//! Instructions of x86 have no marked start, so that a match of bytes may lie inside an
//! instruction. The search decodes the code before each match from several addresses, and accepts
//! the match only if no decoding steps over its start.

use std::ops::Range;

use hvt_abi::x86_64::{HYPERCALL_PORT, HYPERCALL_PORT_END, RING_KICK_PORT};
use yaxpeax_arch::{Decoder, LengthedInstruction, U8Reader};
use yaxpeax_x86::amd64::{InstDecoder, Instruction, Opcode, Operand, RegSpec, register_class};

/// Hypercall site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// Offset of the `mov`.
    pub(super) at: usize,
    /// Offset of the `out`.
    pub(super) out: usize,
    pub(super) port: u16,
}

impl Site {
    /// Offset of the instruction behind the `mov`.
    pub(super) fn after_mov(&self) -> usize {
        self.at + MOV
    }
}

/// Length of `mov edx, imm32`, and of `jmp rel32`.
pub(super) const MOV: usize = 5;
/// Most bytes between the `mov` and the `out`.
pub(super) const BETWEEN_MAX: usize = 12;

/// Opcode of `mov edx, imm32`.
const MOV_EDX: u8 = 0xba;
/// Opcode of `out dx, eax`.
const OUT_DX_EAX: u8 = 0xef;
/// Bytes that are decoded before a match. Decoders that start at different bytes meet after a few
/// instructions.
const CONTEXT: usize = 64;
/// Bytes that are decoded behind a match, for branches back.
pub(super) const AHEAD: usize = 32;
/// Bytes before an `out` that decide about it.
pub(super) const BEHIND: usize = CONTEXT + MOV + BETWEEN_MAX + 1;
/// Longest instruction.
const LONGEST: usize = super::emulate::LONGEST as usize;

/// Returns at most `at_most` sites whose `out` is at one of the offsets `outs` in `code`, in
/// ascending order. `code` includes [`BEHIND`] bytes before and [`AHEAD`] bytes behind these
/// offsets, or as many as the segment has.
pub(super) fn find(code: &[u8], outs: Range<usize>, at_most: usize) -> Vec<Site> {
    let mut sites = Vec::new();
    for (index, block) in code[outs.clone()].chunks(BLOCK).enumerate() {
        // Without a branch in the loop, the compiler compares many bytes at once.
        if !block.iter().fold(false, |found, byte| found | (*byte == OUT_DX_EAX)) {
            continue;
        }
        for (offset, _) in block.iter().enumerate().filter(|(_, byte)| **byte == OUT_DX_EAX) {
            if sites.len() == at_most {
                return sites;
            }
            sites.extend(before(code, outs.start + index * BLOCK + offset));
        }
    }
    sites
}

/// Bytes that are compared at once.
const BLOCK: usize = 64;

/// Returns the site of the `out` at this offset.
fn before(code: &[u8], out: usize) -> Option<Site> {
    let last = out.checked_sub(MOV)?;
    let first = last.saturating_sub(BETWEEN_MAX);
    (first..=last).rev().find_map(|at| {
        let (MOV_EDX, immediate) = (code[at], &code[at + 1..at + MOV]) else { return None };
        let port = u16::try_from(u32::from_le_bytes(immediate.try_into().ok()?)).ok()?;
        let known = (HYPERCALL_PORT..HYPERCALL_PORT_END).contains(&port) || port == RING_KICK_PORT;
        let site = Site { at, out, port };
        (known && sets_up(code, site) && starts_at(code, site)).then_some(site)
    })
}

/// Returns true if the site consists of the instructions of a site, which work the same at another
/// address.
fn sets_up(code: &[u8], site: Site) -> bool {
    let mut at = site.at;
    while at < site.out {
        let Some(instruction) = decode(code, at) else { return false };
        if at > site.at && !loads_a_register(&instruction) {
            return false;
        }
        at += length(&instruction);
    }
    at == site.out
}

/// Returns true for an instruction that only loads a register other than RDX and RSP, from
/// constants and registers other than RIP. It raises no exception.
fn loads_a_register(instruction: &Instruction) -> bool {
    let general = |register: RegSpec| [register_class::D, register_class::Q].contains(&register.class());
    const RDX: u8 = 2;
    const RSP: u8 = 4;
    let Operand::Register { reg: target } = instruction.operand(0) else { return false };
    let source = match (instruction.opcode(), instruction.operand(1)) {
        (
            Opcode::MOV,
            Operand::ImmediateI32 { .. }
            | Operand::ImmediateU32 { .. }
            | Operand::ImmediateI64 { .. }
            | Operand::ImmediateU64 { .. },
        ) => true,
        (Opcode::MOV, Operand::Register { reg }) => general(reg),
        (Opcode::LEA, Operand::MemDeref { base } | Operand::Disp { base, .. }) => general(base),
        _ => false,
    };
    source && general(target) && ![RDX, RSP].contains(&target.num())
}

/// Returns true if an instruction starts at the site and no branch nearby leads between the bytes
/// of the `mov`.
fn starts_at(code: &[u8], site: Site) -> bool {
    let first = site.at.saturating_sub(CONTEXT);
    // An instruction starts at the start of a segment. Elsewhere, one starts at one of the next
    // bytes.
    let starts = if first == 0 { 0..1 } else { first..first + LONGEST };
    let mut visited = [false; CONTEXT];
    let mut confirmed = false;
    for start in starts {
        let mut at = start;
        while at < site.at && !std::mem::replace(&mut visited[at - first], true) {
            let Some(instruction) = decode(code, at) else { break };
            let next = at + length(&instruction);
            if next > site.at || leads_into(&instruction, next, site) {
                return false;
            }
            at = next;
        }
        confirmed |= at == site.at;
    }
    let mut at = site.out;
    while at < (site.out + AHEAD).min(code.len()) {
        let Some(instruction) = decode(code, at) else { break };
        at += length(&instruction);
        if leads_into(&instruction, at, site) {
            return false;
        }
    }
    confirmed || site.at == 0
}

/// Returns true for a direct branch, followed by the offset `next`, to a byte of the `mov` behind
/// its first byte.
fn leads_into(instruction: &Instruction, next: usize, site: Site) -> bool {
    use Opcode::{CALL, JA, JB, JG, JGE, JL, JLE, JMP, JNA, JNB, JNO, JNP, JNS, JNZ, JO, JP, JRCXZ, JS, JZ};
    use Opcode::{LOOP, LOOPNZ, LOOPZ};
    let branches =
        [CALL, JA, JB, JG, JGE, JL, JLE, JMP, JNA, JNB, JNO, JNP, JNS, JNZ, JO, JP, JRCXZ, JS, JZ, LOOP, LOOPNZ, LOOPZ];
    let distance = match instruction.operand(0) {
        Operand::ImmediateI8 { imm } => i64::from(imm),
        Operand::ImmediateI32 { imm } => i64::from(imm),
        _ => return false,
    };
    let target = next as i64 + distance;
    branches.contains(&instruction.opcode()) && (site.at as i64 + 1..site.after_mov() as i64).contains(&target)
}

fn decode(code: &[u8], at: usize) -> Option<Instruction> {
    let bytes = code.get(at..code.len().min(at + LONGEST))?;
    InstDecoder::default().decode(&mut U8Reader::new(bytes)).ok()
}

fn length(instruction: &Instruction) -> usize {
    instruction.len().to_const() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_in(code: &[u8]) -> Vec<Site> {
        find(code, 0..code.len(), 8)
    }

    /// Returns the sites in `code`, which follows a hundred bytes of other instructions.
    fn sites(code: &[u8]) -> Vec<(usize, usize, u16)> {
        // push rbp; mov rbp, rsp; mov [rbp - 8], rdi; test edi, edi
        let mut all = b"\x55\x48\x89\xe5\x48\x89\x7d\xf8\x85\xff".repeat(11);
        let start = all.len();
        all.extend(code);
        all.extend([0x90; 40]);
        all_in(&all).into_iter().map(|site| (site.at - start, site.out - start, site.port)).collect()
    }

    #[test]
    fn sites_of_compilers_are_found() {
        assert_eq!(sites(b"\xba\x01\x05\0\0\xef"), [(0, 5, 0x501)]);
        assert_eq!(sites(b"\xba\0\x06\0\0\xef"), [(0, 5, 0x600)]);
        // mov eax, ebx
        assert_eq!(sites(b"\xba\x02\x05\0\0\x89\xd8\xef\xba\x03\x05\0\0\xef"), [(0, 7, 0x502), (8, 13, 0x503)]);
        // lea rax, [rsp + 8]
        assert_eq!(sites(b"\xba\x02\x05\0\0\x48\x8d\x44\x24\x08\xef"), [(0, 10, 0x502)]);
        // mov eax, imm32; mov r8, rdi
        assert_eq!(sites(b"\xba\x02\x05\0\0\xb8\0\x10\x10\0\x49\x89\xf8\xef"), [(0, 13, 0x502)]);
        // Two bytes of padding before a site at the start of a segment.
        assert_eq!(all_in(b"\x66\x90\xba\x01\x05\0\0\xef"), [Site { at: 2, out: 7, port: 0x501 }]);
    }

    #[test]
    fn other_code_is_left_alone() {
        for code in [
            &b"\xba\xff\x04\0\0\xef"[..],                    // another port
            b"\xba\x01\x06\0\0\xef",                         // another port
            b"\x41\xba\x01\x05\0\0\xef",                     // mov r10d, 0x501
            b"\x66\xba\x01\x05\xef",                         // mov dx, 0x501
            b"\xba\x01\x05\0\0\x90\xef",                     // nop
            b"\xba\x01\x05\0\0\x89\xda\xef",                 // mov edx, ebx
            b"\xba\x01\x05\0\0\x8b\x03\xef",                 // mov eax, [rbx]
            b"\xba\x01\x05\0\0\x48\x8d\x05\0\0\0\0\xef",     // lea rax, [rip]
            b"\xba\x01\x05\0\0\x8e\xd8\xef",                 // mov ds, eax
            b"\xba\x01\x05\0\0\x0f\x20\xc0\xef",             // mov rax, cr0
            b"\xba\x01\x05\0\0\xb8\xef\0\0\0",               // the `out` is a constant
            b"\x48\xb8\xba\x01\x05\0\0\xef\0\0",             // mov rax, 0xef00000501ba
            b"\xeb\x01\xba\x01\x05\0\0\xef",                 // jmp to the second byte
            b"\xba\x01\x05\0\0\xef\xeb\xfc",                 // jmp to the last byte of the `mov`
            b"\xba\x01\x05\0\0\xef\x0f\x84\xf5\xff\xff\xff", // jz to the second byte
        ] {
            assert_eq!(sites(code), [], "{code:02x?}");
        }
        // Branches to the start of the site and behind the `mov` are harmless.
        assert_eq!(sites(b"\xba\x01\x05\0\0\xef\xeb\xf8"), [(0, 5, 0x501)]);
        assert_eq!(sites(b"\xba\x01\x05\0\0\xef\xeb\xfd"), [(0, 5, 0x501)]);
    }

    #[test]
    fn truncated_code_is_no_site() {
        let code = b"\xba\x01\x05\0\0\xef";
        for len in 0..code.len() {
            assert_eq!(all_in(&code[..len]), []);
        }
        assert_eq!(all_in(code).len(), 1);
        assert_eq!(all_in(&code.repeat(9)).len(), 8);
    }
}
