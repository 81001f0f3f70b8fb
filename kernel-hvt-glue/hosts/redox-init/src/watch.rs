//! Checks that running a guest preserves the caller's registers that no system call changes.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::{boxed::Box, format, string::String, sync::Arc};
use core::arch::asm;

use hvt_core::kernel::{Calls, Errno, Payload};
use hvt_harness::{pack::Pack, suite::run_case, tally::Tally};
use raw_cpuid::CpuId;
use spin::Mutex;

use crate::{
    fd::Fd,
    hypervisor::{Kernel, MappedPage},
    suite::Runner,
    sys,
};

/// Guests that exit with their own values in these registers, or that set registers significant to
/// a kernel.
const CASES: [&str; 8] =
    ["fpu", "tls", "segment-bases", "swap-gs", "reload-descriptor-tables", "syscall", "x87", "resume-after-exceptions"];

/// Runs guests, and checks the registers after each exit.
///
/// # Errors
/// Returns a message if a register has changed, or if a guest has not ended as expected.
pub(crate) fn registers_are_left_alone(pack: &Pack<'_>) -> Result<(), String> {
    let features = CpuId::new().get_feature_info();
    if !features.is_some_and(|features| features.has_oxsave()) {
        return Err("the CPU has no XSAVE, which is needed to read the registers".into());
    }
    let watched = Watched::default();
    let mut runner = Runner::with(watched.clone())?;
    let mut silent = Tally::new(|_| ());
    for case in CASES {
        run_case(&mut runner, case, pack, &mut silent).map_err(|error| format!("{case}: {error}"))?;
        let watch = watched.0.lock();
        if let Some(wrong) = &watch.wrong {
            return Err(format!("{case}: {wrong}"));
        }
        if watch.runs == 0 {
            return Err(format!("{case} did not run"));
        }
    }
    Ok(())
}

/// The kernel's calls, with checks of the registers.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Watch>>);

/// Observations.
#[derive(Default)]
struct Watch {
    runs: u32,
    wrong: Option<String>,
}

impl Calls for Watched {
    type Handle = Fd;
    type Page = MappedPage;

    fn open(&self) -> Result<Fd, Errno> {
        Kernel.open()
    }

    fn dup(&self, handle: &Fd, name: &str) -> Result<Fd, Errno> {
        Kernel.dup(handle, name)
    }

    fn call(&self, handle: &Fd, operation: u64, payload: Payload<'_>) -> Result<usize, Errno> {
        Kernel.call(handle, operation, payload)
    }

    fn run(&self, vcpu: &Fd) -> Result<(), Errno> {
        let mut watch = self.0.lock();
        watch.runs += 1;
        let seed = watch.runs;
        let (tables, mut seen) = (Tables::read(), Box::new(XsaveArea::EMPTY));
        let bases = Bases::pattern(seed);
        let pattern = XsaveArea::pattern(seed);
        let own = Bases::read();
        // SAFETY: this process uses neither FS nor GS.
        unsafe { bases.write() };
        let result = run(vcpu, &pattern, &mut seen);
        let bases_seen = Bases::read();
        // SAFETY: as above.
        unsafe { own.write() };
        let wrong = pattern.difference(&seen).or_else(|| {
            let (tables, tables_seen) = (&tables, &Tables::read());
            (bases != bases_seen || tables != tables_seen)
                .then(|| format!("{bases:x?} {tables:x?} changed to {bases_seen:x?} {tables_seen:x?}"))
        });
        watch.wrong = watch.wrong.take().or(wrong);
        result
    }

    fn map_page(&self, vcpu: &Fd) -> Result<MappedPage, Errno> {
        Kernel.map_page(vcpu)
    }
}

/// x87, SSE and AVX state in standard format (SDM volume 1, 13.4).
#[repr(C, align(64))]
struct XsaveArea([u8; XsaveArea::SIZE]);

/// Components in [`XsaveArea`]: x87, SSE, AVX; the CPU uses those that the kernel has enabled.
const COMPONENTS: u32 = 0b111;

impl XsaveArea {
    /// Legacy region, header, and the upper halves of YMM0 to YMM15.
    const SIZE: usize = 832;
    const EMPTY: Self = Self([0; Self::SIZE]);
    /// Offsets of registers.
    const FCW: core::ops::Range<usize> = 0..2;
    const MXCSR: core::ops::Range<usize> = 24..28;
    const XMM: core::ops::Range<usize> = 160..416;
    const XSTATE_BV: core::ops::Range<usize> = 512..520;
    const YMM: core::ops::Range<usize> = 576..832;

    /// Returns values that depend on the register and on `seed`.
    fn pattern(seed: u32) -> Box<Self> {
        /// Double precision, and rounding towards zero in both units; every exception masked.
        const FCW: u16 = 0xe7f;
        const MXCSR: u32 = 0x7f80;
        let mut area = Box::new(Self::EMPTY);
        let bytes = &mut area.0;
        bytes[Self::FCW].copy_from_slice(&FCW.to_le_bytes());
        bytes[Self::MXCSR].copy_from_slice(&MXCSR.to_le_bytes());
        for (index, byte) in bytes[Self::XMM].iter_mut().enumerate() {
            *byte = (index as u32 + seed) as u8;
        }
        let has_avx = CpuId::new().get_feature_info().is_some_and(|features| features.has_avx());
        for (index, byte) in bytes[Self::YMM].iter_mut().enumerate().filter(|_| has_avx) {
            *byte = !(index as u32 + seed) as u8;
        }
        let valid = if has_avx { COMPONENTS } else { COMPONENTS & !0b100 };
        bytes[Self::XSTATE_BV].copy_from_slice(&u64::from(valid).to_le_bytes());
        area
    }

    /// Returns a message with the first register whose value in `seen` is different.
    fn difference(&self, seen: &Self) -> Option<String> {
        [("FCW", Self::FCW), ("MXCSR", Self::MXCSR), ("XMM registers", Self::XMM), ("YMM registers", Self::YMM)]
            .into_iter()
            .find(|(_, range)| self.0[range.clone()] != seen.0[range.clone()])
            .map(|(name, range)| format!("{name} changed to {:x?}", &seen.0[range]))
    }
}

/// Runs a virtual CPU with `pattern` in the registers, and stores their values afterwards in
/// `seen`.
fn run(vcpu: &Fd, pattern: &XsaveArea, seen: &mut XsaveArea) -> Result<(), Errno> {
    let mut own = Box::new(XsaveArea::EMPTY);
    let result: usize;
    // SAFETY: the areas are aligned and have the size that these components require. The compiler's
    // registers are restored at the end. Reading zero bytes accesses only the guest's memory.
    unsafe {
        asm!(
            "xor edx, edx",
            "mov eax, {components:e}",
            "xsave64 [{own}]",
            "xrstor64 [{pattern}]",
            "mov eax, {call}",
            "syscall",
            "mov r9, rax",
            "xor edx, edx",
            "mov eax, {components:e}",
            "xsave64 [{seen}]",
            "xrstor64 [{own}]",
            components = in(reg) COMPONENTS,
            own = in(reg) &raw mut *own,
            pattern = in(reg) pattern,
            seen = in(reg) seen,
            call = const sys::READ2,
            // Arguments: the descriptor, zero bytes (`rdx`), from the start.
            in("rdi") vcpu.number(), in("rsi") 1, in("r10") 0, in("r8") sys::AS_OPENED,
            inlateout("r9") 0_usize => result,
            out("rax") _, out("rcx") _, out("rdx") _, out("r11") _,
            options(nostack)
        );
    }
    sys::decode(result).map(drop)
}

/// Base addresses of FS and GS.
#[derive(Debug, PartialEq, Eq)]
struct Bases {
    fs: u64,
    gs: u64,
}

impl Bases {
    /// Returns addresses that depend on `seed`.
    fn pattern(seed: u32) -> Self {
        Self { fs: 0x1234_5678_9000 + u64::from(seed), gs: 0x5a5a_a5a5_0000 + u64::from(seed) }
    }

    fn read() -> Self {
        let (fs, gs);
        // SAFETY: the kernel allows both instructions, which have no side effects.
        unsafe {
            asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags))
        };
        Self { fs, gs }
    }

    /// # Safety
    /// No memory access may use FS or GS.
    unsafe fn write(&self) {
        let Self { fs, gs } = *self;
        // SAFETY: the kernel allows both instructions; the caller guarantees the other
        // requirements.
        unsafe { asm!("wrfsbase {}", "wrgsbase {}", in(reg) fs, in(reg) gs, options(nomem, nostack, preserves_flags)) };
    }
}

/// GDTR and IDTR of this CPU, each with limit and base, if a program may read them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tables {
    gdtr: [u8; 10],
    idtr: [u8; 10],
}

impl Tables {
    fn read() -> Self {
        let mut tables = Self::default();
        let features = CpuId::new().get_extended_feature_info();
        // With CR4.UMIP programs may not read them.
        if features.is_some_and(|features| !features.has_umip()) {
            let Self { gdtr, idtr } = &mut tables;
            // SAFETY: each instruction writes ten bytes.
            unsafe { asm!("sgdt [{}]", "sidt [{}]", in(reg) gdtr, in(reg) idtr, options(nostack, preserves_flags)) };
        }
        tables
    }
}
