//! CPUID bits that a guest may see if the tender or its kernel emulates CPUID: the CPU features
//! usable by a program.
//!
//! Every bit that is not listed here is hidden. In particular, these are hidden:
//!
//! | hidden | reason |
//! |---|---|
//! | VMX, SVM, SMX, SGX, TDX, SEV and their leaves | a guest is not a hypervisor and has no enclaves |
//! | hypervisor leaves (4000_0000h and up), the hypervisor bit | the guest's only interface is the tender: it has no paravirtual clock and no KVM MSRs |
//! | x2APIC, APIC, TSC deadline, MONITOR, thermal and power leaves (5, 6) | a guest has no interrupts, hence nothing to wait for |
//! | PMU (leaf Ah), perf capabilities, debug store, PT, RDT, branch records | they measure the host and its neighbours |
//! | topology (leaves Bh, 1Fh, 8000_001Eh), number of CPUs and ID of the CPU | a guest has one CPU; the host chooses the physical CPU |
//! | speculation control, ARCH_CAPABILITIES and related bits | they protect a kernel from its programs, and a guest is a single program; the host protects itself |
//! | machine checks, MTRR, SYSENTER, PCID, protection keys, CET, MPX, AMX | they require MSRs, CR4 bits or XSAVE components that a guest does not have |
//!
//! Names are from the SDM, volume 2, CPUID, and from the *AMD64 Architecture Programmer's Manual*
//! (APM), volume 3, appendix E.

const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut i = 0;
    while i < numbers.len() {
        mask |= 1 << numbers[i];
        i += 1;
    }
    mask
}

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
pub const FEATURES_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Subset of [`FEATURES_ECX`] that requires AVX state: FMA, AVX, F16C.
pub const AVX_ECX: u32 = bits(&[12, 28, 29]);
/// Leaf 1 ECX bit 26: XSAVE.
pub const XSAVE: u32 = 1 << 26;
/// Leaf 1 ECX bit 27: OSXSAVE, which reflects the guest's CR4.OSXSAVE.
pub const OSXSAVE: u32 = 1 << 27;
/// Leaf 1 EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, CX8, PGE, CMOV, PAT, PSE-36, CLFSH, MMX, FXSR, SSE, SSE2, SS.
pub const FEATURES_EDX: u32 = bits(&[0, 1, 2, 3, 4, 5, 6, 8, 13, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
/// Leaf 7.0 EBX: FSGSBASE, BMI1, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA, and
/// [`AVX2`] and [`AVX512_EBX`].
pub const EXTENDED_EBX: u32 = bits(&[0, 3, 7, 8, 9, 18, 19, 20, 23, 24, 29]) | AVX2 | AVX512_EBX;
/// Leaf 7.0 EBX bit 5: AVX2.
pub const AVX2: u32 = 1 << 5;
/// Leaf 7.0 EBX: AVX512 F, DQ, IFMA, PF, ER, CD, BW, VL.
pub const AVX512_EBX: u32 = bits(&[16, 17, 21, 26, 27, 28, 30, 31]);
/// Leaf 7.0 ECX: UMIP, GFNI, VAES, VPCLMULQDQ.
pub const EXTENDED_ECX: u32 = bits(&[2, 8]) | AVX_EXTENDED_ECX | AVX512_ECX;
/// Leaf 7.0 ECX: VAES, VPCLMULQDQ.
pub const AVX_EXTENDED_ECX: u32 = bits(&[9, 10]);
/// Leaf 7.0 ECX: AVX512 VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ.
pub const AVX512_ECX: u32 = bits(&[1, 6, 11, 12, 14]);
/// Leaf 7.0 EDX: fast short REP MOV.
pub const EXTENDED_EDX: u32 = bits(&[4]);
/// Leaf 7.1 EAX: AVX-VNNI.
pub const AVX_VNNI: u32 = 1 << 4;
/// Leaf 7.1 EAX: AVX512 BF16.
pub const AVX512_BF16: u32 = 1 << 5;
/// Leaf 8000_0001h ECX: LAHF, ABM, SSE4A, misaligned SSE, PREFETCHW.
pub const AMD_ECX: u32 = bits(&[0, 5, 6, 7, 8]) | AMD_AVX_ECX;
/// Subset of [`AMD_ECX`] that requires AVX state: XOP, FMA4, TBM.
pub const AMD_AVX_ECX: u32 = bits(&[11, 16, 21]);
/// Leaf 8000_0001h EDX: the bits shared with leaf 1, SYSCALL, NX, MMX extensions, 1 GiB pages, long
/// mode, 3DNow! and its extensions.
pub const AMD_EDX: u32 = FEATURES_EDX & !bits(&[19, 25, 26, 27]) | bits(&[11, 20, 22, 26, 29, 30, 31]);
/// Leaf 8000_0007h EDX: invariant TSC.
pub const INVARIANT_TSC: u32 = 1 << 8;
/// Leaf 8000_0008h EBX: CLZERO.
pub const CLZERO: u32 = 1 << 0;
/// Leaf 0Dh.0 EAX, components of XCR0: x87, SSE, AVX, and opmask, ZMM_Hi256 and Hi16_ZMM of AVX-512
/// (SDM volume 1, 13.1).
pub const COMPONENTS: u32 = bits(&[0, 1, 2, 5, 6, 7]);
/// Leaf 0Dh.1 EAX: XSAVEOPT, XGETBV with ECX = 1 (XINUSE).
pub const XSAVE_FEATURES: u32 = bits(&[0, 2]);

/// Last basic leaf that a guest may read: processor frequency.
pub const LAST_BASIC: u32 = 0x16;
/// First extended leaf.
pub const FIRST_EXTENDED: u32 = 0x8000_0000;
/// Last extended leaf that a guest may read: address sizes.
pub const LAST_EXTENDED: u32 = 0x8000_0008;
