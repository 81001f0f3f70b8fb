//! Per-CPU setup: CPU number, descriptor tables, stacks, and enabled features.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::arch::asm;

use raw_cpuid::CpuId;
use spin::Once;
use x86_64::{
    VirtAddr,
    instructions::{
        segmentation::{CS, DS, ES, SS, Segment},
        tables::load_tss,
    },
    registers::{
        control::{Cr4, Cr4Flags},
        model_specific::{GsBase, Msr},
        xcontrol::{XCr0, XCr0Flags},
    },
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector},
        tss::TaskStateSegment,
    },
};

use crate::start::{Stack, unmap_low_page};

/// Maximum number of CPUs: the boot CPU and one more.
pub(crate) const MAX: usize = 2;

/// Entries of the interrupt stack table, one for each kind of handler.
#[derive(Clone, Copy)]
pub(crate) enum Ist {
    /// Exceptions.
    Fault,
    /// Exceptions that may occur while another exception is delivered.
    DoubleFault,
    /// The non-maskable interrupt.
    Nmi,
    /// Interrupts.
    Interrupt,
}

/// Number of [`Ist`] entries.
const STACKS: usize = 4;

#[unsafe(link_section = ".stack")]
static mut INTERRUPT_STACKS: [[Stack; STACKS]; MAX] = [const { [Stack::NEW; STACKS] }; MAX];

/// Per-CPU data that GS points to.
#[repr(C)]
struct Local {
    index: u32,
}

static LOCAL: [Local; MAX] = [Local { index: 0 }, Local { index: 1 }];
static TSS: [Once<TaskStateSegment>; MAX] = [const { Once::new() }; MAX];
static GDT: [Once<(GlobalDescriptorTable, Selectors)>; MAX] = [const { Once::new() }; MAX];

/// Selectors of the segments in the [`GDT`], the same on every CPU.
struct Selectors {
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

/// Returns the number of the current CPU, less than [`MAX`].
pub(crate) fn index() -> u32 {
    let index;
    // SAFETY: `init` has pointed GS to a `Local`.
    unsafe { asm!("mov {:e}, gs:[0]", out(reg) index, options(pure, readonly, nostack, preserves_flags)) };
    index
}

/// Sets up the current CPU, which gets number `index`.
///
/// # Safety
/// Must be called once for each CPU, on that CPU, at CPL 0, with interrupts off.
pub(crate) unsafe fn init(index: usize) {
    let tss: &'static TaskStateSegment = TSS[index].call_once(|| {
        let mut tss = TaskStateSegment::new();
        tss.interrupt_stack_table = stacks(index);
        tss
    });
    let (gdt, selectors) = GDT[index].call_once(|| {
        let mut gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        let task = gdt.append(Descriptor::tss_segment(tss));
        (gdt, Selectors { code, data, task })
    });
    gdt.load();
    // SAFETY: these selectors belong to the table just loaded; `LOCAL` is a static.
    unsafe {
        CS::set_reg(selectors.code);
        SS::set_reg(selectors.data);
        DS::set_reg(selectors.data);
        ES::set_reg(selectors.data);
        load_tss(selectors.task);
        GsBase::write(VirtAddr::from_ptr(&raw const LOCAL[index]));
    }
    enable_extended_state();
    if has_tsc_aux() {
        // SAFETY: the CPU has the register, and no other code here depends on its value.
        unsafe { Msr::new(TSC_AUX).write(tsc_aux(index)) };
    }
}

/// IA32_TSC_AUX (SDM volume 4, table 2-2).
pub(crate) const TSC_AUX: u32 = 0xc000_0103;

/// Value of TSC_AUX on the CPU with number `index`: as in other kernels, it identifies the CPU.
pub(crate) fn tsc_aux(index: usize) -> u64 {
    0x5ec0 + index as u64
}

/// Returns `true` if the CPU has TSC_AUX: with RDTSCP or RDPID.
pub(crate) fn has_tsc_aux() -> bool {
    let cpuid = CpuId::new();
    cpuid.get_extended_processor_and_feature_identifiers().is_some_and(|features| features.has_rdtscp())
        || cpuid.get_extended_feature_info().is_some_and(|features| features.has_rdpid())
}

/// Returns the selector of the kernel's code segment.
pub(crate) fn code_selector() -> SegmentSelector {
    CS::get_reg()
}

/// Returns the interrupt stack table of a CPU. The page below each stack is unmapped.
fn stacks(cpu: usize) -> [VirtAddr; 7] {
    let all = (&raw const INTERRUPT_STACKS).addr();
    let mut table = [VirtAddr::zero(); 7];
    for (index, slot) in table.iter_mut().enumerate().take(STACKS) {
        let stack = (all + (cpu * STACKS + index) * size_of::<Stack>()) as u64;
        // SAFETY: the page is a stack's guard page, which holds no data.
        unsafe { unmap_low_page(stack) };
        *slot = VirtAddr::new(stack + size_of::<Stack>() as u64);
    }
    table
}

/// Enables XSAVE, with every state component of x87, SSE, AVX and AVX-512 that the CPU has.
fn enable_extended_state() {
    let cpuid = CpuId::new();
    if !cpuid.get_feature_info().is_some_and(|features| features.has_xsave()) {
        return;
    }
    // CPUID.0DH.0:EAX, the low half of XCR0 (SDM 13.3).
    let supported = u64::from(core::arch::x86_64::__cpuid_count(0xd, 0).eax);
    let wanted = XCr0Flags::X87
        | XCr0Flags::SSE
        | XCr0Flags::AVX
        | XCr0Flags::OPMASK
        | XCr0Flags::ZMM_HI256
        | XCr0Flags::HI16_ZMM;
    // SAFETY: the CPU has XSAVE and each enabled component; no code here depends on the previous
    // XCR0.
    unsafe {
        Cr4::update(|flags| flags.insert(Cr4Flags::OSXSAVE));
        XCr0::write(wanted & XCr0Flags::from_bits_truncate(supported));
    }
}
