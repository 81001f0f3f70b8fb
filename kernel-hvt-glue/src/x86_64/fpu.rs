//! x87, SSE, AVX and AVX-512 state of the guest and of the thread that runs it.
//!
//! Both states are in XSAVE areas in standard format, or in FXSAVE areas if the kernel has not
//! enabled XSAVE. Only components that a guest can change are saved and restored. Guests cannot
//! reach the other components (PKRU, AMX, ..).

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::arch::{asm, naked_asm};

use raw_cpuid::CpuIdReader;

use super::{
    context::{COMPONENTS, Context, GUEST_FPU, HOST_FPU},
    privileged::InterruptFlag,
};
use crate::host::{FRAME_SIZE, Frames, Host, OutOfMemory};

/// State components, numbered as in XCR0 (SDM volume 1, 13.1).
pub(crate) mod component {
    pub(crate) const X87: u64 = 1 << 0;
    pub(crate) const SSE: u64 = 1 << 1;
    pub(crate) const AVX: u64 = 1 << 2;
    /// Opmask, ZMM_Hi256, Hi16_ZMM.
    pub(crate) const AVX512: u64 = 0b111 << 5;
}

/// Components that guests may use at most.
const OFFERED: u64 = component::X87 | component::SSE | component::AVX | component::AVX512;

/// Size in bytes of legacy region and header, which precede the extended region of an XSAVE area.
const FIXED_SIZE: u64 = 576;

/// Returns the components that guests may use: the kernel has enabled them, this crate supports
/// them, and their area fits into a frame. Returns 0 if the kernel uses FXSAVE.
pub(crate) fn components(cpuid: &impl CpuIdReader, host_xcr0: Option<u64>) -> u64 {
    let Some(host_xcr0) = host_xcr0 else { return 0 };
    let enabled = host_xcr0 & OFFERED;
    if area_size(cpuid, enabled) <= FRAME_SIZE { enabled } else { component::X87 | component::SSE }
}

/// Returns the size in bytes of an XSAVE area in standard format for these components (SDM volume
/// 1, 13.4.2).
pub(crate) fn area_size(cpuid: &impl CpuIdReader, components: u64) -> u64 {
    let end_of = |i: u32| {
        let leaf = cpuid.cpuid2(0xd, i);
        u64::from(leaf.ebx) + u64::from(leaf.eax)
    };
    (2..63).filter(|i| components >> i & 1 == 1).map(end_of).fold(FIXED_SIZE, u64::max)
}

/// Returns `true` if XSETBV accepts the value (SDM volume 1, 13.3), given the offered components.
pub(crate) fn xcr0_is_valid(value: u64, offered: u64) -> bool {
    let avx512 = value & component::AVX512;
    value & !offered == 0
        && value & component::X87 != 0
        && (value & component::AVX == 0 || value & component::SSE != 0)
        && (avx512 == 0 || avx512 == component::AVX512 && value & component::AVX != 0)
}

/// Creates the area of a new guest: the state after FNINIT, with default MXCSR and all other state
/// 0.
pub(crate) fn initial_area<H: Host>(host: &H) -> Result<Frames<H>, OutOfMemory> {
    /// FCW after FNINIT (SDM volume 1, 8.1.5).
    const FCW: u16 = 0x37f;
    /// MXCSR after reset (SDM volume 1, 10.2.3): every exception masked.
    const MXCSR: u32 = 0x1f80;
    let area = Frames::allocate(host, 0)?;
    // The offsets are in the legacy region (SDM volume 1, table 10-2). XSTATE_BV is 0, so XRSTOR
    // initializes all components except MXCSR, which it loads from the area.
    // SAFETY: the frame has just been allocated, is aligned, and is larger than 28 bytes.
    unsafe {
        area.as_ptr().cast::<u16>().write(FCW);
        area.as_ptr().add(24).cast::<u32>().write(MXCSR);
    }
    Ok(area)
}

/// Saves the CPU's state to one area and loads the other. Arguments are offsets in [`Context`].
macro_rules! swap {
    ($from:ident, $to:ident, $context:literal) => {
        concat!(
            "mov eax, [",
            $context,
            " + {components}]\n",
            "mov edx, [",
            $context,
            " + {components} + 4]\n",
            "mov rcx, [",
            $context,
            " + {",
            stringify!($from),
            "}]\n",
            "mov rsi, [",
            $context,
            " + {",
            stringify!($to),
            "}]\n",
            "test eax, eax\n",
            "jz 2f\n",
            "xsave64 [rcx]\n",
            "xrstor64 [rsi]\n",
            "jmp 3f\n",
            "2:\n",
            "fxsave64 [rcx]\n",
            "fxrstor64 [rsi]\n",
            "3:\n",
        )
    };
}

/// Loads the guest's state and saves the caller's.
///
/// # Safety
/// Interrupts must be disabled, XCR0 must be the kernel's, and both areas of the context must be
/// valid for its components. Until [`unload`], no other code that uses these registers may run on
/// this CPU.
#[inline]
pub(crate) unsafe fn load(context: &mut Context) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        asm!(swap!(host, guest, "{context}"), context = in(reg) context,
            components = const COMPONENTS, host = const HOST_FPU, guest = const GUEST_FPU,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, options(nostack));
    }
}

/// Reverts [`load`].
///
/// # Safety
/// As for [`load`], which must have been called before on this CPU with this context.
#[inline]
pub(crate) unsafe fn unload(context: &mut Context) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        asm!(swap!(guest, host, "{context}"), context = in(reg) context,
            components = const COMPONENTS, host = const HOST_FPU, guest = const GUEST_FPU,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, options(nostack));
    }
}

/// Calls [`load`] with interrupts disabled.
///
/// # Safety
/// As for [`load`], except that interrupts may be enabled.
#[inline]
pub(crate) unsafe fn load_with_interrupts_off(context: &mut Context) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let interrupts = InterruptFlag::clear();
        load(context);
        interrupts.restore();
    }
}

/// Calls [`unload`] with interrupts disabled.
///
/// # Safety
/// As for [`unload`], except that interrupts may be enabled.
#[inline]
pub(crate) unsafe fn unload_with_interrupts_off(context: &mut Context) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let interrupts = InterruptFlag::clear();
        unload(context);
        interrupts.restore();
    }
}

/// Function that enters the guest.
pub(crate) type Enter = unsafe extern "sysv64" fn(context: *mut Context);

/// Calls `enter` with the guest's FPU state loaded. The function is all assembly, because compiled
/// code may use the registers.
///
/// # Safety
/// As for [`load`] and for `enter`.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn enter_swapped(context: *mut Context, enter: Enter) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push rbp", // keeps the stack aligned
        "mov rbx, rdi",
        "mov rbp, rsi",
        swap!(host, guest, "rbx"),
        "mov rdi, rbx",
        "call rbp",
        swap!(guest, host, "rbx"),
        "pop rbp",
        "pop rbp",
        "pop rbx",
        "ret",
        components = const COMPONENTS,
        host = const HOST_FPU,
        guest = const GUEST_FPU,
    )
}

#[cfg(test)]
mod tests {
    use raw_cpuid::CpuIdResult;

    use super::*;
    use crate::fake::FakeHost;

    /// Offsets and sizes of the components as reported by an AVX-512 machine.
    fn skylake(leaf: u32, subleaf: u32) -> CpuIdResult {
        assert_eq!(leaf, 0xd);
        let (eax, ebx) = match subleaf {
            2 => (256, 576),
            5 => (64, 1088),
            6 => (512, 1152),
            7 => (1024, 1664),
            9 => (8, 2688),
            _ => (0, 0),
        };
        CpuIdResult { eax, ebx, ecx: 0, edx: 0 }
    }

    #[test]
    fn guests_get_what_the_kernel_has_enabled_and_a_frame_can_hold() {
        assert_eq!(components(&skylake, None), 0);
        assert_eq!(components(&skylake, Some(0b11)), 0b11);
        assert_eq!(components(&skylake, Some(0x2e7)), 0xe7);
        assert_eq!(area_size(&skylake, 0x7), 832);
        assert_eq!(area_size(&skylake, 0xe7), 2688);
        let vast = |_, _| CpuIdResult { eax: 1024, ebx: 4096, ecx: 0, edx: 0 };
        assert_eq!(components(&vast, Some(0x7)), 0x3);
    }

    #[test]
    fn xcr0_follows_the_rules_of_xsetbv() {
        for valid in [0x1, 0x3, 0x7, 0xe7] {
            assert!(xcr0_is_valid(valid, 0xe7), "{valid:#x}");
        }
        for invalid in [0x0, 0x2, 0x5, 0x6, 0x27, 0xe3, 0x67, 0x207, 1 << 63 | 1] {
            assert!(!xcr0_is_valid(invalid, 0xe7), "{invalid:#x}");
        }
        assert!(!xcr0_is_valid(0x7, 0x3));
    }

    #[test]
    #[cfg_attr(miri, ignore = "assembly")]
    fn swapping_twice_brings_everything_back() {
        let host = FakeHost::new(2);
        let (guest, own) = (initial_area(&host).unwrap(), Frames::allocate(&host, 0).unwrap());
        let (guest_fpu, host_fpu) = (guest.as_ptr() as u64, own.as_ptr() as u64);
        let mut context = Context { guest_fpu, host_fpu, components: 0, ..Context::default() };
        let (before, inside, after): (u32, u32, u32);
        // FXSAVE needs no privilege, so the test's own MXCSR stands for the kernel's.
        // SAFETY: both areas are frames; the changed registers are restored or clobbered.
        unsafe {
            let mut mxcsr = 0x1fa0_u32;
            asm!("ldmxcsr [{}]", in(reg) &mxcsr);
            before = mxcsr;
            load(&mut context);
            asm!("stmxcsr [{}]", in(reg) &mut mxcsr);
            inside = mxcsr;
            unload(&mut context);
            asm!("stmxcsr [{}]", in(reg) &mut mxcsr);
            after = mxcsr;
            asm!("ldmxcsr [{}]", in(reg) &0x1f80_u32);
        }
        assert_eq!((before, inside, after), (0x1fa0, 0x1f80, 0x1fa0));
    }
}
