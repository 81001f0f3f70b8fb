//! aarch64. Registers and fields are from the Arm ARM, chapter *AArch64 System Register
//! Descriptions*.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::abi::aarch64::{PGD_BASE, VECTORS_BASE};
use guest_bindings::abi::{BOOT_INFO_BASE, BootInfo, Gpa};
use guest_bindings::{ExitStatus, StartInfo, println, tls};
use test_unikernels::{argument, check, failure, success};

/// Reads a system register.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: Reading has no effect, or ends the guest.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

/// Writes a system register.
macro_rules! write {
    ($name:literal, $value:expr) => {
        asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) $value, options(nostack, preserves_flags))
    };
}

pub(super) fn main(start: &StartInfo) -> ExitStatus {
    match argument(start, 0) {
        "el2-register" => _ = read!("HCR_EL2"),
        "unknown-register" => _ = read!("S3_0_C15_C15_7"),
        // SAFETY: An instruction that does not end the guest leaves the CPU state unchanged, here
        // and below.
        mode => unsafe { return change(mode) },
    }
    failure("it went through")
}

unsafe fn change(mode: &str) -> ExitStatus {
    // SAFETY: As above.
    unsafe {
        match mode {
            "entry-state" => return entry_state(),
            "vectors" => return vectors(),
            "interrupt-masks" => return interrupt_masks(),
            "thread-registers" => return thread_registers(),
            "flush-tlb" => return flush_tlb(),
            "caches" => return caches(),
            "counter" => return counter(),
            "features" => return features(),
            "el2-vectors" => write!("VBAR_EL2", 0_u64),
            "wait-for-interrupt" => wait(),
            "vectors-of-the-tender" => exception_with_vectors(VECTORS_BASE),
            "no-vectors" => {
                println!("no vectors");
                // The vector cannot be executed either, so the exception repeats forever.
                exception_with_vectors(Gpa(0));
            }
            "no-translation-table" => no_translation_table(),
            other => failure(format_args!("there is no '{other}'")),
        }
    }
    failure("it went through")
}

/// Checks the system registers against the entry state of the ABI.
fn entry_state() -> ExitStatus {
    const M: u64 = 1 << 0;
    const C: u64 = 1 << 2;
    const I: u64 = 1 << 12;
    let control = read!("SCTLR_EL1");
    check(control & (M | C | I) == M | C | I, format_args!("SCTLR_EL1 is {control:#x}"));
    let fpen = read!("CPACR_EL1") >> 20 & 3;
    check(fpen == 3, format_args!("CPACR_EL1.FPEN is {fpen:#b}"));
    check(read!("CurrentEL") >> 2 == 1, "this is not EL1");
    check(read!("SPSel") == 1, "the stack pointer is not SP_EL1");
    let masks = read!("DAIF") >> 6;
    check(masks == 0b1111, format_args!("DAIF is {masks:#b}"));
    let table = read!("TTBR0_EL1");
    check(table == PGD_BASE.0, format_args!("TTBR0_EL1 is {table:#x}"));
    // T0SZ and IPS: 40 bits; TG0: 4 KiB.
    let translation = read!("TCR_EL1");
    let (bits, physical, granule) = (64 - (translation & 0x3f), translation >> 32 & 7, translation >> 14 & 3);
    check((bits, physical, granule) == (40, 2, 0), format_args!("TCR_EL1 is {translation:#x}"));
    check(read!("FPCR") == 0, "FPCR is not 0");
    success()
}

/// Writes the current address of the vectors to VBAR_EL1.
unsafe fn vectors() -> ExitStatus {
    let vectors = read!("VBAR_EL1");
    check(vectors != 0 && vectors.is_multiple_of(2048), format_args!("VBAR_EL1 is {vectors:#x}"));
    // SAFETY: The register keeps its value.
    unsafe { write!("VBAR_EL1", vectors) };
    check(read!("VBAR_EL1") == vectors, "VBAR_EL1 cannot be read back");
    success()
}

/// Unmasks interrupts. There is no interrupt source.
unsafe fn interrupt_masks() -> ExitStatus {
    // SAFETY: No interrupt can occur.
    unsafe { asm!("msr DAIFClr, #0xf", "nop", "isb", "nop", "msr DAIFSet, #0xf", options(nomem, nostack)) };
    success()
}

/// Registers that hold arbitrary values of the guest, also across hypercalls.
unsafe fn thread_registers() -> ExitStatus {
    let thread = tls::thread_pointer();
    // SAFETY: TPIDR_EL0 is restored before thread-local variables are used. The other registers
    // have no users.
    unsafe {
        write!("TPIDR_EL0", 0x1122_u64);
        write!("TPIDRRO_EL0", 0x3344_u64);
        write!("TPIDR_EL1", 0x5566_u64);
    }
    println!("between");
    let (user, read_only, kernel) = (read!("TPIDR_EL0"), read!("TPIDRRO_EL0"), read!("TPIDR_EL1"));
    // SAFETY: The thread pointer belongs to this thread.
    unsafe { tls::set_thread_pointer(thread) };
    check((user, read_only, kernel) == (0x1122, 0x3344, 0x5566), "a thread register has changed");
    check(tls::thread_pointer() == thread, "TPIDR_EL0 was not restored");
    success()
}

/// Invalidates cached address translations: of one page, and of all pages.
unsafe fn flush_tlb() -> ExitStatus {
    let (word, table) = (1_u64, read!("TTBR0_EL1"));
    // SAFETY: Address translation does not change.
    unsafe {
        asm!("tlbi vae1, {}", "dsb nsh", "isb", in(reg) (&raw const word).addr() >> 12, options(nostack));
        asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack));
        write!("TTBR0_EL1", table);
    }
    check(core::hint::black_box(word) == 1, "memory has changed");
    success()
}

/// Cache maintenance as for generated code, and zeroing of a block.
unsafe fn caches() -> ExitStatus {
    #[repr(align(2048))]
    struct Block([u8; 2048]);
    let mut block = Block([1; 2048]);
    // DCZID_EL0: the logarithm of the number of words, and the bit that forbids `dc zva`.
    let size = read!("DCZID_EL0");
    check(size & 0x10 == 0, "dc zva is forbidden");
    let size = 4_usize << (size & 0xf);
    // SAFETY: The block has the maximum size and the corresponding alignment.
    unsafe {
        asm!("dc zva, {}", in(reg) &raw mut block, options(nostack));
        asm!("dc civac, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) &raw mut block, options(nostack));
    }
    check(block.0[..size].iter().all(|&byte| byte == 0), "dc zva has left something");
    check(block.0[size..].iter().all(|&byte| byte == 1), "dc zva has cleared too much");
    success()
}

/// The counter advances with the frequency that the tender reports.
fn counter() -> ExitStatus {
    // SAFETY: The tender has stored the structure, and it is never modified.
    let boot = unsafe { &*core::ptr::with_exposed_provenance::<BootInfo>(BOOT_INFO_BASE.0 as usize) };
    let frequency = read!("CNTFRQ_EL0");
    check(boot.cpu_cycle_freq == frequency, format_args!("CNTFRQ_EL0 is {frequency}: {boot:?}"));
    let before = read!("CNTVCT_EL0");
    while read!("CNTVCT_EL0") == before {}
    check(read!("CNTVCT_EL0") > before, "the counter runs backwards");
    success()
}

/// The CPU has floating point and SIMD, and its ID registers report them.
fn features() -> ExitStatus {
    let features = read!("ID_AA64PFR0_EL1");
    check(features >> 16 & 0xf != 0xf && features >> 20 & 0xf != 0xf, format_args!("ID_AA64PFR0_EL1: {features:#x}"));
    success()
}

/// Waits for an interrupt, which never occurs.
unsafe fn wait() {
    println!("waiting");
    loop {
        // SAFETY: The guest continues unchanged if the instruction returns.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// Raises an exception with vectors that do not belong to this guest.
unsafe fn exception_with_vectors(vectors: Gpa) {
    // SAFETY: The guest does not continue.
    unsafe {
        write!("VBAR_EL1", vectors.0);
        asm!("udf #0");
    }
}

/// Sets a translation table of zeros, which maps nothing, not even the next instruction.
unsafe fn no_translation_table() {
    #[repr(align(4096))]
    struct Page(#[expect(dead_code, reason = "for the CPU to read")] [u64; 512]);
    static mut NOTHING: Page = Page([0; 512]);
    println!("no translation table");
    // SAFETY: The guest does not continue.
    unsafe { asm!("msr TTBR0_EL1, {}", "isb", "tlbi vmalle1", "dsb nsh", "isb", in(reg) &raw const NOTHING) }
}
