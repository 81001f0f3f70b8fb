//! Writes to control registers by the guest: the rules of 64-bit mode (SDM volume 2, MOV to control
//! registers; APM volume 2, 3.1.7), restricted to the values that this backend supports.

use hvt_abi::x86_64::{Cr0, Cr4, Efer};

use super::features::Features;

/// Result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written<T> {
    /// New value of the register.
    Value(T),
    /// A CPU in 64-bit mode raises #GP(0).
    Fault,
    /// Valid on a CPU, but not supported by this backend.
    Unsupported,
}

/// Writes CR0. The guest may set the bits for caching and x87 error reporting freely, because they
/// have no effect in a process.
pub(super) fn write_cr0(now: Cr0, value: u64) -> Written<Cr0> {
    let wanted = Cr0::from_bits_retain(value);
    let contradictory = wanted.contains(Cr0::NW) && !wanted.contains(Cr0::CD);
    if value >> 32 != 0 || !wanted.contains(Cr0::PG | Cr0::PE) || contradictory {
        return Written::Fault;
    }
    // Reserved bits below 32 are ignored; ET reads as 1.
    let wanted = Cr0::from_bits_truncate(value) | Cr0::ET;
    let fixed = Cr0::WP | Cr0::EM | Cr0::TS | Cr0::AM;
    if (wanted ^ now).intersects(fixed) { Written::Unsupported } else { Written::Value(wanted) }
}

/// Bits of CR4 that a guest in 64-bit mode without nested virtualization cannot set: LA57, VMXE, SMXE.
const CR4_NEVER: u64 = 1 << 12 | 1 << 13 | 1 << 14;
/// Bits of CR4 that every CPU has: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT (SDM volume 3, 2.5).
const CR4_ALWAYS: u64 = 0x7ff;
/// Bits of CR4 that do not affect what a guest sees in a process: [`CR4_ALWAYS`] except PAE, and
/// UMIP, PCIDE, SMEP, SMAP. They concern CPL 3, user pages, machine checks, virtual-8086 mode, or
/// TLBs.
const CR4_FREE: u64 = 0x7df | 1 << 11 | 1 << 17 | 1 << 20 | 1 << 21;

/// Writes CR4. Bits that are set on the CPU and visible in CPUID stay set whatever the guest
/// writes, like CR0.ET.
pub(super) fn write_cr4(now: Cr4, value: u64, features: &Features) -> Written<Cr4> {
    let (wanted, now) = (Cr4::from_bits_retain(value | features.on), now | Cr4::from_bits_retain(features.on));
    if value & CR4_NEVER != 0 || value & !(CR4_ALWAYS | features.cr4) != 0 || !wanted.contains(Cr4::PAE) {
        return Written::Fault;
    }
    let changed = (wanted ^ now).bits();
    if changed & !(CR4_FREE | features.usable) == 0 { Written::Value(wanted) } else { Written::Unsupported }
}

/// Writes CR3, which cannot change: reloading the same tables flushes the TLB. With CR4.PCIDE set,
/// bit 63 suppresses the flush, and the low 12 bits are the PCID.
pub(super) fn write_cr3(now: u64, value: u64, cr4: Cr4) -> Written<u64> {
    const NO_FLUSH: u64 = 1 << 63;
    const PCID: u64 = 0xfff;
    let same = |mask: u64| (value ^ now) & !mask == 0;
    match cr4.contains(Cr4::PCIDE) {
        true if same(NO_FLUSH | PCID) => Written::Value(value & !NO_FLUSH),
        false if same(0) => Written::Value(value),
        _ => Written::Unsupported,
    }
}

/// Writes XCR0, which does not change: components that the guest disables stay enabled, also in
/// CPUID.
pub(super) fn write_xcr0(value: u64, features: &Features) -> Written<()> {
    /// x87, SSE, AVX; BNDREGS and BNDCSR; opmask, ZMM_Hi256 and Hi16_ZMM; TILECFG and TILEDATA (SDM volume 1, 13.1).
    const X87: u64 = 1 << 0;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const MPX: u64 = 0b11 << 3;
    const AVX512: u64 = 0b111 << 5;
    const AMX: u64 = 0b11 << 17;
    let all_or_none = |set| value & set == 0 || value & set == set;
    let needs = |what: u64, needed: u64| value & what == 0 || value & needed == needed;
    // SDM volume 1, 13.3.
    let valid = value & !features.components == 0
        && value & X87 != 0
        && needs(AVX, SSE)
        && needs(AVX512, AVX)
        && [MPX, AVX512, AMX].into_iter().all(all_or_none);
    match valid {
        false => Written::Fault,
        true if value & !features.xcr0 != 0 => Written::Unsupported,
        true => Written::Value(()),
    }
}

/// Defined bits of EFER: SCE, LME, LMA, NXE, and AMD's LMSLE, FFXSR and TCE. A guest cannot set
/// SVME.
const EFER_DEFINED: u64 = 0xd01 | 0x7 << 13;

/// Writes IA32_EFER.
pub(super) fn write_efer(now: Efer, value: u64) -> Written<Efer> {
    // LMA is read-only: a written value is ignored.
    let wanted = Efer::from_bits_retain(value) | Efer::LMA;
    if value & !EFER_DEFINED != 0 || !wanted.contains(Efer::LME) {
        return Written::Fault;
    }
    if wanted == now { Written::Value(wanted) } else { Written::Unsupported }
}
