use proptest::prelude::*;

use super::*;

/// Leaf: number, subleaf, and EAX, EBX, ECX, EDX.
type Leaf = (u32, u32, [u32; 4]);

/// CPUID of an Intel Xeon of family 6, model CFh, in a KVM virtual machine.
const INTEL: &[Leaf] = &[
    (0x0, 0, [0x20, 0x756e6547, 0x6c65746e, 0x49656e69]),
    (0x1, 0, [0xc06f2, 0x20800, 0xfffa3203, 0x1f8bfbff]),
    (0x2, 0, [0xfeff01, 0xf0, 0x0, 0x0]),
    (0x4, 0, [0x4000121, 0x2c0003f, 0x3f, 0x0]),
    (0x4, 1, [0x4000122, 0x1c0003f, 0x3f, 0x0]),
    (0x4, 2, [0x4000143, 0x3c0003f, 0x7ff, 0x0]),
    (0x4, 3, [0x4004163, 0x4c0003f, 0x3bfff, 0x4]),
    (0x6, 0, [0x4, 0x0, 0x0, 0x0]),
    (0x7, 0, [0x2, 0xf1bf27eb, 0x1b415fde, 0xbfd14410]),
    (0x7, 1, [0x1c30, 0x0, 0x0, 0x0]),
    (0x7, 2, [0x0, 0x0, 0x0, 0x1f]),
    (0xb, 0, [0x0, 0x1, 0x100, 0x0]),
    (0xb, 1, [0x5, 0x2, 0x201, 0x0]),
    (0xd, 0, [0x602e7, 0x2b00, 0x2b00, 0x0]),
    (0xd, 1, [0x1f, 0x2a00, 0x1800, 0x0]),
    (0xd, 2, [0x100, 0x240, 0x0, 0x0]),
    (0xd, 5, [0x40, 0x440, 0x0, 0x0]),
    (0xd, 6, [0x200, 0x480, 0x0, 0x0]),
    (0xd, 7, [0x400, 0x680, 0x0, 0x0]),
    (0xd, 9, [0x8, 0xa80, 0x0, 0x0]),
    (0xd, 11, [0x10, 0x0, 0x1, 0x0]),
    (0xd, 12, [0x18, 0x0, 0x1, 0x0]),
    (0xd, 17, [0x40, 0xac0, 0x2, 0x0]),
    (0xd, 18, [0x2000, 0xb00, 0x6, 0x0]),
    (0x1d, 0, [0x1, 0x0, 0x0, 0x0]),
    (0x1d, 1, [0x4002000, 0x80040, 0x10, 0x0]),
    (0x1e, 0, [0x0, 0x4010, 0x0, 0x0]),
    (0x1f, 0, [0x0, 0x1, 0x100, 0x0]),
    (0x1f, 1, [0x5, 0x2, 0x201, 0x0]),
    (0x40000000, 0, [0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d]),
    (0x40000001, 0, [0x1007efb, 0x0, 0x0, 0x0]),
    (0x80000000, 0, [0x80000008, 0x0, 0x0, 0x0]),
    (0x80000001, 0, [0x0, 0x0, 0x121, 0x2c100800]),
    (0x80000002, 0, [0x65746e49, 0x2952286c, 0x6f655820, 0x2952286e]),
    (0x80000003, 0, [0x6f725020, 0x73736563, 0x726f, 0x0]),
    (0x80000006, 0, [0x0, 0x0, 0x8007040, 0x0]),
    (0x80000007, 0, [0x0, 0x0, 0x0, 0x100]),
    (0x80000008, 0, [0x2e392e, 0x100d200, 0x0, 0x0]),
];

/// Supported CPUID of KVM in Linux 6.1 on an AMD EPYC of family 17h, emulated by QEMU.
const AMD: &[Leaf] = &[
    (0x0, 0, [0xd, 0x68747541, 0x444d4163, 0x69746e65]),
    (0x1, 0, [0x800f12, 0x800, 0x76f83203, 0x78bfbfd]),
    (0x6, 0, [0x4, 0x0, 0x0, 0x0]),
    (0x7, 0, [0x0, 0x8801ab, 0x0, 0x20000000]),
    (0xd, 0, [0x7, 0x340, 0x340, 0x0]),
    (0xd, 1, [0x5, 0x0, 0x0, 0x0]),
    (0xd, 2, [0x100, 0x240, 0x0, 0x0]),
    (0x80000000, 0, [0x80000021, 0x68747541, 0x444d4163, 0x69746e65]),
    (0x80000001, 0, [0x800f12, 0x0, 0x75, 0x2dd3fbfd]),
    (0x80000006, 0, [0x0, 0x42004200, 0x2006140, 0x408140]),
    (0x80000008, 0, [0x3028, 0x2000000, 0x0, 0x0]),
    (0x8000000a, 0, [0x1, 0x8, 0x0, 0x10000021]),
    (0x8000001d, 0, [0x121, 0x1c0003f, 0x3f, 0x1]),
    (0x8000001d, 1, [0x122, 0xc0003f, 0xff, 0x1]),
    (0x80000021, 0, [0x204, 0x0, 0x0, 0x0]),
    (0x40000000, 0, [0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d]),
    (0x40000001, 0, [0x1007efb, 0x0, 0x0, 0x0]),
];

fn entries(leaves: &[Leaf]) -> Vec<kvm_cpuid_entry2> {
    let entry = |&(function, index, [eax, ebx, ecx, edx]): &Leaf| kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    };
    leaves.iter().map(entry).collect()
}

/// Registers of a leaf as a guest reads them.
fn read(filtered: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
    let found = filtered.iter().find(|entry| (entry.function, entry.index) == (function, index));
    found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
}

const fn bit(register: u32, number: u32) -> bool {
    register >> number & 1 == 1
}

#[test]
fn guests_are_no_hypervisors_and_see_none() {
    for leaves in [INTEL, AMD] {
        let filtered = filter(&entries(leaves));
        let [_, _, ecx, _] = read(&filtered, 1, 0);
        assert!(!bit(ecx, 5) && !bit(ecx, 6) && !bit(ecx, 31), "VMX, SMX, hypervisor: {ecx:#x}");
        let [_, _, ecx, _] = read(&filtered, 0x8000_0001, 0);
        assert!(!bit(ecx, 2) && !bit(ecx, 12), "SVM, SKINIT: {ecx:#x}");
        let kept = |entry: &&kvm_cpuid_entry2| !matches!(entry.function, 0..=0x16 | 0x8000_0000..=0x8000_0008);
        assert_eq!(filtered.iter().find(kept), None);
    }
}

#[test]
fn what_programs_use_is_there() {
    let filtered = filter(&entries(INTEL));
    let [_, _, ecx, edx] = read(&filtered, 1, 0);
    // SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT, AES, XSAVE, AVX, RDRAND.
    assert!([0, 1, 9, 12, 13, 19, 20, 23, 25, 26, 28, 30].into_iter().all(|number| bit(ecx, number)), "{ecx:#x}");
    // FPU, TSC, MSR, PAE, CMPXCHG8B, CMOV, FXSR, SSE, SSE2.
    assert!([0, 4, 5, 6, 8, 15, 24, 25, 26].into_iter().all(|number| bit(edx, number)), "{edx:#x}");
    let [_, ebx, ecx, _] = read(&filtered, 7, 0);
    // FSGSBASE, AVX2, BMI2, AVX512F, RDSEED, SHA; VAES.
    assert!([0, 5, 8, 16, 18, 29].into_iter().all(|number| bit(ebx, number)) && bit(ecx, 9), "{ebx:#x} {ecx:#x}");
    let [_, _, _, edx] = read(&filtered, 0x8000_0001, 0);
    // SYSCALL, NX, RDTSCP, long mode.
    assert!([11, 20, 27, 29].into_iter().all(|number| bit(edx, number)), "{edx:#x}");
    assert_eq!(read(&filtered, 0x8000_0007, 0), [0, 0, 0, 1 << 8], "invariant TSC");
    assert_eq!(read(&filtered, 0x8000_0002, 0), INTEL.iter().find(|leaf| leaf.0 == 0x8000_0002).unwrap().2);
    let [_, _, ecx, edx] = read(&filter(&entries(AMD)), 0x8000_0001, 0);
    assert_eq!((bit(ecx, 6), bit(edx, 29)), (true, true), "SSE4A, long mode");
}

#[test]
fn what_needs_devices_or_a_kernel_is_gone() {
    let filtered = filter(&entries(INTEL));
    let [_, ebx, ecx, edx] = read(&filtered, 1, 0);
    assert_eq!(ebx >> 16, 1, "one CPU, number 0");
    // MONITOR, PDCM, PCID, x2APIC, TSC deadline; MCE, APIC, SEP, MTRR, MCA, HTT.
    assert!(![3, 15, 17, 21, 24].into_iter().any(|number| bit(ecx, number)), "{ecx:#x}");
    assert!(![7, 9, 11, 12, 14, 28].into_iter().any(|number| bit(edx, number)), "{edx:#x}");
    let [_, ebx, ecx, edx] = read(&filtered, 7, 0);
    // SGX, INVPCID, RTM, RDT-M, PT; PKU, WAITPKG, LA57; AMX.
    assert!(![2, 10, 11, 12, 25].into_iter().any(|number| bit(ebx, number)), "{ebx:#x}");
    assert!(![3, 5, 16].into_iter().any(|number| bit(ecx, number)), "{ecx:#x}");
    // IBRS, STIBP, ARCH_CAPABILITIES, SSBD.
    assert!(![22, 24, 25, 26, 27, 29, 31].into_iter().any(|number| bit(edx, number)), "{edx:#x}");
    for leaf in [5, 6, 0xa, 0xb, 0xf, 0x10, 0x12, 0x14, 0x1d, 0x1f, 0x4000_0000, 0x8000_000a, 0x8000_001f] {
        assert_eq!(read(&filtered, leaf, 0), [0; 4], "leaf {leaf:#x}");
    }
    assert_eq!(read(&filtered, 4, 3)[0] >> 14, 0, "CPUs that share a cache");
}

#[test]
fn the_xsave_area_has_the_components_that_guests_get() {
    let filtered = filter(&entries(INTEL));
    // Components up to Hi16_ZMM, without protection keys and tiles.
    assert_eq!(read(&filtered, 0xd, 0), [0xe7, 0x2b00, 0x680 + 0x400, 0]);
    assert_eq!(read(&filtered, 0xd, 1), [0b101, 0, 0, 0], "XSAVEOPT, XGETBV of XINUSE");
    for (component, size) in [(2, 0x100), (5, 0x40), (6, 0x200), (7, 0x400), (9, 0), (17, 0), (18, 0)] {
        assert_eq!(read(&filtered, 0xd, component)[0], size, "component {component}");
    }
    assert_eq!(read(&filter(&entries(AMD)), 0xd, 0), [7, 0x340, 0x340, 0]);
    assert_eq!(read(&filter(&entries(&[(0xd, 0, [3, 576, 576, 0])])), 0xd, 0), [3, 576, 576, 0]);
}

proptest! {
    #[test]
    fn nothing_is_added_and_to_filter_again_changes_nothing(
        leaves in proptest::collection::vec(
            (prop_oneof![0..0x20_u32, 0x8000_0000..0x8000_0020_u32, any::<u32>()], 0..20_u32, any::<[u32; 4]>()), 0..40,
        ),
    ) {
        let offered = entries(&leaves);
        let filtered = filter(&offered);
        prop_assert_eq!(&filter(&filtered), &filtered);
        for kept in &filtered {
            let original = offered.iter().filter(|entry| (entry.function, entry.index) == (kept.function, kept.index));
            // Numbers may become smaller. The number of CPUs is always one.
            let ebx = if kept.function == 1 { 1 << 16 } else { 0 };
            let of = |entry: &kvm_cpuid_entry2| {
                let smaller = matches!((kept.function, kept.index), (0 | 7 | 0x8000_0000, _) | (0xd, 0));
                let fits = |now: u32, before: u32| if smaller { now <= before } else { now & !before == 0 };
                fits(kept.eax, entry.eax) && fits(kept.ebx & !ebx, entry.ebx) && fits(kept.ecx, entry.ecx) && fits(kept.edx, entry.edx)
            };
            prop_assert!(original.into_iter().any(of), "{:?}", kept);
        }
    }
}
