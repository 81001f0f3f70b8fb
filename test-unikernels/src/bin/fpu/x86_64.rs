//! x86_64: registers of the FPU, of SSE and, if the guest may use it, of AVX.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use guest_bindings::abi::hypercall::{Number, Walltime};
use guest_bindings::abi::x86_64::HYPERCALL_PORT;
use guest_bindings::println;
use test_unikernels::check;

/// Port and argument of a hypercall that changes only its argument.
struct Call {
    port: u16,
    argument: u32,
}

pub(super) fn check_registers() {
    let mut argument = Walltime::default();
    let call = Call {
        port: HYPERCALL_PORT + Number::Walltime as u16,
        argument: (&raw mut argument).expose_provenance() as u32,
    };
    for round in 0..100 {
        sse(&call, round);
        control_words(&call);
        x87(&call);
    }
    // CPUID.1:ECX.OSXSAVE: CR4.OSXSAVE is set. AVX: the CPU has AVX.
    const OSXSAVE_AND_AVX: u32 = 1 << 27 | 1 << 28;
    if __cpuid(1).ecx & OSXSAVE_AND_AVX == OSXSAVE_AND_AVX {
        println!("with AVX");
        for round in 0..100 {
            avx(&call, round);
        }
    }
}

fn sse(call: &Call, round: u128) {
    #[repr(C, align(16))]
    struct Registers([u128; 16]);
    let values: [u128; 16] = core::array::from_fn(|index| (index as u128 + 1) << 120 | round << 64 | index as u128);
    let mut registers = Registers(values);
    // SAFETY: The hypercall writes to its argument, which does not move. All modified registers are
    // declared.
    unsafe {
        asm!(
            "movaps xmm0, [{r}]", "movaps xmm1, [{r} + 16]", "movaps xmm2, [{r} + 32]", "movaps xmm3, [{r} + 48]",
            "movaps xmm4, [{r} + 64]", "movaps xmm5, [{r} + 80]", "movaps xmm6, [{r} + 96]", "movaps xmm7, [{r} + 112]",
            "movaps xmm8, [{r} + 128]", "movaps xmm9, [{r} + 144]", "movaps xmm10, [{r} + 160]",
            "movaps xmm11, [{r} + 176]", "movaps xmm12, [{r} + 192]", "movaps xmm13, [{r} + 208]",
            "movaps xmm14, [{r} + 224]", "movaps xmm15, [{r} + 240]",
            "out dx, eax",
            "movaps [{r}], xmm0", "movaps [{r} + 16], xmm1", "movaps [{r} + 32], xmm2", "movaps [{r} + 48], xmm3",
            "movaps [{r} + 64], xmm4", "movaps [{r} + 80], xmm5", "movaps [{r} + 96], xmm6", "movaps [{r} + 112], xmm7",
            "movaps [{r} + 128], xmm8", "movaps [{r} + 144], xmm9", "movaps [{r} + 160], xmm10",
            "movaps [{r} + 176], xmm11", "movaps [{r} + 192], xmm12", "movaps [{r} + 208], xmm13",
            "movaps [{r} + 224], xmm14", "movaps [{r} + 240], xmm15",
            r = in(reg) &raw mut registers, in("dx") call.port, in("eax") call.argument,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
            out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
            out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack),
        );
    }
    check(registers.0 == values, "XMM registers have changed");
}

fn control_words(call: &Call) {
    // All exceptions masked; rounding up (SSE), down (x87, with 53 bits of precision).
    let (mxcsr, control) = (0x5f80_u32, 0x067f_u16);
    let (mut mxcsr_after, mut control_after) = (0_u32, 0_u16);
    // SAFETY: As above. The default control words are restored.
    unsafe {
        asm!(
            "ldmxcsr [{mxcsr}]", "fldcw [{control}]", "out dx, eax", "stmxcsr [{mxcsr_after}]",
            "fnstcw [{control_after}]", "ldmxcsr [{usual_mxcsr}]", "fninit",
            mxcsr = in(reg) &mxcsr, control = in(reg) &control, mxcsr_after = in(reg) &mut mxcsr_after,
            control_after = in(reg) &mut control_after, usual_mxcsr = in(reg) &0x1f80_u32,
            in("dx") call.port, in("eax") call.argument, options(nostack),
        );
    }
    check(mxcsr_after == mxcsr, format_args!("MXCSR is {mxcsr_after:#x}"));
    check(control_after == control, format_args!("the x87 control word is {control_after:#x}"));
}

fn x87(call: &Call) {
    let values = [1.5_f64, -2.25, 1e300, 0.1];
    let mut after = [0.0_f64; 4];
    // SAFETY: As above. The register stack is empty before and after.
    unsafe {
        asm!(
            "fld qword ptr [{v}]", "fld qword ptr [{v} + 8]", "fld qword ptr [{v} + 16]", "fld qword ptr [{v} + 24]",
            "out dx, eax",
            "fstp qword ptr [{a} + 24]", "fstp qword ptr [{a} + 16]", "fstp qword ptr [{a} + 8]",
            "fstp qword ptr [{a}]",
            v = in(reg) &values, a = in(reg) &mut after, in("dx") call.port, in("eax") call.argument,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _,
            out("st(6)") _, out("st(7)") _, options(nostack),
        );
    }
    check(after.map(f64::to_bits) == values.map(f64::to_bits), "x87 registers have changed");
}

/// Checks the upper halves of some YMM registers. [`sse`] checks the lower halves.
fn avx(call: &Call, round: u64) {
    #[repr(C, align(32))]
    struct Registers([u64; 12]);
    let values: [u64; 12] = core::array::from_fn(|index| round << 32 | index as u64 | 0xa << 60);
    let mut registers = Registers(values);
    // SAFETY: As above. The CPU has AVX, and it is enabled.
    unsafe {
        asm!(
            "vmovaps ymm0, [{r}]", "vmovaps ymm7, [{r} + 32]", "vmovaps ymm15, [{r} + 64]",
            "out dx, eax",
            "vmovaps [{r}], ymm0", "vmovaps [{r} + 32], ymm7", "vmovaps [{r} + 64], ymm15", "vzeroupper",
            r = in(reg) &raw mut registers, in("dx") call.port, in("eax") call.argument,
            out("xmm0") _, out("xmm7") _, out("xmm15") _, options(nostack),
        );
    }
    check(registers.0 == values, "YMM registers have changed");
}
