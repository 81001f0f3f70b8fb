//! Probes of privileged operations: which ones a guest may execute.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::string::String;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use hvt_abi::{
    Gpa,
    kernel::Exit,
    x86_64::{Cr0, Cr4, Efer, EntryState, msr},
};
use kernel_hvt_glue::Cpu;
use x86_64::registers::model_specific::Msr;

use super::{
    Answer, Context, Probe, Verdict, code, expect_eq, expect_matches,
    machine::{CODE, DATA, MEMORY, Machine},
};
use crate::{cpu, host::Kernel};

pub(super) const PROBES: &[Probe] = &[
    Probe { name: "cpuid", run: cpuid },
    Probe { name: "allowed-msrs", run: allowed_msrs },
    Probe { name: "denied-msrs", run: denied_msrs },
    Probe { name: "control-registers", run: control_registers },
    Probe { name: "xsetbv", run: xsetbv },
    Probe { name: "hypervisor-instructions", run: hypervisor_instructions },
    Probe { name: "rdpid", run: rdpid },
    Probe { name: "xsaves", run: xsaves },
];

/// Returns EAX, EBX, ECX, EDX of a CPUID leaf in a guest.
fn guest_cpuid(context: &mut Context<'_>, leaf: u32, subleaf: u32) -> Result<[u32; 4], String> {
    let mut machine = Machine::new(context.hypervisor, code::cpuid())?;
    machine.set(|registers| {
        registers.rax = leaf.into();
        registers.rcx = subleaf.into();
    });
    expect_eq!(machine.run(context.cpu)?, Exit::Halt);
    let registers = machine.vcpu.registers();
    let words = [registers.rax, registers.rbx, registers.rcx, registers.rdx];
    expect_matches!(words, _ if words.iter().all(|&word| word <= u32::MAX.into()));
    Ok(words.map(|word| word as u32))
}

/// CPUID in a guest describes the physical CPU, without the features that are hidden from guests.
fn cpuid(context: &mut Context<'_>) -> Answer {
    let vendor = __cpuid(0);
    let [_, ebx, ecx, edx] = guest_cpuid(context, 0, 0)?;
    expect_eq!([ebx, ecx, edx], [vendor.ebx, vendor.ecx, vendor.edx]);
    let [_, _, ecx, edx] = guest_cpuid(context, 1, 0)?;
    // SSE2 and TSC are present; VMX (bit 5) and MONITOR (bit 3) are not.
    expect_eq!(edx & (1 << 26 | 1 << 4), 1 << 26 | 1 << 4);
    expect_eq!(ecx & (1 << 5 | 1 << 3), 0);
    // OSXSAVE reflects the guest's CR4.
    expect_eq!(ecx & 1 << 27, 0);
    // SVM (bit 2) and its leaf.
    let [_, _, ecx, _] = guest_cpuid(context, 0x8000_0001, 0)?;
    expect_eq!(ecx & 1 << 2, 0);
    expect_eq!(guest_cpuid(context, 0x8000_000a, 0)?, [0; 4]);
    Ok(Verdict::Passed)
}

/// Reads MSR `number` in the guest. Returns `None` on #GP, which is a triple fault in a guest
/// without handlers.
fn read(context: &mut Context<'_>, number: u32) -> Result<Option<u64>, String> {
    let mut machine = Machine::new(context.hypervisor, code::rdmsr())?;
    machine.set(|registers| registers.rcx = number.into());
    finish(&mut machine, context.cpu)
}

/// Writes MSR `number` and reads it back. Returns `None` on #GP.
fn write(context: &mut Context<'_>, number: u32, value: u64) -> Result<Option<u64>, String> {
    let mut machine = Machine::new(context.hypervisor, code::wrmsr())?;
    machine.set(|registers| {
        registers.rcx = number.into();
        registers.rax = value & 0xffff_ffff;
        registers.rdx = value >> 32;
    });
    finish(&mut machine, context.cpu)
}

/// Returns EDX:EAX at the end, or `None` on an exception.
fn finish(machine: &mut Machine, cpu: &mut Cpu<Kernel>) -> Result<Option<u64>, String> {
    match machine.run(cpu)? {
        Exit::Halt => {
            let registers = machine.vcpu.registers();
            Ok(Some(registers.rdx << 32 | registers.rax))
        }
        Exit::TripleFault => Ok(None),
        exit => Err(alloc::format!("{exit}")),
    }
}

/// The MSRs that a guest needs hold the value written.
fn allowed_msrs(context: &mut Context<'_>) -> Answer {
    let address = 0xffff_8765_4321_0000;
    for number in [msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE] {
        expect_eq!(write(context, number, address)?, Some(address));
    }
    let pat = 0x0007_0406_0007_0406;
    expect_eq!(write(context, msr::PAT, pat)?, Some(pat));
    expect_eq!(write(context, msr::PAT, 2)?, None);
    let efer = EntryState::new(MEMORY, CODE).efer;
    expect_eq!(read(context, msr::EFER)?, Some(efer.bits()));
    expect_eq!(write(context, msr::EFER, (efer | Efer::SCE).bits())?, Some((efer | Efer::SCE).bits()));
    // SAFETY: every CPU has this MSR.
    let host = unsafe { Msr::new(msr::TSC).read() };
    expect_matches!(read(context, msr::TSC)?, Some(guest) if guest >= host);
    Ok(Verdict::Passed)
}

/// Every other MSR causes #GP: MSRs that affect the host, and MSRs that do not exist.
fn denied_msrs(context: &mut Context<'_>) -> Answer {
    let efer = EntryState::new(MEMORY, CODE).efer;
    expect_eq!(write(context, msr::EFER, (efer | Efer::SVME).bits())?, None);
    // IA32_APIC_BASE, IA32_FEATURE_CONTROL, IA32_SYSENTER_EIP, IA32_DEBUGCTL, IA32_VMX_BASIC, STAR,
    // LSTAR, CSTAR, SFMASK, VM_CR, VM_HSAVE_PA; and numbers at and beyond the ends of the ranges
    // that the bitmaps of either vendor cover.
    let numbers = [
        0x1b,
        0x3a,
        0x176,
        0x1d9,
        0x480,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc001_0114,
        0xc001_0117,
        0,
        0x1fff,
        0x2000,
        0x4000_0000,
        0xbfff_ffff,
        0xc000_1fff,
        0xc000_2000,
        0xc000_ffff,
        0xc001_1fff,
        0xc001_2000,
        0xffff_ffff,
    ];
    for number in numbers {
        expect_matches!((number, read(context, number)?), (_, None));
        expect_matches!((number, write(context, number, 0)?), (_, None));
    }
    Ok(Verdict::Passed)
}

/// Leaving 64-bit mode and setting a reserved bit cause #GP in 64-bit mode (SDM volume 2, MOV to
/// control registers). The guest may change the other bits.
fn control_registers(context: &mut Context<'_>) -> Answer {
    let entry = EntryState::new(MEMORY, CODE);
    let mut run = |code, value| {
        let mut machine = Machine::new(context.hypervisor, code)?;
        machine.set(|registers| registers.rax = value);
        machine.run(context.cpu)
    };
    let cr0 = entry.cr0;
    expect_eq!(run(code::set_cr0(), (cr0 | Cr0::MP | Cr0::AM).bits())?, Exit::Halt);
    expect_eq!(run(code::set_cr0(), cr0.difference(Cr0::PG).bits())?, Exit::TripleFault);
    expect_eq!(run(code::set_cr0(), 1 << 32)?, Exit::TripleFault);
    let cr4 = entry.cr4;
    expect_eq!(run(code::set_cr4(), (cr4 | Cr4::PGE).bits())?, Exit::Halt);
    expect_eq!(run(code::set_cr4(), cr4.difference(Cr4::PAE).bits())?, Exit::TripleFault);
    expect_eq!(run(code::set_cr4(), (cr4 | Cr4::VMXE).bits())?, Exit::TripleFault);
    expect_eq!(run(code::set_cr4(), 1 << 63)?, Exit::TripleFault);
    Ok(Verdict::Passed)
}

/// Writes XCR0, exits, and reads XCR0. Returns `None` on an exception.
fn write_xcr0(context: &mut Context<'_>, value: u64) -> Result<Option<u64>, String> {
    let mut machine = Machine::new(context.hypervisor, code::set_xcr0())?;
    machine.set(|registers| registers.rax = value);
    match machine.run(context.cpu)? {
        Exit::Io(_) => finish(&mut machine, context.cpu),
        exit => {
            expect_eq!(exit, Exit::TripleFault);
            Ok(None)
        }
    }
}

/// XCR0 accepts the components that the CPU has, in the combinations that the architecture allows.
fn xsetbv(context: &mut Context<'_>) -> Answer {
    let all = u64::from(__cpuid_count(0xd, 0).eax & 7);
    expect_eq!(write_xcr0(context, all)?, Some(all));
    // Without x87; AVX without SSE; a component that no CPU has.
    expect_eq!(write_xcr0(context, 2)?, None);
    expect_eq!(write_xcr0(context, 5)?, None);
    expect_eq!(write_xcr0(context, 1 << 30 | 3)?, None);
    Ok(Verdict::Passed)
}

/// Instructions of VMX and SVM cause #UD in a guest.
fn hypervisor_instructions(context: &mut Context<'_>) -> Answer {
    for code in [code::vmrun(), code::vmmcall(), code::vmxon(), code::vmcall(), code::monitor()] {
        let mut machine = Machine::new(context.hypervisor, code)?;
        machine.set(|registers| {
            registers.rax = DATA.0;
            registers.rdi = DATA.0;
        });
        expect_eq!(machine.run(context.cpu)?, Exit::TripleFault);
    }
    // `invd` would discard the host's cached writes: it has no effect, or ends the guest. (QEMU
    // reports `invd` as `wbinvd`.)
    let mut machine = Machine::new(context.hypervisor, code::invd())?;
    expect_matches!(machine.run(context.cpu)?, Exit::Halt | Exit::TripleFault | Exit::Undecodable { .. });
    Ok(Verdict::Passed)
}

/// RDPID causes #UD in a guest, or does not identify the physical CPU; the kernel's TSC_AUX is
/// restored afterwards.
fn rdpid(context: &mut Context<'_>) -> Answer {
    if !cpu::has_tsc_aux() {
        return Ok(Verdict::Skipped("the CPU has no TSC_AUX"));
    }
    let mut machine = Machine::new(context.hypervisor, code::rdpid())?;
    machine.set(|registers| registers.rax = 7);
    match machine.run(context.cpu)? {
        Exit::Halt => expect_eq!(machine.vcpu.registers().rax, 0),
        exit => expect_eq!(exit, Exit::TripleFault),
    }
    // SAFETY: the CPU has the register.
    let kernels = unsafe { Msr::new(cpu::TSC_AUX).read() };
    expect_eq!(kernels, cpu::tsc_aux(cpu::index() as usize));
    Ok(Verdict::Passed)
}

/// XSAVES causes #UD in a guest, or saves only the components of XCR0.
fn xsaves(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::xsaves())?;
    machine.set(|registers| registers.rdi = DATA.0);
    match machine.run(context.cpu)? {
        Exit::Halt => {
            // XCOMP_BV, after XSTATE_BV at the end of the legacy region (SDM volume 1, 13.4.2).
            let saved = machine.words(Gpa(DATA.0 + 520), 1)?[0];
            expect_eq!(saved & !(1 << 63), 3);
        }
        exit => expect_eq!(exit, Exit::TripleFault),
    }
    Ok(Verdict::Passed)
}
