//! The second CPU, if there is one. It executes closures for the boot CPU, one at a time.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::boxed::Box;
use core::{
    arch::global_asm,
    mem, ptr,
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
};

use spin::Mutex;
use x86_64::instructions::hlt;

use hvt_harness::clock::tsc;

use crate::{
    apic::{self, Ipi},
    clock, cpu,
    interrupts::{self, SPURIOUS_VECTOR, WATCHDOG_HZ, WATCHDOG_VECTOR},
    start::{self, Stack},
};

/// Start address of the second CPU: an unused page of the first MiB.
const TRAMPOLINE: usize = 0x8000;

/// The second CPU's stack.
#[unsafe(link_section = ".stack")]
static mut STACK: Stack = Stack::NEW;

/// State of the second CPU.
static STATE: AtomicU8 = AtomicU8::new(ABSENT);
const ABSENT: u8 = 0;
const IDLE: u8 = 1;
const BUSY: u8 = 2;

/// Number of CPUs that have passed the trampoline.
static ARRIVED: AtomicU32 = AtomicU32::new(0);

/// Closure for the second CPU to execute.
static WORK: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

global_asm!(
    r#"
    .section .rodata.trampoline, "a"
    .code16
    .globl trampoline_start
    .globl trampoline_end
trampoline_start:
    jmp 2f
    .balign 8
    .word 23                    // GDTR, 8 bytes from the start
    .long start_gdt
2:  cli
    cld
    mov ax, cs
    mov ds, ax
    // Directly from real mode to long mode (APM volume 2, 14.8), in the boot CPU's address space.
"#,
    hvt_boot::enter_long_mode!(),
    r#"
    lgdt [8]
    .byte 0x66, 0xea                                                // far jump with a 32-bit offset
    .long second_start64
    .word 8
trampoline_end:

    .section .text.start, "ax"
    .code64
second_start64:
"#,
    hvt_boot::load_segments!(),
    r#"
    // The first CPU to arrive gets the stack; any further CPU halts.
    inc eax
    lock xadd dword ptr [rip + {arrived}], eax
    test eax, eax
    jnz 2f
    lea rsp, [rip + {stack} + {stack_top}]
    xor ebp, ebp
    call {second_main}
2:  cli
    hlt
    jmp 2b
    .text
"#,
    pml4 = sym start::PML4,
    cr4 = const hvt_boot::CR4,
    efer = const hvt_boot::EFER,
    cr0 = const hvt_boot::CR0,
    arrived = sym ARRIVED,
    stack = sym STACK,
    stack_top = const size_of::<Stack>(),
    second_main = sym second_main,
);

/// Starts the second CPU. Returns `true` if there is one.
///
/// # Safety
/// Must be called once, on the boot CPU, with interrupts and timer enabled and the page at
/// [`TRAMPOLINE`] unused.
pub(crate) unsafe fn start() -> bool {
    unsafe extern "C" {
        static trampoline_start: u8;
        static trampoline_end: u8;
    }
    let code = &raw const trampoline_start;
    let len = (&raw const trampoline_end).addr() - code.addr();
    // SAFETY: the labels enclose the code, which works at any address; the caller guarantees that
    // the page is unused. No ordinary memory lies at the APIC's registers. The other CPUs wait for
    // INIT and SIPI, and their code is in place.
    unsafe {
        start::unmap_low_page((&raw const STACK).addr() as u64);
        ptr::copy_nonoverlapping(code, ptr::with_exposed_provenance_mut(TRAMPOLINE), len);
        start::map_uncached(apic::BASE.into());
        apic::enable(SPURIOUS_VECTOR, true);
        apic::BOOT_ID.store(apic::id(), Ordering::Relaxed);
        // Pauses as in the SDM, 8.4.4.1.
        apic::send(Ipi::Init, None);
        pause(10_000);
        apic::send(Ipi::Startup((TRAMPOLINE >> 12) as u8), None);
        pause(200);
        apic::send(Ipi::Startup((TRAMPOLINE >> 12) as u8), None);
    }
    // A CPU that has not arrived within 100 ms does not exist.
    let start = tsc();
    while STATE.load(Ordering::Acquire) == ABSENT && tsc() - start < clock::get().frequency() / 10 {
        core::hint::spin_loop();
    }
    is_there()
}

/// Returns `true` if the second CPU has been started.
pub(crate) fn is_there() -> bool {
    STATE.load(Ordering::Acquire) != ABSENT
}

fn pause(microseconds: u64) {
    let start = tsc();
    while tsc() - start < clock::get().frequency() * microseconds / 1_000_000 {
        core::hint::spin_loop();
    }
}

/// Executes `there` on the second CPU while this CPU executes `here`. Returns when both are done.
///
/// # Panics
/// Panics if there is no second CPU, or if it is busy.
pub(crate) fn beside<R>(there: impl FnOnce() + Send, here: impl FnOnce() -> R) -> R {
    let work: Box<dyn FnOnce() + Send + '_> = Box::new(there);
    // SAFETY: this function does not return before the closure has run and been dropped: no code
    // here unwinds.
    let work: Box<dyn FnOnce() + Send> = unsafe { mem::transmute(work) };
    let idle = STATE.compare_exchange(IDLE, BUSY, Ordering::AcqRel, Ordering::Relaxed);
    assert!(idle.is_ok(), "the second CPU is absent or busy");
    *WORK.lock() = Some(work);
    let result = here();
    while STATE.load(Ordering::Acquire) == BUSY {
        core::hint::spin_loop();
    }
    result
}

/// Sends the boot CPU a non-maskable interrupt.
pub(crate) fn interrupt_boot_cpu() {
    // SAFETY: the NMI handler of every CPU counts and returns.
    unsafe { apic::send(Ipi::Nmi, Some(apic::BOOT_ID.load(Ordering::Relaxed))) };
}

/// Entry point of the second CPU.
extern "C" fn second_main() -> ! {
    // SAFETY: this is CPU 1, at CPL 0, with interrupts off; the boot CPU has mapped the APIC's
    // registers.
    unsafe {
        cpu::init(1);
        apic::enable(SPURIOUS_VECTOR, false);
        interrupts::enable();
        apic::start_timer(WATCHDOG_VECTOR, || pause(1_000_000 / u64::from(WATCHDOG_HZ)));
    }
    STATE.store(IDLE, Ordering::Release);
    loop {
        let work = WORK.lock().take();
        match work {
            Some(work) => {
                work();
                STATE.store(IDLE, Ordering::Release);
            }
            // The watchdog interrupt wakes the CPU.
            None => hlt(),
        }
    }
}
