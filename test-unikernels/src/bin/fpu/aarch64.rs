//! aarch64: SIMD and floating-point registers, and their control and status registers.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::abi::hypercall::{Number, Walltime};
use test_unikernels::{check, raw};

/// A hypercall that changes only its argument: address and value of the store.
struct Call {
    address: u64,
    argument: u32,
}

pub(super) fn check_registers() {
    let mut argument = Walltime::default();
    let argument = (&raw mut argument).expose_provenance() as u32;
    let call = Call { address: raw::address_of(Number::Walltime), argument };
    for round in 0..100 {
        vectors(&call, round);
        control(&call);
    }
}

fn vectors(call: &Call, round: u128) {
    #[repr(C, align(16))]
    struct Registers([u128; 32]);
    let values: [u128; 32] = core::array::from_fn(|index| (index as u128 + 1) << 120 | round << 64 | index as u128);
    let mut registers = Registers(values);
    // SAFETY: The hypercall writes to its argument, which does not move. All modified registers are
    // declared.
    unsafe {
        asm!(
            "ldp q0, q1, [{r}]", "ldp q2, q3, [{r}, #32]", "ldp q4, q5, [{r}, #64]", "ldp q6, q7, [{r}, #96]",
            "ldp q8, q9, [{r}, #128]", "ldp q10, q11, [{r}, #160]", "ldp q12, q13, [{r}, #192]",
            "ldp q14, q15, [{r}, #224]", "ldp q16, q17, [{r}, #256]", "ldp q18, q19, [{r}, #288]",
            "ldp q20, q21, [{r}, #320]", "ldp q22, q23, [{r}, #352]", "ldp q24, q25, [{r}, #384]",
            "ldp q26, q27, [{r}, #416]", "ldp q28, q29, [{r}, #448]", "ldp q30, q31, [{r}, #480]",
            "str {argument:w}, [{address}]",
            "stp q0, q1, [{r}]", "stp q2, q3, [{r}, #32]", "stp q4, q5, [{r}, #64]", "stp q6, q7, [{r}, #96]",
            "stp q8, q9, [{r}, #128]", "stp q10, q11, [{r}, #160]", "stp q12, q13, [{r}, #192]",
            "stp q14, q15, [{r}, #224]", "stp q16, q17, [{r}, #256]", "stp q18, q19, [{r}, #288]",
            "stp q20, q21, [{r}, #320]", "stp q22, q23, [{r}, #352]", "stp q24, q25, [{r}, #384]",
            "stp q26, q27, [{r}, #416]", "stp q28, q29, [{r}, #448]", "stp q30, q31, [{r}, #480]",
            r = in(reg) &raw mut registers, address = in(reg) call.address, argument = in(reg) call.argument,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _,
            out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
            out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _,
            out("v29") _, out("v30") _, out("v31") _, options(nostack),
        );
    }
    check(registers.0 == values, "vector registers have changed");
}

fn control(call: &Call) {
    // Rounding up and flush-to-zero (FPCR.RMode, FPCR.FZ); an overflow has occurred (FPSR.OFC).
    let (control, status) = (1_u64 << 22 | 1 << 24, 1_u64 << 2);
    let (control_after, status_after): (u64, u64);
    // SAFETY: As above. The registers are restored.
    unsafe {
        asm!(
            "mrs {usual}, FPCR", "msr FPCR, {control}", "msr FPSR, {status}",
            "str {argument:w}, [{address}]",
            "mrs {control}, FPCR", "mrs {status}, FPSR", "msr FPCR, {usual}", "msr FPSR, xzr",
            control = inout(reg) control => control_after, status = inout(reg) status => status_after,
            usual = out(reg) _, address = in(reg) call.address, argument = in(reg) call.argument, options(nostack),
        );
    }
    check(control_after == control, format_args!("FPCR is {control_after:#x}"));
    check(status_after == status, format_args!("FPSR is {status_after:#x}"));
}
