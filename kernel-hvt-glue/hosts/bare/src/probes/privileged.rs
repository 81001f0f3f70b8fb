//! What a guest may ask of the CPU, and what it may not.

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

/// EAX, EBX, ECX, EDX of a leaf, as a guest sees them.
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

/// The guest sees the CPU it runs on, without what is not for it.
fn cpuid(context: &mut Context<'_>) -> Answer {
    let vendor = __cpuid(0);
    let [_, ebx, ecx, edx] = guest_cpuid(context, 0, 0)?;
    expect_eq!([ebx, ecx, edx], [vendor.ebx, vendor.ecx, vendor.edx]);
    let [_, _, ecx, edx] = guest_cpuid(context, 1, 0)?;
    // SSE2 and TSC are there, VMX (bit 5) and MONITOR (bit 3) are not.
    expect_eq!(edx & (1 << 26 | 1 << 4), 1 << 26 | 1 << 4);
    expect_eq!(ecx & (1 << 5 | 1 << 3), 0);
    // OSXSAVE says what the guest's CR4 says.
    expect_eq!(ecx & 1 << 27, 0);
    // SVM (bit 2) and its leaf.
    let [_, _, ecx, _] = guest_cpuid(context, 0x8000_0001, 0)?;
    expect_eq!(ecx & 1 << 2, 0);
    expect_eq!(guest_cpuid(context, 0x8000_000a, 0)?, [0; 4]);
    Ok(Verdict::Passed)
}

/// Reads MSR `number` through the guest; `None` when that is a #GP, which a guest without handlers dies of.
fn read(context: &mut Context<'_>, number: u32) -> Result<Option<u64>, String> {
    let mut machine = Machine::new(context.hypervisor, code::rdmsr())?;
    machine.set(|registers| registers.rcx = number.into());
    finish(&mut machine, context.cpu)
}

/// Writes MSR `number` and reads it back; `None` when that is a #GP.
fn write(context: &mut Context<'_>, number: u32, value: u64) -> Result<Option<u64>, String> {
    let mut machine = Machine::new(context.hypervisor, code::wrmsr())?;
    machine.set(|registers| {
        registers.rcx = number.into();
        registers.rax = value & 0xffff_ffff;
        registers.rdx = value >> 32;
    });
    finish(&mut machine, context.cpu)
}

/// EDX:EAX at the end, `None` when there was an exception instead.
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

/// The few that a guest needs hold what it writes.
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

/// Everything else is a #GP: what would reach the host, and what does not exist.
fn denied_msrs(context: &mut Context<'_>) -> Answer {
    let efer = EntryState::new(MEMORY, CODE).efer;
    expect_eq!(write(context, msr::EFER, (efer | Efer::SVME).bits())?, None);
    // IA32_APIC_BASE, IA32_FEATURE_CONTROL, IA32_SYSENTER_EIP, IA32_DEBUGCTL, IA32_VMX_BASIC, STAR, LSTAR, CSTAR, SFMASK,
    // VM_CR, VM_HSAVE_PA; and numbers at and behind the ends of what the bitmaps of either vendor cover.
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

/// Leaving 64-bit mode is a #GP in 64-bit mode, and so is a reserved bit (SDM volume 2, MOV to control registers); the
/// rest is the guest's own affair.
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

/// Writes XCR0, exits, and reads XCR0; `None` when that is an exception.
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

/// XCR0 takes what the CPU has and architecture allows.
fn xsetbv(context: &mut Context<'_>) -> Answer {
    let all = u64::from(__cpuid_count(0xd, 0).eax & 7);
    expect_eq!(write_xcr0(context, all)?, Some(all));
    // Without x87; AVX without SSE; a component that no CPU has.
    expect_eq!(write_xcr0(context, 2)?, None);
    expect_eq!(write_xcr0(context, 5)?, None);
    expect_eq!(write_xcr0(context, 1 << 30 | 3)?, None);
    Ok(Verdict::Passed)
}

/// Instructions of VMX and SVM are undefined for a guest.
fn hypervisor_instructions(context: &mut Context<'_>) -> Answer {
    for code in [code::vmrun(), code::vmmcall(), code::vmxon(), code::vmcall(), code::monitor()] {
        let mut machine = Machine::new(context.hypervisor, code)?;
        machine.set(|registers| {
            registers.rax = DATA.0;
            registers.rdi = DATA.0;
        });
        expect_eq!(machine.run(context.cpu)?, Exit::TripleFault);
    }
    // `invd` would throw the host's cached writes away: it does nothing, or is refused. (QEMU reports it as `wbinvd`,
    // which it is not.)
    let mut machine = Machine::new(context.hypervisor, code::invd())?;
    expect_matches!(machine.run(context.cpu)?, Exit::Halt | Exit::TripleFault | Exit::Undecodable { .. });
    Ok(Verdict::Passed)
}

/// RDPID is undefined for a guest, or says nothing of the CPU it runs on; the kernel's TSC_AUX is there afterwards.
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

/// XSAVES is undefined for a guest, or saves nothing but the components of XCR0.
fn xsaves(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::xsaves())?;
    machine.set(|registers| registers.rdi = DATA.0);
    match machine.run(context.cpu)? {
        Exit::Halt => {
            // XCOMP_BV, behind XSTATE_BV at the end of the legacy region (SDM volume 1, 13.4.2).
            let saved = machine.words(Gpa(DATA.0 + 520), 1)?[0];
            expect_eq!(saved & !(1 << 63), 3);
        }
        exit => expect_eq!(exit, Exit::TripleFault),
    }
    Ok(Verdict::Passed)
}
