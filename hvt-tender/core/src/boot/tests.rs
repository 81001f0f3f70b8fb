use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use goblin::elf::program_header::{PF_R, PF_W, PF_X};
use hvt_abi::ring::Ring;
use hvt_abi::{BootInfo, Gpa, GuestRange};
use proptest::prelude::*;
use zerocopy::FromBytes;

use super::*;
use crate::image::fixture::{Elf, Part, TEXT};
use crate::memory::Permissions;
use crate::memory::fake::FakeMemory;

mod walk;

use walk::{Mmu, Page};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 0x1000;

/// Runs each of these tests for the tables of each architecture.
macro_rules! for_each_architecture {
    ($($test:ident)+) => {
        mod x86_64_tables {
            $(#[test] fn $test() { super::$test::<super::x86_64::Paging>(); })+
        }

        mod aarch64_tables {
            $(#[test] fn $test() { super::$test::<super::aarch64::Paging>(); })+
        }
    };
}

for_each_architecture! {
    maps_what_solo5s_toolchain_makes
    writes_boot_info
    writes_nothing_else
    the_largest_memory
    further_page_tables_go_where_the_guest_cannot_see_them
    page_tables_that_do_not_fit
    ring_lies_behind_memory
}

/// Expected permissions of a page, computed from the segments of the file and the memory map alone,
/// or `None` if the page must not be mapped.
fn expected<M: Mmu>(segments: &[Part], mem_size: u64, tables_from: u64, address: u64) -> Option<Permissions> {
    if (M::LOW_END.0..MIB).contains(&address) {
        return Some(Permissions::READ | Permissions::EXECUTE);
    }
    if address < 0x1_0000 || address >= mem_size || (tables_from..MIB).contains(&address) {
        return None;
    }
    if address < MIB {
        return Some(Permissions::READ);
    }
    let covers = |part: &&Part| {
        (part.address & !(PAGE - 1)..(part.address + part.memory).next_multiple_of(PAGE)).contains(&address)
    };
    match segments.iter().find(covers).map(|part| part.flags) {
        Some(0) => None,
        Some(flags) => Some(Permissions::from_bits_truncate(
            // PF_X is 1, PF_W is 2, PF_R is 4.
            flags >> 2 & 1 | flags & 2 | (flags & 1) << 2,
        )),
        None => Some(Permissions::READ | Permissions::WRITE),
    }
}

struct Guest {
    memory: FakeMemory,
    booted: Booted,
}

fn boot<M: Mmu>(elf: &Elf, mem_size: u64) -> Result<Guest, BootError> {
    let memory = FakeMemory::new(mem_size, &[0x2008, 0x1_0010, 0x10_0001, 0x20_0000]);
    let booted = boot_in::<M>(elf, mem_size, None, &memory)?;
    Ok(Guest { memory, booted })
}

fn boot_in<M: Mmu>(elf: &Elf, mem_size: u64, net_ring: Option<Gpa>, memory: &FakeMemory) -> Result<Booted, BootError> {
    let file = elf.build();
    let image = Image::parse(&file).unwrap();
    let cmdline = CommandLine::from_args(["one", "two"]).unwrap();
    let config =
        BootConfig { mem_size, cmdline: &cmdline, manifest: &MANIFEST, cpu_cycle_freq: 3_000_000_000, net_ring };
    BootPlan::with_tables::<M>(&image, config)?.load(memory)
}

const MANIFEST: [u8; 112] = [0x5a; 112];

/// Compares every page below `mem_size` and a few above with the memory map and with the file's
/// segments.
fn check_pages<M: Mmu>(guest: &Guest, segments: &[Part], mem_size: u64) {
    let memory_map = &guest.booted.memory_map;
    let visible_end = memory_map.region_at(Gpa(0x1_0000)).unwrap().range.end().0.min(MIB);
    assert!(visible_end >= 0x1_1000);
    let memory = guest.memory.snapshot();
    let large: Vec<bool> =
        (0..mem_size).step_by(2 * MIB as usize).map(|at| one_access::<M>(segments, mem_size, at)).collect();
    let beyond = [mem_size, mem_size + 2 * MIB].into_iter().chain(M::BEYOND.iter().copied());
    for address in (0..mem_size).step_by(PAGE as usize).chain(beyond) {
        let expected = expected::<M>(segments, mem_size, visible_end, address);
        assert_eq!(memory_map.region_at(Gpa(address)).map(|region| region.access), expected, "layout at {address:#x}");
        let page = M::walk(&memory, address);
        assert_eq!(page.is_some(), expected.is_some(), "presence of {address:#x}");
        let (Some(page), Some(expected)) = (page, expected) else { continue };
        assert_eq!(page.physical, address);
        let writable = expected.intersects(Permissions::WRITE | Permissions::EXECUTE);
        assert_eq!(page.writable, writable, "{address:#x}");
        assert_eq!(page.executable, expected.contains(Permissions::EXECUTE), "{address:#x}");
        assert_eq!(page.large, large[(address / (2 * MIB)) as usize], "size of the page at {address:#x}");
    }
}

/// Returns true if all pages of the 2 MiB at `start` have the same permissions.
fn one_access<M: Mmu>(segments: &[Part], mem_size: u64, start: u64) -> bool {
    let mut accesses =
        (start..start + 2 * MIB).step_by(PAGE as usize).map(|at| expected::<M>(segments, mem_size, MIB, at));
    let first = accesses.next();
    start != 0 && accesses.all(|access| Some(access) == first)
}

fn segments() -> Vec<Part> {
    vec![
        Part::load(PF_X, TEXT, 0x1123, vec![0xcc; 0x1123]),
        Part::load(PF_R, TEXT + 0x2000, 0x11, *b"read-only data..."),
        Part::load(PF_R | PF_W, TEXT + 0x3000, 0x800, *b"data"),
        Part::load(PF_R | PF_W, TEXT + 0x4000, 0x20_3ca0, []),
    ]
}

fn maps_what_solo5s_toolchain_makes<M: Mmu>() {
    let guest = boot::<M>(&Elf::with_segments(segments()), 8 * MIB).unwrap();
    check_pages::<M>(&guest, &segments(), 8 * MIB);
}

fn writes_boot_info<M: Mmu>() {
    let guest = boot::<M>(&Elf::with_segments(segments()), 4 * MIB).unwrap();
    let info = BootInfo::read_from_bytes(&guest.memory.bytes(BOOT_INFO_BASE.0, 56)).unwrap();
    let expected = BootInfo {
        mem_size: 4 * MIB,
        kernel_end: Gpa(TEXT + 0x20_8000),
        cpu_cycle_freq: 3_000_000_000,
        cmdline: Gpa(0x1_00a8),
        mft: Gpa(0x1_0038),
        ..BootInfo::default()
    };
    assert_eq!(info, expected);
    assert_eq!(guest.memory.bytes(info.mft.0, MANIFEST.len()), MANIFEST);
    assert_eq!(guest.memory.bytes(info.cmdline.0, 8), b"one two\0");
    assert_eq!(guest.booted.entry, EntryState::new(4 * MIB, Gpa(TEXT)));
}

fn writes_nothing_else<M: Mmu>() {
    let memory = FakeMemory::new(4 * MIB, &[0x10_0003]);
    memory.fill(0xa5);
    boot_in::<M>(&Elf::with_segments(segments()), 4 * MIB, None, &memory).unwrap();
    let elsewhere = [(0x1_0000, 56 + 112 + 7), (TEXT, 0x1123), (TEXT + 0x2000, 17), (TEXT + 0x3000, 4)];
    let mut left = memory.snapshot();
    for (at, len) in M::LOW.iter().copied().chain(elsewhere) {
        left[at as usize..at as usize + len].fill(0xa5);
    }
    assert!(left.iter().all(|byte| *byte == 0xa5));
}

#[test]
fn memory_must_have_the_right_size() {
    let elf = Elf::with_segments([Part::load(PF_X, TEXT, 1, [0xcc])]);
    let memory = FakeMemory::new(2 * MIB, &[]);
    let size = |mem_size| boot_in::<Native>(&elf, mem_size, None, &memory).map(|_| ());
    assert_eq!(size(2 * MIB), Ok(()));
    for wrong in [0, 1, MIB, 2 * MIB - 1, 2 * MIB + 1, 3 * MIB, 4098 * MIB, !(2 * MIB - 1)] {
        assert_eq!(size(wrong), Err(BootError::MemSize(wrong)));
    }
    let smaller = OutOfMemory { at: Gpa(0), len: 4 * MIB, size: 2 * MIB };
    assert_eq!(size(4 * MIB), Err(BootError::Memory(smaller)));
}

#[test]
fn a_page_for_the_stack_must_be_left() {
    let with_end = |end: u64| {
        let bss = Part::load(PF_R | PF_W, TEXT + PAGE, end - TEXT - PAGE, []);
        boot::<Native>(&Elf::with_segments([Part::load(PF_X, TEXT, 1, [0xcc]), bss]), 2 * MIB).map(|_| ())
    };
    assert_eq!(with_end(2 * MIB - PAGE), Ok(()));
    let too_small = Err(BootError::TooSmall { needed: 4 * MIB, mem_size: 2 * MIB });
    assert_eq!(with_end(2 * MIB - PAGE + 1), too_small);
    assert_eq!(with_end(2 * MIB), too_small);
    let largest = 4096 * MIB;
    assert_eq!(with_end(largest - PAGE), Err(BootError::TooSmall { needed: largest, mem_size: 2 * MIB }));
}

/// The remedy in a message must be possible.
#[test]
fn an_image_that_leaves_no_memory_for_the_stack_cannot_be_given_more() {
    for end in [4096 * MIB - PAGE + 1, 4096 * MIB] {
        let bss = Part::load(PF_R | PF_W, TEXT + PAGE, end - TEXT - PAGE, []);
        let elf = Elf::with_segments([Part::load(PF_X, TEXT, 1, [0xcc]), bss]);
        for mem_size in [2 * MIB, 4096 * MIB] {
            let error = boot_in::<Native>(&elf, mem_size, None, &FakeMemory::new(2 * MIB, &[])).unwrap_err();
            assert_eq!(error, BootError::NoStack { end: Gpa(4096 * MIB) });
            let message = error.to_string();
            assert!(message.contains("link it lower") && !message.contains("4098"), "{message}");
        }
    }
}

/// Boots with 4 GiB of memory and only the first 2 MiB backed: nothing may be written elsewhere.
fn the_largest_memory<M: Mmu>() {
    let elf = Elf::with_segments([Part::load(PF_X, TEXT, 1, [0xcc])]);
    let file = elf.build();
    let image = Image::parse(&file).unwrap();
    let cmdline = CommandLine::default();
    let config =
        BootConfig { mem_size: 4096 * MIB, cmdline: &cmdline, manifest: &[], cpu_cycle_freq: 1, net_ring: None };
    let plan = BootPlan::with_tables::<M>(&image, config).unwrap();
    let memory = FakeMemory::new(2 * MIB, &[]);
    plan.tables.write(&memory).unwrap();
    let memory = memory.snapshot();
    for address in (2 * MIB..4096 * MIB).step_by(2 * MIB as usize) {
        let page = Page { physical: address, writable: true, executable: false, large: true };
        assert_eq!(M::walk(&memory, address), Some(page));
    }
    assert!(M::BEYOND.iter().all(|address| *address < 4096 * MIB || M::walk(&memory, *address).is_none()));
}

/// One page in each of `count` blocks of 2 MiB after the first.
fn scattered(count: u64) -> Vec<Part> {
    let first = Part::load(PF_X, TEXT, 1, [0xcc]);
    core::iter::once(first).chain((1..=count).map(|index| Part::load(PF_R, index * 2 * MIB + PAGE, 1, [1]))).collect()
}

fn further_page_tables_go_where_the_guest_cannot_see_them<M: Mmu>() {
    let visible_end = |count: u64| {
        let mem_size = (count + 1) * 2 * MIB;
        let guest = boot::<M>(&Elf::with_segments(scattered(count)), mem_size).unwrap();
        check_pages::<M>(&guest, &scattered(count), mem_size);
        guest.booted.memory_map.regions()[0].range.end().0
    };
    let end = M::LOW_END.0;
    assert_eq!(visible_end(M::FURTHER), end, "all below 0x10000");
    assert_eq!(visible_end(M::FURTHER + 1), end - PAGE);
    assert_eq!(visible_end(M::FURTHER + 13), end - 13 * PAGE);
}

fn page_tables_that_do_not_fit<M: Mmu>() {
    // Boot info, manifest and command line take the page at 0x10000. 239 pages remain up to 1 MiB,
    // and some below 0x10000.
    let plan = |count: u64| {
        let file = Elf::with_segments(scattered(count)).build();
        let image = Image::parse(&file).unwrap();
        let cmdline = CommandLine::default();
        let config =
            BootConfig { mem_size: 4096 * MIB, cmdline: &cmdline, manifest: &[], cpu_cycle_freq: 1, net_ring: None };
        BootPlan::with_tables::<M>(&image, config).map(|plan| plan.memory_map().regions()[0].range.end())
    };
    let room = (M::LOW_END.0 - 0x1_1000) / PAGE;
    assert!([238, 239].contains(&room));
    assert_eq!(plan(M::FURTHER + room), Ok(Gpa(0x1_1000)));
    assert_eq!(plan(M::FURTHER + room + 1), Err(BootError::Scattered));
}

#[test]
fn manifest_must_fit_below_1_mib() {
    let file = Elf::with_segments(segments()).build();
    let image = Image::parse(&file).unwrap();
    let cmdline = CommandLine::from_args([[b'x'; 8191]]).unwrap();
    let plan = |manifest: &[u8]| {
        let config = BootConfig { mem_size: 4 * MIB, cmdline: &cmdline, manifest, cpu_cycle_freq: 1, net_ring: None };
        BootPlan::new(&image, config).map(|_| ())
    };
    assert_eq!(plan(&[0; 8 + 64 * 104]), Ok(()));
    assert_eq!(plan(&vec![0; MIB as usize]), Err(BootError::Manifest { len: MIB as usize }));
}

#[test]
fn page_tables_leave_room_for_the_last_nul() {
    let end = |len: usize| {
        let cmdline = CommandLine::from_args([vec![b'x'; len]]).unwrap();
        let config =
            BootConfig { mem_size: 2 * MIB, cmdline: &cmdline, manifest: &[], cpu_cycle_freq: 1, net_ring: None };
        InfoArea::new(&config, Gpa(MIB)).unwrap().end
    };
    // The command line begins behind the 56 bytes of boot info.
    assert_eq!(end(0x1000 - 56 - 1), Gpa(0x1_1000));
    assert_eq!(end(0x1000 - 56), Gpa(0x1_2000));
}

fn ring_lies_behind_memory<M: Mmu>() {
    let elf = Elf::with_segments(segments());
    let memory = FakeMemory::new(6 * MIB, &[]);
    let ring = |at| boot_in::<M>(&elf, 4 * MIB, Some(Gpa(at)), &memory);
    let booted = ring(5 * MIB).unwrap();
    let info = BootInfo::read_from_bytes(&memory.bytes(0x1_0000, 56)).unwrap();
    assert_eq!((info.mem_size, info.host_features, info.net_ring), (4 * MIB, 1, Gpa(5 * MIB)));
    let range = GuestRange::new(Gpa(5 * MIB), (size_of::<Ring>() as u64).next_multiple_of(PAGE)).unwrap();
    assert!(booted.memory_map.allows(range, Permissions::READ | Permissions::WRITE));
    assert!(booted.memory_map.region_at(range.end()).is_none() && booted.memory_map.region_at(Gpa(4 * MIB)).is_none());
    let page = Page { physical: 5 * MIB, writable: true, executable: false, large: false };
    assert_eq!(M::walk(&memory.snapshot(), 5 * MIB), Some(page));
    for wrong in [4 * MIB - PAGE, 5 * MIB + 8, 4096 * MIB - PAGE, !0xfff] {
        assert_eq!(ring(wrong).unwrap_err(), BootError::Ring(Gpa(wrong)));
    }
}

/// Segments with random sizes and permissions, close to each other and to 2 MiB boundaries.
fn random_segments() -> impl Strategy<Value = Vec<Part>> {
    let flags = prop::sample::select(vec![0, PF_R, PF_W, PF_X, PF_R | PF_W, PF_R | PF_X]);
    let gap = prop_oneof![0_u64..3, 0_u64..600];
    let pages = prop_oneof![1_u64..3, 1_u64..1200];
    let skip = prop_oneof![Just(0), 0..PAGE];
    let segment = (flags, gap, skip, pages, 1..=PAGE, prop::collection::vec(1_u8.., 0..5000));
    prop::collection::vec(segment, 1..6).prop_map(|segments| {
        let mut parts = vec![Part::load(PF_X, TEXT, 3, [0xcc; 3])];
        let mut at = TEXT + PAGE;
        for (flags, gap, skip, pages, last, mut bytes) in segments {
            let address = at + gap * PAGE + skip;
            let memory = (pages - 1) * PAGE + last;
            bytes.truncate(memory as usize);
            parts.push(Part::load(flags, address, memory, bytes));
            at = (address + memory).next_multiple_of(PAGE);
        }
        parts
    })
}

fn check_image<M: Mmu>(parts: &[Part], mem_size: u64) {
    let guest = boot::<M>(&Elf::with_segments(parts.to_vec()), mem_size).unwrap();
    check_pages::<M>(&guest, parts, mem_size);
    let mut loaded = vec![0; mem_size as usize];
    for part in parts {
        loaded[part.address as usize..][..part.bytes.len()].copy_from_slice(&part.bytes);
    }
    assert!(guest.memory.snapshot()[MIB as usize..] == loaded[MIB as usize..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_page_of_every_image_is_mapped_as_its_file_says(parts in random_segments(), more in 0_u64..3) {
        let end = parts.last().map_or(0, |part| part.address + part.memory).next_multiple_of(PAGE) + STACK_MIN;
        let mem_size = end.next_multiple_of(2 * MIB) + more * 2 * MIB;
        check_image::<x86_64::Paging>(&parts, mem_size);
        check_image::<aarch64::Paging>(&parts, mem_size);
    }
}

/// Below the guest's memory and above its boot info.
#[test]
fn exception_vectors_are_executed_and_not_the_guests_to_write() {
    use super::aarch64::Paging;
    let guest = boot::<Paging>(&Elf::with_segments(segments()), 4 * MIB).unwrap();
    let vectors: Vec<u8> = hvt_abi::aarch64::VECTORS.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(guest.memory.bytes(0xf_f000, 2048), vectors);
    let region = guest.booted.memory_map.region_at(Gpa(0xf_f000)).unwrap();
    let range = GuestRange::between(Gpa(0xf_f000), Gpa(MIB)).unwrap();
    // The code of this guest, which follows, is execute-only.
    assert_eq!((region.range, region.access), (range, Permissions::READ | Permissions::EXECUTE));
}

/// The GiB of hypercalls by store.
#[test]
fn device_memory_follows_the_largest_memory() {
    use super::aarch64::Paging;
    let guest = boot::<Paging>(&Elf::with_segments(segments()), 4 * MIB).unwrap();
    let memory = guest.memory.snapshot();
    for address in [4 << 30, (4 << 30) + 0x100, (5 << 30) - 8] {
        let page = Page { physical: address, writable: true, executable: false, large: true };
        assert_eq!(Paging::walk(&memory, address), Some(page));
    }
}
