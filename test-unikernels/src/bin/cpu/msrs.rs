//! Reads and writes every MSR in the ranges that CPUs and hypervisors use, and compares the results
//! with the ABI's list.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::{asm, naked_asm};
use core::ops::Range;

use guest_bindings::abi::x86_64::{Vector, msr};
use guest_bindings::{ExitStatus, println};
use test_unikernels::{check, failure, handle, success};

/// MSRs of Intel and common MSRs; of Hyper-V and Xen; of KVM; of AMD, in two ranges.
const RANGES: [Range<u32>; 5] =
    [0..0x2000, 0x4000_0000..0x4000_0200, 0x4b56_4d00..0x4b56_4e00, 0xc000_0000..0xc000_2000, 0xc001_0000..0xc001_2000];

/// IA32_TSC_DEADLINE. On Intel, KVM up to Linux 6.17 performs writes before it checks the filter.
/// Without an APIC, such writes have no effect and raise no #GP.
const TSC_DEADLINE: u32 = 0x6e0;

/// Maximum number of lines about MSRs that differ from the list.
const REPORTED: usize = 8;

/// Memory that hypervisors are asked to write to.
#[repr(C, align(4096))]
struct Page([u64; 512]);
static mut PAGE: Page = Page([0; 512]);

/// Returns the address of the page, which equals its guest-physical address.
pub(super) fn page() -> u64 {
    (&raw const PAGE).expose_provenance() as u64
}

/// Checks every `step`th register and all listed registers, and checks that no write made a
/// hypervisor write to memory.
pub(super) fn walk(step: u32) -> ExitStatus {
    // SAFETY: The instructions below declare ESI.
    unsafe { handle(Vector::GeneralProtection, refuse) };
    let mut wrong = 0;
    let mut report = |what, register| {
        wrong += 1;
        if wrong <= REPORTED {
            println!("MSR {register:#x} {what}");
        }
    };
    let chosen = |register: &u32| register.is_multiple_of(step) || msr::is_allowed(*register);
    for register in RANGES.into_iter().flatten().filter(chosen) {
        // SAFETY: Reads have no effect on this guest.
        let value = unsafe { read(register) };
        match value {
            None if msr::is_allowed(register) => report("cannot be read", register),
            None => {}
            Some(_) if !msr::is_allowed(register) => report("can be read", register),
            // The process backend does not support writes of the TSC.
            Some(_) if register == msr::TSC => {}
            // SAFETY: The register keeps its value.
            Some(value) => unsafe {
                if !write(register, value) {
                    report("cannot be written", register);
                }
                if read(register) != Some(value) {
                    report("has changed", register);
                }
            },
        }
        // Bit 0 enables the feature that makes KVM write to memory.
        // SAFETY: The write is rejected, or the test has failed.
        if !msr::is_allowed(register) && register != TSC_DEADLINE && unsafe { write(register, page() | 1) } {
            report("can be written", register);
        }
    }
    // SAFETY: Reading has no effect.
    let pat = unsafe { read(msr::PAT) };
    check(pat == Some(msr::PAT_RESET), format_args!("PAT is {pat:x?}"));
    // SAFETY: This guest has one thread and never writes to the page.
    let page = unsafe { (&raw const PAGE).read_volatile() };
    check(page.0.iter().all(|&word| word == 0), "a hypervisor has written to memory");
    if wrong != 0 {
        failure(format_args!("{wrong} MSRs differ from the list"));
    }
    success()
}

/// Handler of #GP. It skips the two-byte RDMSR or WRMSR and sets ESI.
#[unsafe(naked)]
unsafe extern "C" fn refuse() {
    naked_asm!("add rsp, 8", "mov esi, 1", "add qword ptr [rsp], 2", "iretq")
}

/// Reads an MSR. Returns `None` if the read raises #GP.
///
/// # Safety
///
/// [`refuse`] must handle #GP.
unsafe fn read(register: u32) -> Option<u64> {
    let (low, high, refused): (u32, u32, u32);
    // SAFETY: Guaranteed by the caller.
    unsafe {
        asm!(
            "rdmsr",
            in("ecx") register, out("eax") low, out("edx") high, inout("esi") 0_u32 => refused, options(nostack),
        );
    }
    (refused == 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Writes an MSR. Returns `false` if the write raises #GP.
///
/// # Safety
///
/// [`refuse`] must handle #GP, and the guest must be able to run with the new value.
unsafe fn write(register: u32, value: u64) -> bool {
    let (low, high) = (value as u32, (value >> 32) as u32);
    let mut refused = 0_u32;
    // SAFETY: Guaranteed by the caller.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, inout("esi") refused, options(nostack));
    }
    refused == 0
}
