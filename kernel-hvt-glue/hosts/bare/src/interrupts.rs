//! Exceptions, NMI and interrupts.
//!
//! The kernel's code is compiled for a user process: it keeps data below its stack pointer (the red
//! zone) and uses SSE registers everywhere. So every vector uses a separate stack of the interrupt
//! stack table, and the handlers that return are a few instructions of assembly.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::{
    arch::naked_asm,
    sync::atomic::{AtomicU64, Ordering},
};

use pic8259::ChainedPics;
use spin::Once;
use x86_64::{
    VirtAddr,
    instructions::{interrupts, port::Port},
    registers::control::Cr2,
    structures::{
        gdt::SegmentSelector,
        idt::{Entry, InterruptDescriptorTable},
    },
};

use crate::{
    apic::{self, Ipi},
    console::{CONSOLE, println},
    cpu::{self, Ist},
    power::{self, Outcome},
};

/// Timer interrupts per second.
pub(crate) const TIMER_HZ: u32 = 1000;
/// Frequency of the PIT's input clock (8254 data sheet; PC convention).
pub(crate) const PIT_HZ: u32 = 1_193_182;
/// First vector of the first interrupt controller; the second controller's vectors follow.
const PIC_VECTOR: u8 = 32;
/// Interrupt request lines of both controllers.
const PIC_LINES: u8 = 16;
/// Vector of the PIT, line 0.
const TIMER_VECTOR: u8 = PIC_VECTOR;

/// Vector of the second CPU's timer.
pub(crate) const WATCHDOG_VECTOR: u8 = 0xf0;
/// Interrupts per second of the second CPU's timer: far fewer than the boot CPU's.
pub(crate) const WATCHDOG_HZ: u32 = TIMER_HZ / 5;
/// Vector of the local APIC's spurious interrupts.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

static IDT: Once<InterruptDescriptorTable> = Once::new();

static TICKS: AtomicU64 = AtomicU64::new(0);
/// [`TICKS`] when the second CPU last read the counter.
static SEEN_TICKS: AtomicU64 = AtomicU64::new(0);
static NMIS: AtomicU64 = AtomicU64::new(0);
static SPURIOUS: AtomicU64 = AtomicU64::new(0);

/// Returns the number of timer interrupts since the start.
pub(crate) fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// Returns the number of non-maskable interrupts since the start.
pub(crate) fn nmis() -> u64 {
    NMIS.load(Ordering::Relaxed)
}

/// Loads the IDT on the current CPU and enables interrupts.
///
/// # Safety
/// Must run at CPL 0, after [`cpu::init`] on this CPU.
pub(crate) unsafe fn enable() {
    let idt = IDT.call_once(|| {
        let mut idt = InterruptDescriptorTable::new();
        // SAFETY: all CPUs have the same code selector.
        unsafe { fill(&mut idt, cpu::code_selector()) };
        idt
    });
    idt.load();
    interrupts::enable();
}

/// Starts the timer, whose interrupts go to the boot CPU. Remaps the interrupt controllers to
/// vectors from 32 on, because firmware leaves them at the vectors of exceptions.
///
/// # Safety
/// Must be called once, with interrupts off.
pub(crate) unsafe fn start_timer() {
    let divisor = (PIT_HZ / TIMER_HZ) as u16;
    let [low, high] = divisor.to_le_bytes();
    // SAFETY: these ports belong to the interrupt controllers and to the PIT on every PC. Channel 0 becomes a rate
    // generator (mode 2).
    unsafe {
        ChainedPics::new_contiguous(PIC_VECTOR).initialize();
        Port::<u8>::new(0x43).write(0b0011_0100);
        Port::<u8>::new(0x40).write(low);
        Port::<u8>::new(0x40).write(high);
    }
    hear_timer(true);
}

/// Unmasks or masks the timer interrupt. All other lines stay masked.
pub(crate) fn hear_timer(hear: bool) {
    // SAFETY: `start_timer` has set up the controllers for these vectors.
    unsafe { ChainedPics::new_contiguous(PIC_VECTOR).write_masks(if hear { !1 } else { !0 }, !0) };
}

/// Sets one entry of the IDT: `handler` on stack `ist`, with interrupts off.
///
/// # Safety
/// `handler` must be one of this file's naked functions, of the kind that the vector requires.
unsafe fn set<F>(entry: &mut Entry<F>, handler: usize, code: SegmentSelector, ist: Ist) {
    // SAFETY: guaranteed by the caller; the stack table has an entry for every `Ist`.
    unsafe {
        entry.set_handler_addr(VirtAddr::new(handler as u64)).set_code_selector(code).set_stack_index(ist as u16)
    };
}

/// Returns the address of the stub of exception `VECTOR`.
fn stub<const VECTOR: u8, const ERROR_CODE: bool>() -> usize {
    let stub: unsafe extern "C" fn() = if ERROR_CODE { fault_with_code::<VECTOR> } else { fault::<VECTOR> };
    stub as *const () as usize
}

/// # Safety
/// `code` must select the kernel's code segment in the loaded GDT.
unsafe fn fill(idt: &mut InterruptDescriptorTable, code: SegmentSelector) {
    // SAFETY: the stubs with an error code belong to the vectors that push one (SDM 6.15, APM 8.2).
    unsafe {
        set(&mut idt.divide_error, stub::<0, false>(), code, Ist::Fault);
        set(&mut idt.debug, stub::<1, false>(), code, Ist::Fault);
        set(&mut idt.non_maskable_interrupt, nmi as *const () as usize, code, Ist::Nmi);
        set(&mut idt.breakpoint, stub::<3, false>(), code, Ist::Fault);
        set(&mut idt.overflow, stub::<4, false>(), code, Ist::Fault);
        set(&mut idt.bound_range_exceeded, stub::<5, false>(), code, Ist::Fault);
        set(&mut idt.invalid_opcode, stub::<6, false>(), code, Ist::Fault);
        set(&mut idt.device_not_available, stub::<7, false>(), code, Ist::Fault);
        set(&mut idt.double_fault, stub::<8, true>(), code, Ist::DoubleFault);
        set(&mut idt.invalid_tss, stub::<10, true>(), code, Ist::Fault);
        set(&mut idt.segment_not_present, stub::<11, true>(), code, Ist::Fault);
        set(&mut idt.stack_segment_fault, stub::<12, true>(), code, Ist::Fault);
        set(&mut idt.general_protection_fault, stub::<13, true>(), code, Ist::Fault);
        set(&mut idt.page_fault, stub::<14, true>(), code, Ist::Fault);
        set(&mut idt.x87_floating_point, stub::<16, false>(), code, Ist::Fault);
        set(&mut idt.alignment_check, stub::<17, true>(), code, Ist::Fault);
        set(&mut idt.machine_check, stub::<18, false>(), code, Ist::DoubleFault);
        set(&mut idt.simd_floating_point, stub::<19, false>(), code, Ist::Fault);
        set(&mut idt.virtualization, stub::<20, false>(), code, Ist::Fault);
        set(&mut idt.cp_protection_exception, stub::<21, true>(), code, Ist::Fault);
        set(&mut idt.vmm_communication_exception, stub::<29, true>(), code, Ist::Fault);
        set(&mut idt.security_exception, stub::<30, true>(), code, Ist::Fault);
        for vector in PIC_VECTOR..PIC_VECTOR + PIC_LINES {
            let handler =
                if vector == TIMER_VECTOR { timer as *const () as usize } else { spurious as *const () as usize };
            set(&mut idt[vector], handler, code, Ist::Interrupt);
        }
        set(&mut idt[WATCHDOG_VECTOR], watchdog as *const () as usize, code, Ist::Interrupt);
        set(&mut idt[SPURIOUS_VECTOR], spurious as *const () as usize, code, Ist::Interrupt);
    }
}

/// Handles the timer interrupt: counts it and acknowledges it at the first interrupt controller.
#[unsafe(naked)]
unsafe extern "C" fn timer() {
    naked_asm!(
        "lock inc qword ptr [rip + {ticks}]",
        "push rax",
        "mov al, 0x20",
        "out 0x20, al",
        "pop rax",
        "iretq",
        ticks = sym TICKS,
    )
}

/// Handles the second CPU's timer interrupt. Sends the boot CPU an NMI if the boot CPU has taken no
/// timer interrupt since the previous call, and acknowledges at the local APIC.
///
/// A guest may run that long, but not undisturbed: an interrupt causes an exit regardless of the
/// guest's RFLAGS.IF. Bochs 2.7 loses a pending interrupt when it enters a guest whose RFLAGS.IF is
/// 0, but it does not lose NMIs.
#[unsafe(naked)]
unsafe extern "C" fn watchdog() {
    naked_asm!(
        "push rax",
        "push rcx",
        "mov rax, [rip + {ticks}]",
        "cmp rax, [rip + {seen}]",
        "mov [rip + {seen}], rax",
        "jne 2f",
        "movzx eax, byte ptr [rip + {boot_id}]",
        "shl eax, 24",
        "mov ecx, {icr_high}",
        "mov [rcx], eax",
        "mov ecx, {icr_low}",
        "mov dword ptr [rcx], {nmi}",
        "2:",
        "mov ecx, {eoi}",
        "mov dword ptr [rcx], 0",
        "pop rcx",
        "pop rax",
        "iretq",
        ticks = sym TICKS,
        seen = sym SEEN_TICKS,
        boot_id = sym apic::BOOT_ID,
        icr_high = const apic::BASE + apic::ICR_HIGH,
        icr_low = const apic::BASE + apic::ICR_LOW,
        nmi = const Ipi::Nmi.bits(),
        eoi = const apic::BASE + apic::EOI,
    )
}

/// Counts a non-maskable interrupt.
#[unsafe(naked)]
unsafe extern "C" fn nmi() {
    naked_asm!("lock inc qword ptr [rip + {nmis}]", "iretq", nmis = sym NMIS)
}

/// Counts an interrupt of a masked line: the controller could not identify the source.
#[unsafe(naked)]
unsafe extern "C" fn spurious() {
    naked_asm!("lock inc qword ptr [rip + {spurious}]", "iretq", spurious = sym SPURIOUS)
}

/// Stub of an exception that pushes an error code.
#[unsafe(naked)]
unsafe extern "C" fn fault_with_code<const VECTOR: u8>() {
    naked_asm!("push {vector}", "jmp {common}", vector = const VECTOR, common = sym fault_common)
}

/// Stub of an exception that pushes no error code.
#[unsafe(naked)]
unsafe extern "C" fn fault<const VECTOR: u8>() {
    naked_asm!("push 0", "push {vector}", "jmp {common}", vector = const VECTOR, common = sym fault_common)
}

#[unsafe(naked)]
unsafe extern "C" fn fault_common() {
    naked_asm!(
        "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp",
        "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
        "cld",
        "mov rdi, rsp",
        // Seven words of frame, vector and error code, and fifteen registers: RSP is a multiple of
        // 16 again.
        "call {report}",
        "ud2",
        report = sym report,
    )
}

/// Stack contents left by the stubs, lowest address first.
#[repr(C)]
#[derive(Debug)]
struct Fault {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Reports an exception, which is always an error of the kernel, and powers off.
extern "C" fn report(fault: &Fault) -> ! {
    // SAFETY: the lock's holder, if any, is the code that faulted, and it does not resume.
    unsafe { CONSOLE.force_unlock() };
    let name = match fault.vector {
        0 => "divide error",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        13 => "general protection",
        14 => "page fault",
        _ => "exception",
    };
    let Fault { vector, error_code, rip, rsp, rflags, .. } = fault;
    println!(
        "bare: {name} (vector {vector}), error code {error_code:#x}, rip {rip:#x}, rsp {rsp:#x}, rflags {rflags:#x}"
    );
    if fault.vector == 14 {
        println!("bare: address {:#x}", Cr2::read_raw());
    }
    let Fault { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, .. } = fault;
    println!("bare: rax {rax:#x} rbx {rbx:#x} rcx {rcx:#x} rdx {rdx:#x} rsi {rsi:#x} rdi {rdi:#x} rbp {rbp:#x}");
    println!(
        "bare: r8 {r8:#x} r9 {r9:#x} r10 {r10:#x} r11 {r11:#x} r12 {r12:#x} r13 {r13:#x} r14 {r14:#x} r15 {r15:#x}"
    );
    power::off(Outcome::Panicked)
}
