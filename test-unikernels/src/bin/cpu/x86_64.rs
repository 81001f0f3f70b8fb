//! x86_64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

mod msrs;

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

use guest_bindings::abi::x86_64::{Cr0, Cr4, Efer, GDT, PML4_BASE, TableRegister, msr};
use guest_bindings::{ExitStatus, StartInfo, tls, x86_64};
use test_unikernels::{argument, check, failure, number, success};

/// Makes KVM's hypercall for the host's time, `KVM_HC_CLOCK_PAIRING`, with this instruction. The
/// result goes to a page of this guest.
macro_rules! hypervisor_call {
    ($instruction:literal) => {{
        const CLOCK_PAIRING: u64 = 9;
        asm!(
            "xchg rbx, {page}", $instruction, "xchg rbx, {page}",
            page = inout(reg) msrs::page() => _, inout("rax") CLOCK_PAIRING => _, in("rcx") 0, in("rdx") 0, in("rsi") 0,
        )
    }};
}

pub(super) fn main(start: &StartInfo) -> ExitStatus {
    let value = || number(argument(start, 1));
    // SAFETY: An instruction that does not end the guest leaves the CPU state unchanged, here and
    // below.
    unsafe {
        match argument(start, 0) {
            "segments" => return segments(),
            "tables" => return tables(),
            "interrupt-flag" => return interrupt_flag(),
            "segment-bases" => return segment_bases(),
            "entry-state" => return entry_state(),
            "flush-tlb" => return flush_tlb(),
            "swap-gs" => return swap_gs(),
            "harmless" => return harmless(),
            "cpuid" => return cpuid(),
            "cpuid-of-a-guest" => return cpuid_of_a_guest(),
            "msrs" => return msrs::walk(value() as u32),
            "vmcall" => hypervisor_call!("vmcall"),
            "vmmcall" => hypervisor_call!("vmmcall"),
            "rdpmc" => return rdpmc(),
            "monitor" => asm!("monitor", in("rax") &0_u64, in("ecx") 0, in("edx") 0),
            "mwait" => asm!("mwait", in("eax") 0, in("ecx") 0),
            "xsave" => return xsave(),
            "xcr0-without-x87" => {
                if enable_xsave() {
                    write_xcr0(2);
                }
                // Without XSAVE, an instruction that raises the exception which the case expects.
                asm!("mov cr4, {}", in(reg) 0_u64);
            }
            "cr4-features" => return cr4_features(),
            "syscall" => asm!("syscall", out("rcx") _, out("r11") _),
            "vmxon" => asm!("vmxon [{}]", in(reg) &0_u64),
            "vmrun" => asm!("vmrun", in("rax") 0),
            "xsetbv" => asm!("xsetbv", in("ecx") 0, in("eax") 3, in("edx") 0),
            "rdmsr" => _ = read_msr(value() as u32),
            // The value is not canonical, which matters for some registers.
            "wrmsr" => write_msr(value() as u32, 1 << 63),
            "cr0-clear" => asm!("mov cr0, {}", in(reg) read_cr0() & !value()),
            "cr0-set" => asm!("mov cr0, {}", in(reg) read_cr0() | value()),
            "cr4-clear" => asm!("mov cr4, {}", in(reg) read_cr4() & !value()),
            "cr4-set" => asm!("mov cr4, {}", in(reg) read_cr4() | value()),
            "efer-clear" => write_msr(msr::EFER, read_msr(msr::EFER) & !value()),
            "efer-set" => write_msr(msr::EFER, read_msr(msr::EFER) | value()),
            "load-data-segment" => asm!("mov ds, {:e}", in(reg) value() as u32),
            "load-task-register" => asm!("ltr {:x}", in(reg) value() as u16),
            "hlt" => asm!("hlt"),
            "triple-fault" => {
                load_interrupt_table(TableRegister { base: 0, limit: 0 });
                asm!("ud2");
            }
            "no-page-table" => no_page_table(),
            other => failure(format_args!("there is no '{other}'")),
        }
    }
    failure("it went through")
}

/// Loads every segment register with its current selector.
unsafe fn segments() -> ExitStatus {
    let thread = tls::thread_pointer();
    // SAFETY: Loading FS sets its base, which is restored before thread-local variables are used.
    unsafe {
        asm!(
            "push 8", "lea {0}, [rip + 2f]", "push {0}", "retfq", "2:",
            "mov {0:e}, 16", "mov ss, {0:e}", "mov ds, {0:e}", "mov es, {0:e}", "mov fs, {0:e}", "mov gs, {0:e}",
            out(reg) _,
        );
        tls::set_thread_pointer(thread);
    }
    check(tls::thread_pointer() == thread, "FS.base was not restored");
    success()
}

/// Loads other tables with the same contents, and uses them.
unsafe fn tables() -> ExitStatus {
    static OTHER: [u64; 3] = GDT;
    let gdt = Pointer { limit: size_of_val(&OTHER) as u16 - 1, base: (&raw const OTHER).expose_provenance() as u64 };
    // SAFETY: The new descriptors equal the current ones. They have the accessed bit set, so the
    // CPU writes to none. The task register keeps its value.
    unsafe {
        asm!("lgdt [{}]", in(reg) &raw const gdt, options(nostack));
        load_interrupt_table(x86_64::interrupt_table());
        segments()
    }
}

/// Enables interrupts. There is no interrupt source.
unsafe fn interrupt_flag() -> ExitStatus {
    // SAFETY: No interrupt can occur.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nomem, nostack)) };
    success()
}

unsafe fn segment_bases() -> ExitStatus {
    let words = [0x11_u64, 0x22];
    let address = (&raw const words).expose_provenance() as u64;
    let thread = tls::thread_pointer();
    // SAFETY: FS.base is restored before thread-local variables are used.
    unsafe {
        let (through_fs, through_gs): (u64, u64);
        write_msr(msr::FS_BASE, address);
        write_msr(msr::GS_BASE, address + 8);
        asm!("mov {}, fs:[0]", "mov {}, gs:[0]", out(reg) through_fs, out(reg) through_gs, options(nostack));
        let (fs, gs) = (read_msr(msr::FS_BASE), read_msr(msr::GS_BASE));
        tls::set_thread_pointer(thread);
        check((through_fs, through_gs) == (0x11, 0x22), "a segment's base is not where it was put");
        check((fs, gs) == (address, address + 8), "a segment's base cannot be read back");
        write_msr(msr::KERNEL_GS_BASE, address);
        check(read_msr(msr::KERNEL_GS_BASE) == address, "KERNEL_GS_BASE cannot be read back");
    }
    success()
}

/// Exchanges the two bases of GS, and exchanges them again.
unsafe fn swap_gs() -> ExitStatus {
    let words = [0x11_u64, 0x22];
    let address = (&raw const words).expose_provenance() as u64;
    // SAFETY: No other code uses GS.
    unsafe {
        write_msr(msr::GS_BASE, address);
        write_msr(msr::KERNEL_GS_BASE, address + 8);
        let (swapped, restored): (u64, u64);
        asm!(
            "swapgs", "mov {}, gs:[0]", "swapgs", "mov {}, gs:[0]",
            out(reg) swapped, out(reg) restored, options(nostack),
        );
        check((swapped, restored) == (0x22, 0x11), "swapgs has exchanged nothing");
    }
    success()
}

/// Instructions without an effect that a guest could observe.
unsafe fn harmless() -> ExitStatus {
    // SAFETY: The instructions have no observable effect.
    unsafe { asm!("clts", "wbinvd", options(nostack)) };
    success()
}

/// Checks the control registers against the entry state of the ABI.
unsafe fn entry_state() -> ExitStatus {
    // SAFETY: The code only reads registers.
    let (cr0, cr4, efer, cr3) = unsafe { (read_cr0(), read_cr4(), read_msr(msr::EFER), read_cr3()) };
    let (cr0, cr4) = (Cr0::from_bits_retain(cr0), Cr4::from_bits_retain(cr4));
    let efer = Efer::from_bits_retain(efer);
    check(cr0.contains(Cr0::PE | Cr0::NE | Cr0::WP | Cr0::PG), format_args!("{cr0:?}"));
    check(!cr0.intersects(Cr0::EM | Cr0::TS | Cr0::AM | Cr0::NW | Cr0::CD), format_args!("{cr0:?}"));
    check(cr4.contains(Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT), format_args!("{cr4:?}"));
    check(efer.contains(Efer::LME | Efer::LMA) && !efer.contains(Efer::SCE), format_args!("{efer:?}"));
    let mut mxcsr = 0_u32;
    // SAFETY: The instruction writes to the variable.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack)) };
    // Reset value, with all exceptions masked: Intel SDM volume 1, 11.6.4.
    check(mxcsr == 0x1f80, format_args!("MXCSR is {mxcsr:#x}"));
    check(cr3 == PML4_BASE.0, format_args!("CR3 is {cr3:#x}"));
    success()
}

/// Loads CR3 with its current value, and invalidates a single page.
unsafe fn flush_tlb() -> ExitStatus {
    let word = 1_u64;
    // SAFETY: Address translation does not change.
    unsafe {
        asm!("mov cr3, {}", in(reg) read_cr3(), options(nostack));
        asm!("invlpg [{}]", in(reg) &word, options(nostack));
    }
    check(core::hint::black_box(word) == 1, "memory has changed");
    success()
}

/// CPUID.1:EDX contains the features that every x86_64 program may use.
unsafe fn cpuid() -> ExitStatus {
    const FPU: u32 = 1 << 0;
    const TSC: u32 = 1 << 4;
    const SSE2: u32 = 1 << 26;
    let features = __cpuid(1).edx;
    check(
        features & FPU != 0 && features & TSC != 0 && features & SSE2 != 0,
        format_args!("CPUID.1:EDX is {features:#x}"),
    );
    success()
}

const CR4_OSXSAVE: u64 = 1 << 18;

/// Sets CR4.OSXSAVE. Returns `true` if the CPU has XSAVE.
unsafe fn enable_xsave() -> bool {
    const XSAVE: u32 = 1 << 26;
    let has_xsave = __cpuid(1).ecx & XSAVE != 0;
    if has_xsave {
        // SAFETY: The bit only enables instructions.
        unsafe { asm!("mov cr4, {}", in(reg) read_cr4() | CR4_OSXSAVE, options(nostack)) };
    }
    has_xsave
}

/// Checks that CPUID, CR4 and XCR0 agree before and after XSAVE is enabled.
unsafe fn xsave() -> ExitStatus {
    const OSXSAVE: u32 = 1 << 27;
    let agree = || {
        // SAFETY: The code only reads registers.
        let (cpuid, cr4) = (__cpuid(1).ecx & OSXSAVE != 0, unsafe { read_cr4() } & CR4_OSXSAVE != 0);
        check(cpuid == cr4, format_args!("CPUID.OSXSAVE is {cpuid}, CR4.OSXSAVE is {cr4}"));
        cr4
    };
    agree();
    // SAFETY: No code uses the components that are enabled and disabled here.
    unsafe {
        if !enable_xsave() {
            return success();
        }
        check(agree(), "CR4.OSXSAVE cannot be set");
        let (offered, enabled) = (__cpuid_count(0xd, 0), read_xcr0());
        let components = u64::from(offered.edx) << 32 | u64::from(offered.eax);
        check(enabled & 1 == 1 && enabled & !components == 0, format_args!("XCR0 is {enabled:#x} of {components:#x}"));
        write_xcr0(enabled);
        check(read_xcr0() == enabled, "XCR0 has changed");
        // x87 and SSE, which every CPU with XSAVE has. A process keeps the other components
        // enabled. QEMU 7.2 emulating SVM does not intercept XSETBV for the hypervisor, which may
        // thus undo it at any exit.
        write_xcr0(3);
        let after = read_xcr0();
        check(after & 1 == 1 && after & !components == 0, format_args!("XCR0 is {after:#x} of {components:#x}"));
        let now = __cpuid_count(0xd, 0);
        check((576..=now.ecx).contains(&now.ebx), format_args!("the area is {} bytes, at most {}", now.ebx, now.ecx));
    }
    success()
}

unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The caller has set CR4.OSXSAVE.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

unsafe fn write_xcr0(value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nostack)) };
}

/// Sets the CR4 bits that every CPU has or that CPUID reports, and reads them back.
unsafe fn cr4_features() -> ExitStatus {
    // VME, PVI, TSD, DE, MCE, PGE, PCE.
    const EVERY_CPU: u64 = 0x1cf;
    let (ebx, ecx) = match __cpuid(0).eax {
        7.. => (__cpuid_count(7, 0).ebx, __cpuid_count(7, 0).ecx),
        _ => (0, 0),
    };
    let bit = |value: u32, from: u32, to: u32| u64::from(value >> from & 1) << to;
    // FSGSBASE, SMEP, SMAP, UMIP.
    let shown = bit(ebx, 0, 16) | bit(ebx, 7, 20) | bit(ebx, 20, 21) | bit(ecx, 2, 11);
    // SAFETY: The pages of this guest are supervisor pages, and the guest does not use the features
    // that the bits disable.
    unsafe {
        let before = read_cr4();
        for bits in [EVERY_CPU, EVERY_CPU | shown] {
            asm!("mov cr4, {}", in(reg) before | bits, options(nostack));
            let after = read_cr4();
            check(after == before | bits, format_args!("CR4 is {after:#x} after {:#x}", before | bits));
        }
        asm!("mov cr4, {}", in(reg) before, options(nostack));
        check(read_cr4() == before, "CR4 does not take what it had");
    }
    success()
}

/// Checks that CPUID contains no leaves or features of hypervisors, of other CPUs, or of devices
/// that a guest does not have.
fn cpuid_of_a_guest() -> ExitStatus {
    let basic = __cpuid(1);
    // VMX, SMX, x2APIC, TSC deadline, hypervisor; APIC.
    const HOST_ECX: u32 = 1 << 5 | 1 << 6 | 1 << 21 | 1 << 24 | 1 << 31;
    check(basic.ecx & HOST_ECX == 0, format_args!("CPUID.1:ECX is {:#x}", basic.ecx));
    check(basic.edx & 1 << 9 == 0, format_args!("CPUID.1:EDX is {:#x}", basic.edx));
    check(basic.ebx >> 16 == 1, format_args!("CPUID.1:EBX is {:#x}", basic.ebx));
    // SVM.
    let extended = __cpuid(0x8000_0001);
    check(extended.ecx & 1 << 2 == 0, format_args!("CPUID.80000001H:ECX is {:#x}", extended.ecx));
    check(__cpuid(0x8000_0000).eax <= 0x8000_0008, "there are leaves beyond 80000008H");
    let largest = __cpuid(0).eax;
    check(largest <= 0x16, format_args!("there are leaves up to {largest:#x}"));
    // For leaves beyond the last one, a CPU returns zeros or the last basic leaf.
    let nobody = [__cpuid(0x4000_0000), __cpuid(0x4000_0001), __cpuid(0x8000_000a), __cpuid(0x8000_001f)];
    let last = __cpuid(largest);
    let zero = |leaf: &CpuidResult| (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) == (0, 0, 0, 0);
    check(nobody.iter().all(|leaf| zero(leaf) || *leaf == last), "there are leaves of hypervisors");
    if basic.ecx & 1 << 26 != 0 {
        // SAFETY: XSAVE exists, and this guest does not use the enabled state afterwards.
        unsafe { enable_all_state() };
    }
    success()
}

/// Enables each XSAVE component that CPUID reports.
unsafe fn enable_all_state() {
    let offered = __cpuid_count(0xd, 0);
    // SAFETY: Guaranteed by the caller. CR4.OSXSAVE is bit 18 (SDM volume 3, 2.5).
    unsafe {
        asm!("mov cr4, {}", in(reg) read_cr4() | 1 << 18);
        asm!("xsetbv", in("ecx") 0, in("eax") offered.eax, in("edx") offered.edx);
    }
    check(__cpuid(1).ecx & 1 << 27 != 0, "CR4.OSXSAVE cannot be seen");
    let enabled = __cpuid_count(0xd, 0);
    // QEMU 7.2 emulating SVM does not intercept XSETBV for the hypervisor, which then reports only
    // x87.
    let fits = (576..=offered.ecx).contains(&enabled.ebx);
    check(fits, format_args!("the area is {} bytes, at most {}", enabled.ebx, offered.ecx));
}

/// Reads a performance counter that counts nothing.
unsafe fn rdpmc() -> ExitStatus {
    let (low, high): (u32, u32);
    // SAFETY: Reading has no effect, or ends the guest.
    unsafe { asm!("rdpmc", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    check((low, high) == (0, 0), format_args!("counter 0 is {high:#x}:{low:#x}"));
    success()
}

/// Loads CR3 with the address of a page of zeros.
unsafe fn no_page_table() {
    #[repr(align(4096))]
    struct Page(#[expect(dead_code, reason = "for the CPU to read")] [u64; 512]);
    static mut NOTHING: Page = Page([0; 512]);
    // SAFETY: The guest ends.
    unsafe { asm!("mov cr3, {}", in(reg) &raw const NOTHING) }
}

/// Operand of `lgdt` and `lidt`.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

unsafe fn load_interrupt_table(table: TableRegister) {
    let pointer = Pointer { limit: table.limit, base: table.base };
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack)) }
}

unsafe fn read_cr0() -> u64 {
    let value;
    // SAFETY: The guest is privileged.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack)) };
    value
}

unsafe fn read_cr3() -> u64 {
    let value;
    // SAFETY: The guest is privileged.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack)) };
    value
}

unsafe fn read_cr4() -> u64 {
    let value;
    // SAFETY: The guest is privileged.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) };
    value
}

unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: Reading has no effect, or ends the guest.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

unsafe fn write_msr(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack)) }
}
