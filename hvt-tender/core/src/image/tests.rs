use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use goblin::elf::header::{EM_386, EM_AARCH64, EM_RISCV, EM_X86_64, ET_CORE, ET_DYN, ET_REL};
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_INTERP, PT_NOTE, PT_TLS};
use hvt_abi::manifest::{Entry, Header, Kind};
use hvt_abi::note::{TYPE_ABI1, TYPE_MFT1};
use hvt_abi::{Gpa, GuestRange};
use proptest::prelude::*;

use super::fixture::{
    ABI_PART, BSS_PART, DATA_PART, Elf, MACHINE, MANIFEST_PART, Part, RODATA_PART, TEXT, TEXT_PART, manifest,
};
use super::*;
use crate::memory::Permissions;

fn good() -> Elf {
    Elf::unikernel(&[("disk", Kind::Block), ("net0", Kind::Net)])
}

fn range(start: u64, end: u64) -> GuestRange {
    GuestRange::between(Gpa(start), Gpa(end)).unwrap()
}

/// Error of a valid unikernel after `change`.
fn broken(change: impl FnOnce(&mut Elf)) -> ImageError {
    let mut elf = good();
    change(&mut elf);
    let error = Image::parse(&elf.build()).expect_err("the file is broken");
    assert!(!error.to_string().contains('\n'));
    error
}

/// Error of a valid unikernel with other bytes at a file offset.
fn patched(offset: usize, bytes: &[u8]) -> ImageError {
    let mut file = good().build();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    Image::parse(&file).expect_err("the file is broken")
}

fn segment_error(index: usize, change: impl FnOnce(&mut Part)) -> SegmentError {
    match broken(|elf| change(&mut elf.parts[index])) {
        ImageError::Segment { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

fn manifest_error(change: impl FnOnce(&mut Vec<u8>)) -> ManifestError {
    let mut bytes = manifest(&[("disk", Kind::Block), ("net0", Kind::Net)]);
    change(&mut bytes);
    match broken(|elf| elf.parts[MANIFEST_PART] = Part::manifest(&bytes)) {
        ImageError::Manifest(error) => error,
        other => panic!("{other}"),
    }
}

/// Offset of the entry with this index in a manifest.
const fn entry(index: usize) -> usize {
    size_of::<Header>() + index * size_of::<Entry>()
}

#[test]
fn reads_what_solo5s_toolchain_makes() {
    let file = good().build();
    let image = Image::parse(&file).unwrap();
    let text = &image.segments()[0];
    assert_eq!((text.range, text.access), (range(TEXT, TEXT + 0x2000), Permissions::EXECUTE));
    assert_eq!((text.at, text.bytes), (Gpa(TEXT), vec![0xcc; 0x1123].as_slice()));
    let rodata = &image.segments()[1];
    assert_eq!((rodata.range, rodata.access), (range(TEXT + 0x2000, TEXT + 0x3000), Permissions::READ));
    assert_eq!(rodata.bytes, b"read-only data...");
    let data = &image.segments()[2];
    assert_eq!(
        (data.range, data.access),
        (range(TEXT + 0x3000, TEXT + 0x4000), Permissions::READ | Permissions::WRITE)
    );
    let bss = &image.segments()[3];
    assert_eq!(
        (bss.range, bss.access),
        (range(TEXT + 0x4000, TEXT + 0x20_8000), Permissions::READ | Permissions::WRITE)
    );
    assert_eq!((image.segments().len(), bss.bytes.len()), (4, 0));
    assert_eq!((image.entry(), image.end()), (Gpa(TEXT), Gpa(TEXT + 0x20_8000)));
    assert_eq!(image.abi(), Abi { target: 1, version: 2 });
    let devices: Vec<_> = image.manifest().devices().iter().map(|device| (device.name.as_str(), device.kind)).collect();
    assert_eq!(devices, [("disk", DeviceKind::Block), ("net0", DeviceKind::Net)]);
}

#[test]
fn segments_may_start_in_the_middle_of_a_page() {
    let elf = Elf::with_segments([Part::load(PF_R | PF_X, 0x10_0123, 0x20, *b"code")]);
    let file = elf.build();
    let image = Image::parse(&file).unwrap();
    let text = image.segments()[0];
    assert_eq!((text.range, text.at), (range(0x10_0000, 0x10_1000), Gpa(0x10_0123)));
}

#[test]
fn bss_may_begin_in_the_last_page_of_the_data() {
    let data = Part::load(PF_R | PF_W, 0x10_1000, 0x800, *b"data");
    let bss = |address, memory| {
        let code = Part::load(PF_X, 0x10_0000, 1, [0xcc]);
        let bss = Part { alignment: 32, ..Part::load(PF_R | PF_W, address, memory, []) };
        Elf::with_segments([code, data.clone(), bss]).build()
    };
    let file = bss(0x10_1800, 0x1000);
    let image = Image::parse(&file).unwrap();
    assert_eq!(image.segments()[2].range, range(0x10_2000, 0x10_3000));
    let file = bss(0x10_1800, 0x100);
    assert_eq!(Image::parse(&file).unwrap().segments().len(), 2, "the data's page covers it");
    let file = bss(0x10_1003, 0x1000);
    let overlap = SegmentError::Overlap(range(0x10_1000, 0x10_3000));
    let error = Image::parse(&file).unwrap_err();
    assert_eq!(error, ImageError::Segment { index: 2, problem: overlap }, "it would zero the data's last byte");
    let mut elf = good();
    elf.parts[DATA_PART].flags = PF_R;
    elf.parts[BSS_PART].address -= 0x400;
    let overlap = SegmentError::Overlap(range(TEXT + 0x3000, TEXT + 0x20_8000));
    let error = Image::parse(&elf.build()).unwrap_err();
    assert_eq!(error, ImageError::Segment { index: 5, problem: overlap }, "it could not be written");
}

#[test]
fn what_solo5_ignores_is_ignored() {
    let mut elf = good();
    elf.parts.push(Part::other(PT_TLS, []));
    elf.parts.push(Part::other(PT_NOTE, [0; 12]));
    elf.parts.push(Part::other(PT_NOTE, [1; 40]));
    elf.parts.push(Part::note(0x1234_5678, &[0; 9]));
    assert!(Image::parse(&elf.build()).is_ok());
}

#[test]
fn what_is_not_elf() {
    for file in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &[0; 4096]] {
        assert_eq!(Image::parse(file).unwrap_err(), ImageError::NotElf);
    }
}

#[test]
fn broken_identification() {
    assert_eq!(patched(4, &[1]), ImageError::Bits32);
    assert_eq!(patched(4, &[7]), ImageError::Header { field: "EI_CLASS", found: 7, expected: 2 });
    assert_eq!(patched(5, &[2]), ImageError::BigEndian);
    assert_eq!(patched(5, &[0]), ImageError::Header { field: "EI_DATA", found: 0, expected: 1 });
    assert_eq!(patched(6, &[0]), ImageError::Header { field: "EI_VERSION", found: 0, expected: 1 });
    assert_eq!(patched(20, &[2]), ImageError::Header { field: "e_version", found: 2, expected: 1 });
    assert_eq!(patched(52, &[65]), ImageError::Header { field: "e_ehsize", found: 65, expected: 64 });
    assert_eq!(patched(54, &[32]), ImageError::Header { field: "e_phentsize", found: 32, expected: 56 });
    assert_eq!(patched(56, &[0, 0]), ImageError::Header { field: "e_phnum", found: 0, expected: 1 });
}

#[test]
fn other_machines_are_named() {
    assert_eq!(broken(|elf| elf.machine = EM_RISCV), ImageError::Machine(EM_RISCV));
    assert!(broken(|elf| elf.machine = EM_RISCV).to_string().starts_with("built for RISCV"));
    assert!(broken(|elf| elf.machine = EM_386).to_string().starts_with("built for 386"));
    let other = if MACHINE == EM_X86_64 { EM_AARCH64 } else { EM_X86_64 };
    let name = if MACHINE == EM_X86_64 { "built for aarch64" } else { "built for x86_64" };
    assert!(broken(|elf| elf.machine = other).to_string().starts_with(name));
}

#[test]
fn ordinary_programs_are_told_apart() {
    let foreign = |change: fn(&mut Elf)| {
        broken(|elf| {
            elf.parts.retain(|part| part.kind != PT_NOTE);
            change(elf);
        })
    };
    assert_eq!(foreign(|elf| elf.kind = ET_REL), ImageError::NotUnikernel(Foreign::Object));
    assert_eq!(foreign(|elf| elf.kind = ET_CORE), ImageError::NotUnikernel(Foreign::Core));
    assert_eq!(foreign(|elf| elf.kind = 0xfe00), ImageError::NotUnikernel(Foreign::Other(0xfe00)));
    assert_eq!(foreign(|elf| elf.kind = ET_DYN), ImageError::NotUnikernel(Foreign::Relocatable));
    assert_eq!(foreign(|_| ()), ImageError::NotUnikernel(Foreign::Static));
    let dynamic = foreign(|elf| elf.parts[0] = Part::other(PT_INTERP, *b"/lib64/ld-linux-x86-64.so.2\0"));
    assert_eq!(dynamic, ImageError::NotUnikernel(Foreign::Dynamic));
}

#[test]
fn other_targets_and_versions_are_named() {
    let abi = |target, version| broken(|elf| elf.parts[ABI_PART] = Part::abi(target, version));
    assert_eq!(abi(2, 1), ImageError::Target(2));
    assert!(abi(2, 1).to_string().starts_with("was built for Solo5 target spt; this tender runs hvt"));
    assert!(abi(77, 1).to_string().contains("target number 77;"));
    assert_eq!(abi(1, 1), ImageError::Version(1));
    assert!(abi(1, 1).to_string().contains("Solo5 < 0.9"));
    assert!(abi(1, 3).to_string().contains("version 3"));
    let relocatable = broken(|elf| elf.kind = ET_DYN);
    assert_eq!(relocatable, ImageError::NotExecutable(ET_DYN));
}

#[test]
fn broken_notes() {
    let note = |part: Part| broken(|elf| elf.parts.push(part));
    assert_eq!(note(Part::abi(1, 2)), ImageError::DuplicateNote { index: 9, what: "ABI1" });
    assert_eq!(note(Part::manifest(&manifest(&[]))), ImageError::DuplicateNote { index: 9, what: "MFT1" });
    let sizes = |error: ImageError| match error {
        ImageError::NoteSize { what, size, min, max, .. } => {
            assert!(error.to_string().contains("note does not fall within valid size"));
            (what, size, min, max)
        }
        other => panic!("{other}"),
    };
    assert_eq!(sizes(note(Part::other(PT_NOTE, [0; 11]))), ("ELF", 11, 12, u64::MAX));
    for size in [0, 15, 17] {
        assert_eq!(sizes(note(Part::note(TYPE_ABI1, &vec![0; size]))), ("ABI1", size as u64, 16, 16));
    }
    for size in [0, 1, 11, 4 + 8 + 64 * 104 + 1] {
        assert_eq!(sizes(note(Part::note(TYPE_MFT1, &vec![0; size]))), ("MFT1", size as u64, 12, 4 + 8 + 64 * 104));
    }
    let mut short = Part::abi(1, 2);
    short.bytes.pop();
    assert_eq!(sizes(note(short)), ("ABI1", 16, 16, 15));
    assert_eq!(broken(|elf| drop(elf.parts.remove(MANIFEST_PART))), ImageError::NoManifest);
}

#[test]
fn broken_manifests() {
    let put = |at: usize, bytes: &'static [u8]| {
        manifest_error(|manifest| manifest[at..at + bytes.len()].copy_from_slice(bytes))
    };
    assert_eq!(put(0, &[2]), ManifestError::Version(2));
    assert_eq!(put(4, &[0]), ManifestError::Entries(0));
    assert_eq!(put(4, &[65]), ManifestError::Entries(65));
    let size = |entries, expected| ManifestError::Size { entries, expected, found: 8 + 3 * 104 };
    assert_eq!(put(4, &[4]), size(4, 8 + 4 * 104));
    assert_eq!(put(4, &[2]), size(2, 8 + 2 * 104));
    assert_eq!(put(entry(0), b"x"), ManifestError::FirstEntry);
    assert_eq!(put(entry(0) + 68, &[1, 0, 0, 0]), ManifestError::FirstEntry);
    assert_eq!(put(entry(1) + 68, &[9]), ManifestError::Kind { index: 1, kind: 9 });
    assert_eq!(put(entry(1) + 68, &[0, 0, 0, 0x40]), ManifestError::Kind { index: 1, kind: 1 << 30 });
    assert_eq!(put(entry(2) + 96, &[1]), ManifestError::Attached(2));
    assert_eq!(put(entry(0) + 96, &[1]), ManifestError::Attached(0));
    assert_eq!(put(entry(2), b"\0"), ManifestError::Name(2));
    assert_eq!(put(entry(2), b"net-0"), ManifestError::Name(2));
    assert_eq!(put(entry(2), "né".as_bytes()), ManifestError::Name(2));
    assert_eq!(put(entry(2), &[b'n'; 68]), ManifestError::Name(2), "no room for its NUL");
    assert_eq!(put(entry(2), b"disk"), ManifestError::DuplicateName("disk".into()));
}

#[test]
fn the_largest_manifest() {
    let names: Vec<_> = (0..63).map(|index| format!("{index:067}")).collect();
    let devices: Vec<_> = names.iter().map(|name| (name.as_str(), Kind::Net)).collect();
    let file = Elf::unikernel(&devices).build();
    let image = Image::parse(&file).unwrap();
    assert_eq!(image.manifest().devices().len(), 63);
    assert_eq!(image.manifest().devices()[62].name, names[62]);
}

#[test]
fn broken_segments() {
    let data = TEXT + 0x3000;
    assert_eq!(segment_error(DATA_PART, |part| part.alignment = 0x1800), SegmentError::Alignment(0x1800));
    assert_eq!(
        segment_error(DATA_PART, |part| part.memory = 3),
        SegmentError::FileExceedsMemory { file: 4, memory: 3 }
    );
    assert_eq!(segment_error(TEXT_PART, |part| part.address = 0xf_ffff), SegmentError::TooLow(Gpa(0xf_ffff)));
    let too_high = |start: u64, len| SegmentError::TooHigh { start: Gpa(start), len };
    assert_eq!(segment_error(BSS_PART, |part| part.memory = 1 << 32), too_high(TEXT + 0x4000, 1 << 32));
    assert_eq!(segment_error(BSS_PART, |part| part.memory = u64::MAX), too_high(TEXT + 0x4000, u64::MAX));
    assert_eq!(segment_error(BSS_PART, |part| part.address = u64::MAX), too_high(u64::MAX, 0x20_3ca0));
    assert_eq!(segment_error(BSS_PART, |part| part.address = TEXT), SegmentError::NotAscending(Gpa(TEXT)));
    assert_eq!(segment_error(DATA_PART, |part| part.address = TEXT + 0x2fff), {
        SegmentError::Overlap(range(TEXT + 0x2000, TEXT + 0x4000))
    });
    assert_eq!(segment_error(RODATA_PART, |part| part.memory = 0x1001), {
        SegmentError::Overlap(range(data, data + 0x1000))
    });
    for flags in [PF_W | PF_X, PF_R | PF_W | PF_X] {
        assert_eq!(segment_error(DATA_PART, |part| part.flags = flags), {
            SegmentError::WritableAndExecutable(range(data, data + 0x1000))
        });
    }
    let unaligned = |address, alignment, memory| {
        segment_error(DATA_PART, |part| *part = Part { address, alignment, memory, ..part.clone() })
    };
    assert_eq!(unaligned(data + 0x10, 0x10, 0x800), SegmentError::Unaligned(Gpa(data + 0x10)));
    assert_eq!(unaligned(data, 0, 0x801), SegmentError::Unaligned(Gpa(data + 0x801)));
    assert_eq!(unaligned(data, 1, 0x801), SegmentError::Unaligned(Gpa(data + 0x801)));
    assert!(
        broken(|elf| elf.parts[DATA_PART].flags = 7).to_string().starts_with("program header 3: the segment at 0x")
    );
}

#[test]
fn alignment_beyond_a_page_widens_nothing() {
    let mut elf = good();
    elf.parts[DATA_PART].alignment = 0x20_0000;
    assert!(Image::parse(&elf.build()).is_ok());
    elf.parts[DATA_PART] = Part { alignment: 1, memory: 0x1000, ..elf.parts[DATA_PART].clone() };
    assert!(Image::parse(&elf.build()).is_ok());
}

#[test]
fn entry_points_outside_of_code() {
    for address in [0, TEXT - 1, TEXT + 0x2000, TEXT + 0x3000, u64::MAX] {
        assert_eq!(broken(|elf| elf.entry = address), ImageError::Entry { entry: Gpa(address) });
    }
    let nothing = Elf { entry: TEXT, ..Elf::with_segments([Part::load(PF_X, 0, 0, [])]) };
    assert_eq!(Image::parse(&nothing.build()).unwrap_err(), ImageError::Entry { entry: Gpa(TEXT) });
}

#[test]
fn every_truncation_is_an_error() {
    let file = good().build();
    for len in 0..file.len() {
        let error = Image::parse(&file[..len]).unwrap_err();
        match error {
            ImageError::NotElf => assert!(len < 4),
            ImageError::Truncated { end, len: had, .. } => assert!(had == len as u64 && end > had),
            other => panic!("at {len}: {other}"),
        }
    }
}

/// Checks invariants that hold for the image of every file.
fn check_invariants(file: &[u8]) {
    let Ok(image) = Image::parse(file) else { return };
    let mut end = Gpa(0x10_0000);
    for segment in image.segments() {
        assert!(segment.range.start() >= end && !segment.range.is_empty());
        assert!(segment.range.start().is_aligned(0x1000) && segment.range.end().is_aligned(0x1000));
        assert!(segment.range.covers(&GuestRange::new(segment.at, segment.bytes.len() as u64).unwrap()));
        assert!(!segment.access.contains(Permissions::WRITE | Permissions::EXECUTE));
        end = segment.range.end();
    }
    assert!(end.0 <= 1 << 32 && image.end() == end);
    assert!(image.segments().iter().any(|segment| segment.range.contains(image.entry())));
    assert!(image.manifest().devices().len() < 64);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in prop::collection::vec(any::<u8>(), 0..512)) {
        check_invariants(&tail);
        check_invariants(&[b"\x7fELF\x02\x01\x01", tail.as_slice()].concat());
    }

    #[test]
    fn no_change_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        // Only headers and notes: otherwise most changes would hit the text.
        let mut elf = good();
        elf.parts[TEXT_PART].bytes.truncate(1);
        let mut file = elf.build();
        for (index, byte) in changes {
            *index.get_mut(&mut file) = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        check_invariants(&file);
    }

    #[test]
    fn no_program_header_makes_it_panic(
        index in 0_usize..9,
        fields in prop::collection::vec(interesting(), 6),
        kind in prop::sample::select(vec![0_u32, 1, 3, 4, 7]),
        flags in 0_u32..8,
    ) {
        let mut file = good().build();
        let at = 64 + 56 * index;
        file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        file[at + 4..at + 8].copy_from_slice(&flags.to_le_bytes());
        for (field, bytes) in fields.iter().zip(file[at + 8..].chunks_exact_mut(8)) {
            if let Some(field) = field {
                bytes.copy_from_slice(&field.to_le_bytes());
            }
        }
        check_invariants(&file);
    }
}

/// Values near the limits of a field, or `None` to leave the field unchanged.
fn interesting() -> impl Strategy<Value = Option<u64>> {
    let edges = vec![0, 1, 0x1000, 0x10_0000, 0x10_4000, 1 << 32, u64::from(u32::MAX), u64::MAX, i64::MAX as u64];
    prop::option::of((prop::sample::select(edges), -2_i64..3).prop_map(|(edge, off)| edge.wrapping_add_signed(off)))
}
