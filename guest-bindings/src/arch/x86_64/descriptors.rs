//! The guest's own GDT, TSS and IDT.
//!
//! Section numbers refer to the *Intel 64 and IA-32 Architectures Software Developer's Manual*
//! (SDM).

#![expect(unsafe_code, reason = "instructions and tables of the CPU")]

use core::arch::asm;
use core::cell::UnsafeCell;

use hvt_abi::x86_64::{CODE_SELECTOR, GDT, TableRegister};

use super::trap;
use crate::arch::stack::Stack;
use crate::one_cpu::OneCpu;

/// Selector of the task register, after code and data.
const TASK_SELECTOR: u16 = 24;

/// Index of the TSS stack for exceptions (1 to 7, SDM 7.14.5).
const TRAP_STACK: u8 = 1;
/// Index of the TSS stack for #DF and NMI, which may occur during another exception.
const FATAL_STACK: u8 = 2;

/// 64-bit task-state segment (SDM 7.7).
#[repr(C, packed(4))]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
}

/// 64-bit gate descriptor (SDM 6.14.1).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    flags: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    /// Present, DPL 0, 64-bit interrupt gate.
    const INTERRUPT: u8 = 0x8e;

    const ABSENT: Self =
        Self { offset_low: 0, selector: 0, ist: 0, flags: 0, offset_middle: 0, offset_high: 0, reserved: 0 };

    fn new(handler: usize, ist: u8) -> Self {
        Self {
            offset_low: handler as u16,
            selector: CODE_SELECTOR,
            ist,
            flags: Self::INTERRUPT,
            offset_middle: (handler >> 16) as u16,
            offset_high: (handler >> 32) as u32,
            reserved: 0,
        }
    }
}

/// Operand of `lgdt` and `lidt` (SDM 2.4).
#[repr(C, packed(2))]
struct Pointer {
    limit: u16,
    base: u64,
}

impl Pointer {
    fn to<T>(table: *const T) -> Self {
        Self { limit: size_of::<T>() as u16 - 1, base: table.expose_provenance() as u64 }
    }
}

#[repr(C, align(16))]
struct Tables {
    gdt: [u64; 5],
    idt: [Gate; trap::VECTORS],
    tss: Tss,
}

const _: () = {
    assert!(size_of::<Tss>() == 104);
    assert!(size_of::<Gate>() == 16);
    assert!(size_of::<Pointer>() == 10);
};

static TABLES: OneCpu<UnsafeCell<Tables>> = OneCpu::new(UnsafeCell::new(Tables {
    gdt: [GDT[0], GDT[1], GDT[2], 0, 0],
    idt: [Gate::ABSENT; trap::VECTORS],
    tss: Tss {
        reserved0: 0,
        rsp: [0; 3],
        reserved1: 0,
        ist: [0; 7],
        reserved2: 0,
        reserved3: 0,
        io_map_base: size_of::<Tss>() as u16,
    },
}));

static STACKS: OneCpu<[Stack; 2]> = OneCpu::new([Stack::new(), Stack::new()]);

/// Returns the two halves of the descriptor of an available 64-bit TSS (SDM 7.2.3).
fn tss_descriptor(tss: *const Tss) -> [u64; 2] {
    const PRESENT_AVAILABLE: u64 = 0x89 << 40;
    let base = tss.expose_provenance() as u64;
    let limit = size_of::<Tss>() as u64 - 1;
    [(base & 0xff00_0000) << 32 | (base & 0xff_ffff) << 16 | PRESENT_AVAILABLE | limit, base >> 32]
}

/// Returns the operand of `lidt`.
pub(crate) fn interrupt_table() -> TableRegister {
    let tables = TABLES.get();
    // SAFETY: Only an address is computed.
    let idt = unsafe { &raw const (*tables).idt };
    TableRegister { base: idt.expose_provenance() as u64, limit: size_of::<[Gate; trap::VECTORS]>() as u16 - 1 }
}

/// Loads the tables so that an exception leads to a report instead of a triple fault.
///
/// # Safety
///
/// It must be called only once, before any other code runs.
pub(crate) unsafe fn install() {
    // SAFETY: No other code uses the tables, and the CPU does not read them before they are loaded.
    let tables = unsafe { &mut *TABLES.get() };
    tables.tss.ist[usize::from(TRAP_STACK) - 1] = STACKS[0].top();
    tables.tss.ist[usize::from(FATAL_STACK) - 1] = STACKS[1].top();
    let task = tss_descriptor(&tables.tss);
    tables.gdt[3..].copy_from_slice(&task);
    for (vector, gate) in tables.idt.iter_mut().enumerate() {
        let stack = if trap::hits_anywhere(vector) { FATAL_STACK } else { TRAP_STACK };
        *gate = Gate::new(trap::entry(vector), stack);
    }
    let (gdt, idt) = (Pointer::to(&tables.gdt), Pointer::to(&tables.idt));
    // SAFETY: The tables are complete and never move. Code and data keep the selectors and
    // descriptors of the guest's entry state, so no segment register needs a new value.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "ltr {task:x}",
            "lidt [{idt}]",
            gdt = in(reg) &raw const gdt,
            task = in(reg) TASK_SELECTOR,
            idt = in(reg) &raw const idt,
            options(nostack, preserves_flags),
        );
    }
}
