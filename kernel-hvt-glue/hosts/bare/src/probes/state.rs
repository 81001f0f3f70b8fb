//! Probes of guest state: registers, FPU and AVX state, and memory stay separate between guests.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::vec::Vec;
use core::arch::asm;

use hvt_abi::{Gpa, kernel::Exit};
use raw_cpuid::CpuId;

use super::{
    Answer, Context, Probe, Verdict, code, expect_eq, expect_matches,
    machine::{DATA, Machine},
};
use crate::host;

pub(super) const PROBES: &[Probe] = &[
    Probe { name: "interleaved-registers", run: interleaved_registers },
    Probe { name: "interleaved-avx", run: interleaved_avx },
    Probe { name: "interleaved-memory", run: interleaved_memory },
    Probe { name: "host-fpu", run: host_fpu },
];

/// Address of the words that a guest reads back.
const RESULTS: Gpa = Gpa(DATA.0 + 0x1000);

/// Number of words that `code::state` loads and stores.
const STATE_WORDS: usize = 42;

/// Returns values for these words, different for each `seed`.
fn state(seed: u64) -> Vec<u64> {
    let mut words: Vec<u64> = (0..STATE_WORDS as u64)
        .map(|index| (index + 1).wrapping_mul(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect();
    for address in &mut words[32..40] {
        // Linear addresses must be canonical.
        *address = ((*address << 17) as i64 >> 17) as u64;
    }
    // MXCSR: exceptions masked, a rounding mode and flags.
    words[40] = 0x1f80 | ((seed % 4) << 13) | (seed % 0x40);
    words
}

/// Two VMs run in turns; each finds its registers unchanged.
fn interleaved_registers(context: &mut Context<'_>) -> Answer {
    let mut machines = Vec::new();
    for seed in [3, 5] {
        let mut machine = Machine::new(context.hypervisor, code::state())?;
        machine.put(DATA, &state(seed))?;
        machine.set(|registers| {
            registers.rdi = DATA.0;
            registers.rsi = RESULTS.0;
        });
        machines.push(machine);
    }
    for round in 0..50 {
        // At every exit the registers are loaded; the other VM then loads its own.
        for machine in &mut machines {
            let exit = machine.run(context.cpu)?;
            expect_matches!(exit, Exit::Io(_));
        }
        clobber_vector_registers();
        for (machine, seed) in machines.iter_mut().zip([3, 5]) {
            let exit = machine.run(context.cpu)?;
            expect_matches!(exit, Exit::Io(_));
            expect_eq!(machine.words(RESULTS, STATE_WORDS)?, state(seed + 2 * round));
            machine.put(DATA, &state(seed + 2 * (round + 1)))?;
        }
    }
    Ok(Verdict::Passed)
}

/// As `interleaved_registers`, for the upper halves of YMM registers if the CPU has AVX.
fn interleaved_avx(context: &mut Context<'_>) -> Answer {
    if !CpuId::new().get_feature_info().is_some_and(|features| features.has_avx()) {
        return Ok(Verdict::Skipped("the CPU has no AVX"));
    }
    let words = |seed: u64| (1..17).map(|index| index * seed * 0x0101_0101_0101).collect::<Vec<u64>>();
    let mut machines = Vec::new();
    for seed in [1, 2, 3] {
        let mut machine = Machine::new(context.hypervisor, code::avx())?;
        machine.put(DATA, &words(seed))?;
        machine.set(|registers| {
            registers.rdi = DATA.0;
            registers.rsi = RESULTS.0;
        });
        let exit = machine.run(context.cpu)?;
        expect_matches!(exit, Exit::Io(_));
        machines.push((seed, machine));
    }
    clobber_vector_registers();
    for (seed, machine) in &mut machines {
        expect_eq!(machine.run(context.cpu)?, Exit::Halt);
        expect_eq!(machine.words(RESULTS, 16)?, words(*seed));
    }
    Ok(Verdict::Passed)
}

/// Two VMs count at the same guest address, in turns of one timer tick, until both have made
/// progress.
fn interleaved_memory(context: &mut Context<'_>) -> Answer {
    /// Maximum number of turns. A turn may end before it begins.
    const TURNS: u32 = 1000;
    const STARTS: [u64; 2] = [0, 1 << 62];
    let mut machines = Vec::new();
    for start in STARTS {
        let mut machine = Machine::new(context.hypervisor, code::count())?;
        machine.put(DATA, &[start])?;
        machine.set(|registers| registers.rdi = DATA.0);
        machines.push(machine);
    }
    let mut counts = STARTS;
    for turn in 0.. {
        for (count, machine) in counts.iter_mut().zip(&mut machines) {
            host::set_time_slice(1);
            expect_eq!(machine.run_slice(context.cpu)?, Exit::Interrupted);
            let now = machine.words(DATA, 1)?[0];
            expect_matches!(now, _ if now >= *count && now >> 62 == *count >> 62);
            *count = now;
        }
        if turn >= 10 && counts.iter().zip(STARTS).all(|(count, start)| *count > start) {
            break;
        }
        expect_matches!(turn, ..TURNS);
    }
    Ok(Verdict::Passed)
}

/// The host's own vector registers survive a guest that changes all of them.
fn host_fpu(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::state())?;
    machine.put(DATA, &state(7))?;
    machine.set(|registers| {
        registers.rdi = DATA.0;
        registers.rsi = RESULTS.0;
    });
    // The callee may change vector registers, but not MXCSR's control bits (System V ABI).
    let control = || {
        let mut value = 0u32;
        // SAFETY: stores MXCSR to a variable.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
        value & !0x3f
    };
    let before = control();
    let exit = machine.run(context.cpu)?;
    expect_matches!(exit, Exit::Io(_));
    expect_eq!(control(), before);
    Ok(Verdict::Passed)
}

/// Fills every XMM register with a value that no guest has.
fn clobber_vector_registers() {
    let value = [0xa5u8; 16];
    // SAFETY: loads registers that are declared as changed.
    unsafe {
        asm!(
            "movdqu xmm0, [{value}]", "movdqa xmm1, xmm0", "movdqa xmm2, xmm0", "movdqa xmm3, xmm0",
            "movdqa xmm4, xmm0", "movdqa xmm5, xmm0", "movdqa xmm6, xmm0", "movdqa xmm7, xmm0",
            "movdqa xmm8, xmm0", "movdqa xmm9, xmm0", "movdqa xmm10, xmm0", "movdqa xmm11, xmm0",
            "movdqa xmm12, xmm0", "movdqa xmm13, xmm0", "movdqa xmm14, xmm0", "movdqa xmm15, xmm0",
            value = in(reg) &raw const value,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack, preserves_flags, readonly),
        );
    }
}
