//! Tests of the walker against a model: a map of pages.

use alloc::{collections::BTreeMap, vec::Vec};

use hvt_abi::{Gpa, GuestRange, Permissions};
use proptest::prelude::*;

use super::*;
use crate::{
    fake::FakeHost,
    host::{FRAME_SIZE, Host, Hpa},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const NPT: Npt = Npt { huge_pages: true };
const EPT: Ept = Ept { execute_only: true, large_pages: true, huge_pages: true, small_code: false };
/// As [`EPT`], on a CPU whose executable pages must not change their size.
const SMALL_CODE: Ept = Ept { small_code: true, ..EPT };

fn range(start: u64, len: u64) -> GuestRange {
    GuestRange::new(Gpa(start), len).unwrap()
}

fn tree<F: EntryFormat>(host: &FakeHost, format: F) -> PageTable<F, FakeHost> {
    PageTable::new(host, format, Level::ROOT4, 48).unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Map(GuestRange, Hpa, Permissions),
    Unmap(GuestRange),
    Protect(GuestRange, Permissions),
}

/// Ranges around the boundaries of entries of several levels, so that operations overlap.
fn ranges() -> impl Strategy<Value = GuestRange> {
    let start = prop_oneof![Just(0), Just(2 * MIB), Just(4 * MIB), Just(GIB - 2 * MIB), Just(GIB)];
    let len = prop_oneof![Just(MIB / 4), Just(2 * MIB), Just(4 * MIB), Just(6 * MIB)];
    let pages = prop_oneof![3 => Just(0), 2 => 0..700_u64];
    let fewer = prop_oneof![3 => Just(0), 2 => 0..60_u64];
    (start, pages, len, fewer)
        .prop_map(|(start, pages, len, fewer)| range(start + pages * FRAME_SIZE, len - fewer * FRAME_SIZE))
}

fn operations() -> impl Strategy<Value = Operation> {
    let permissions = || (0..8_u32).prop_map(Permissions::from_bits_truncate);
    // Half of the mappings are congruent modulo 1 GiB on both sides, and allow leaves of every
    // size.
    let distance = prop_oneof![Just(8 * GIB), (0..4096_u64).prop_map(|pages| 8 * GIB + pages * FRAME_SIZE)];
    prop_oneof![
        (ranges(), distance, permissions()).prop_map(|(r, d, p)| Operation::Map(r, Hpa(r.start().0 + d), p)),
        ranges().prop_map(Operation::Unmap),
        (ranges(), permissions()).prop_map(|(r, p)| Operation::Protect(r, p)),
    ]
}

/// Frame and permissions of every mapped page.
#[derive(Default)]
struct Model(BTreeMap<u64, (Hpa, Permissions)>);

impl Model {
    fn pages(range: GuestRange) -> impl Iterator<Item = u64> {
        (range.start().0..range.end().0).step_by(FRAME_SIZE as usize)
    }

    /// Returns the expected result of the operation. Applies the operation if the result is `Ok`.
    fn apply(&mut self, format: impl EntryFormat, operation: Operation) -> Result<bool, MapError> {
        match operation {
            Operation::Map(range, hpa, permissions) => {
                if let Some(page) = Self::pages(range).find(|page| self.0.contains_key(page)) {
                    return Err(MapError::AlreadyMapped(Gpa(page)));
                }
                let granted = format.granted(permissions);
                self.0.extend(Self::pages(range).map(|page| (page, (hpa.add(page - range.start().0), granted))));
                Ok(false)
            }
            Operation::Unmap(range) => {
                let before = self.0.len();
                self.0.retain(|page, _| !range.contains(Gpa(*page)));
                Ok(self.0.len() < before)
            }
            Operation::Protect(range, permissions) => {
                if let Some(page) = Self::pages(range).find(|page| !self.0.contains_key(page)) {
                    return Err(MapError::NotMapped(Gpa(page)));
                }
                let granted = format.granted(permissions);
                let mut changed = false;
                for page in Self::pages(range) {
                    let entry = self.0.get_mut(&page).unwrap();
                    changed |= entry.1 != granted;
                    entry.1 = granted;
                }
                Ok(changed)
            }
        }
    }
}

/// Applies the operation to the tree. Returns `true` if it requires an invalidation.
fn apply<F: EntryFormat>(tree: &mut PageTable<F, FakeHost>, operation: Operation) -> Result<bool, MapError> {
    let stale = |invalidation: Invalidation| invalidation.range().is_some();
    match operation {
        Operation::Map(range, hpa, permissions) => tree.map(range, hpa, permissions).map(|()| false),
        Operation::Unmap(range) => tree.unmap(range).map(stale),
        Operation::Protect(range, permissions) => tree.protect(range, permissions).map(stale),
    }
}

fn agrees_with_model<F: EntryFormat>(format: F, frames: usize, operations: &[Operation]) {
    let host = FakeHost::new(frames);
    let mut tree = tree(&host, format);
    let mut model = Model::default();
    for &operation in operations {
        let before = model.0.clone();
        let free = host.free_frames();
        match (model.apply(format, operation), apply(&mut tree, operation)) {
            // Splitting and merging may require an invalidation although no permission has changed.
            (Ok(changed), Ok(stale)) => assert!(stale || !changed, "{operation:?} must invalidate"),
            (_, Err(MapError::OutOfMemory(_))) => {
                assert!(free < 10, "{operation:?} needs at most eight tables");
                model.0 = before;
            }
            (expected, answer) => assert_eq!(answer, expected, "{operation:?}"),
        }
    }
    for window in [range(0, 16 * MIB), range(GIB - 4 * MIB, 16 * MIB)] {
        for page in Model::pages(window) {
            let found = tree.translate(Gpa(page)).map(|found| (found.hpa, found.permissions));
            assert_eq!(found, model.0.get(&page).copied(), "at {page:#x}");
        }
    }
    // Running out of memory during a split is valid, as long as no frame leaks.
    let _ = tree.unmap(range(0, 4 * GIB)).unwrap();
    assert_eq!(host.free_frames(), frames - 1, "only the root is left");
    drop(tree);
    assert_eq!(host.free_frames(), frames);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 40 }) })]

    #[test]
    fn npt_agrees_with_a_model(operations in prop::collection::vec(operations(), 1..24)) {
        agrees_with_model(NPT, 64, &operations);
    }

    #[test]
    fn ept_agrees_with_a_model(operations in prop::collection::vec(operations(), 1..24)) {
        agrees_with_model(EPT, 64, &operations);
    }

    #[test]
    fn ept_with_small_code_pages_agrees_with_a_model(operations in prop::collection::vec(operations(), 1..24)) {
        agrees_with_model(SMALL_CODE, 64, &operations);
    }

    #[test]
    fn failures_for_want_of_memory_change_nothing(
        operations in prop::collection::vec(operations(), 1..24),
        frames in 1..12_usize,
    ) {
        agrees_with_model(NPT, frames, &operations);
        agrees_with_model(SMALL_CODE, frames, &operations);
    }
}

/// Returns the sizes of the leaves that map `range`, in order.
fn leaves<F: EntryFormat>(tree: &PageTable<F, FakeHost>, range: GuestRange) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut gpa = range.start().0;
    while gpa < range.end().0 {
        let remaining = tree.translate(Gpa(gpa)).unwrap().remaining;
        sizes.push(remaining);
        gpa += remaining;
    }
    sizes
}

#[test]
fn leaves_are_as_large_as_alignment_allows() {
    let host = FakeHost::new(16);
    let mut tree = tree(&host, NPT);
    let all = range(GIB - 2 * MIB - FRAME_SIZE, GIB + 2 * MIB + 2 * FRAME_SIZE);
    tree.map(all, Hpa(all.start().0 + 4 * GIB), Permissions::all()).unwrap();
    assert_eq!(leaves(&tree, all), [FRAME_SIZE, 2 * MIB, GIB, FRAME_SIZE]);

    let small = Npt { huge_pages: false };
    let mut tree = super::PageTable::new(&host, small, Level::ROOT4, 48).unwrap();
    tree.map(range(0, GIB), Hpa(0), Permissions::all()).unwrap();
    assert_eq!(leaves(&tree, range(0, GIB)), [2 * MIB; 512]);
}

#[test]
fn protect_splits_and_merges() {
    let host = FakeHost::new(16);
    let mut tree = tree(&host, NPT);
    tree.map(range(0, GIB), Hpa(4 * GIB), Permissions::READ).unwrap();
    let whole = host.free_frames();
    let page = range(5 * MIB, FRAME_SIZE);
    assert_eq!(tree.protect(page, Permissions::WRITE), Ok(Invalidation::of(page)));
    assert_eq!(host.free_frames(), whole - 2);
    let granted = Permissions::READ | Permissions::WRITE;
    let found = Translation { hpa: Hpa(4 * GIB + 5 * MIB), permissions: granted, remaining: FRAME_SIZE };
    assert_eq!(tree.translate(Gpa(5 * MIB)), Some(found));
    assert_eq!(tree.translate(Gpa(0)).unwrap().remaining, 2 * MIB);

    assert_eq!(tree.protect(page, granted), Ok(Invalidation::NONE));
    assert_eq!(tree.protect(page, Permissions::READ), Ok(Invalidation::of(page)));
    assert_eq!(host.free_frames(), whole);
    assert_eq!(tree.translate(Gpa(0)).unwrap().remaining, GIB);
}

#[test]
fn code_has_small_pages_where_the_cpu_needs_that() {
    let host = FakeHost::new(16);
    let mut tree = tree(&host, SMALL_CODE);
    let (data, code) = (range(0, 4 * MIB), range(4 * MIB, 2 * MIB));
    tree.map(data, Hpa(GIB), Permissions::READ | Permissions::WRITE).unwrap();
    tree.map(code, Hpa(GIB + 4 * MIB), Permissions::READ | Permissions::EXECUTE).unwrap();
    assert_eq!(leaves(&tree, data), [2 * MIB; 2]);
    assert_eq!(leaves(&tree, code), [FRAME_SIZE; 512]);
    let all = range(0, 6 * MIB);
    assert_eq!(tree.protect(all, Permissions::EXECUTE), Ok(Invalidation::of(all)));
    assert_eq!(leaves(&tree, all), [FRAME_SIZE; 3 * 512]);
    assert_eq!(tree.protect(all, Permissions::READ), Ok(Invalidation::of(all)));
    assert_eq!(leaves(&tree, all), [2 * MIB; 3]);
}

#[test]
fn memory_without_permissions_is_remembered() {
    let host = FakeHost::new(8);
    let mut tree = tree(&host, EPT);
    tree.map(range(0, 2 * MIB), Hpa(0), Permissions::empty()).unwrap();
    let found = Translation { hpa: Hpa(0x1234), permissions: Permissions::empty(), remaining: 2 * MIB - 0x1234 };
    assert_eq!(tree.translate(Gpa(0x1234)), Some(found));
}

#[test]
fn five_levels_reach_further() {
    let host = FakeHost::new(8);
    let far = range(1 << 50, FRAME_SIZE);
    let mut deep = PageTable::new(&host, NPT, Level::ROOT5, 52).unwrap();
    deep.map(far, Hpa(0x5000), Permissions::READ).unwrap();
    assert_eq!(deep.translate(Gpa((1 << 50) + 7)).map(|found| found.hpa), Some(Hpa(0x5007)));
    assert_eq!(tree(&host, NPT).map(far, Hpa(0x5000), Permissions::READ), Err(MapError::OutOfRange(far.start())));
}

#[test]
fn nonsense_is_refused() {
    let host = FakeHost::new(8);
    let mut tree = PageTable::new(&host, NPT, Level::ROOT4, 36).unwrap();
    let read = Permissions::READ;
    assert_eq!(tree.map(range(1, FRAME_SIZE), Hpa(0), read), Err(MapError::Unaligned(Gpa(1))));
    assert_eq!(tree.map(range(0, 1), Hpa(0), read), Err(MapError::Unaligned(Gpa(1))));
    assert_eq!(tree.map(range(0, FRAME_SIZE), Hpa(8), read), Err(MapError::NotAFrame(Hpa(8))));
    let beyond = Hpa(0x000f_ffff_ffff_f000);
    assert_eq!(tree.map(range(0, FRAME_SIZE), beyond, read), Ok(()));
    assert_eq!(tree.map(range(FRAME_SIZE, 2 * FRAME_SIZE), beyond, read), Err(MapError::NotAFrame(beyond)));
    let high = range(1 << 36, FRAME_SIZE);
    assert_eq!(tree.map(high, Hpa(0), read), Err(MapError::OutOfRange(high.end())));
    assert_eq!(tree.unmap(range(u64::MAX - 0xfff, 0)), Err(MapError::OutOfRange(Gpa(u64::MAX - 0xfff))));
    assert_eq!(tree.translate(Gpa(u64::MAX)), None);
    assert_eq!(tree.protect(range(FRAME_SIZE, FRAME_SIZE), read), Err(MapError::NotMapped(Gpa(FRAME_SIZE))));
    assert_eq!(tree.map(range(0, 0), Hpa(0), read), Ok(()));
    drop(tree);
    assert_eq!(host.free_frames(), 8);
    assert!(host.allocate(4).is_none());
}
