//! Tests of an address space on a kernel of a few megabytes.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use alloc::vec;

use super::*;
use crate::fake::FakeHost;

const MIB: u64 = 1 << 20;
const RW: Permissions = Permissions::READ.union(Permissions::WRITE);

fn range(start: u64, len: u64) -> GuestRange {
    GuestRange::new(Gpa(start), len).unwrap()
}

/// Creates a machine with this number of frames and a VM. Returns them with the number of free
/// frames.
fn vm(frames: usize) -> (FakeHost, Vm<FakeHost>, usize) {
    let host = FakeHost::new(frames);
    let vm = Vm::new(&host.svm()).unwrap();
    let free = host.free_frames();
    (host, vm, free)
}

#[test]
fn memory_comes_in_blocks_as_large_as_they_fit() {
    let (host, mut vm, _) = vm(2048);
    vm.allocate(range(0x10_0000, 3 * MIB), RW).unwrap();
    let remaining = |gpa| vm.translate(Gpa(gpa)).unwrap().remaining;
    assert_eq!(remaining(0x20_0000), 2 * MIB);
    assert_eq!(vm.backing.len(), 2, "1 MiB up to the alignment, then 2 MiB");
    drop(vm);
    assert_eq!(host.free_frames(), 2048);
}

#[test]
fn fragmented_memory_still_serves() {
    let (host, mut vm, free) = vm(600);
    // Every other frame is taken, so no block of two is free.
    let taken: vec::Vec<_> = (0..free).map(|_| Frames::allocate(&host, 0).unwrap()).collect();
    let odd: vec::Vec<_> =
        taken.into_iter().enumerate().filter_map(|(i, frame)| (i % 2 == 1).then_some(frame)).collect();
    vm.allocate(range(0x1000, 32 * FRAME_SIZE), RW).unwrap();
    assert_eq!(vm.backing.len(), 32);
    drop((vm, odd));
    assert_eq!(host.free_frames(), 600);
}

#[test]
fn failing_to_allocate_changes_nothing() {
    let (host, mut vm, free) = vm(600);
    assert_eq!(vm.allocate(range(0, 4 * MIB), RW), Err(MapError::OutOfMemory(OutOfMemory)));
    assert_eq!(host.free_frames(), free);
    assert_eq!(vm.translate(Gpa(0)), None);

    vm.allocate(range(0x8000, 0x1000), RW).unwrap();
    let free = host.free_frames();
    assert_eq!(vm.allocate(range(0x4000, 0x8000), RW), Err(MapError::AlreadyMapped(Gpa(0x8000))));
    assert_eq!(vm.allocate(range(0x4000, 0x800), RW), Err(MapError::Unaligned(Gpa(0x4000))));
    assert_eq!(host.free_frames(), free);
    assert!(vm.translate(Gpa(0x8fff)).is_some() && vm.translate(Gpa(0x7fff)).is_none());
}

#[test]
fn a_block_returns_when_the_last_of_it_is_unmapped() {
    let (host, mut vm, _) = vm(2048);
    vm.allocate(range(0, 2 * MIB), RW).unwrap();
    let free = host.free_frames();
    vm.unmap(range(0, MIB)).unwrap();
    assert_eq!(host.free_frames(), free - 1, "the block is there, and a table for what is left of it");
    vm.unmap(range(MIB, MIB)).unwrap();
    assert_eq!(host.free_frames(), free + 512 + 2, "block and tables");
    assert_eq!(vm.backing.len(), 0);
}

#[test]
fn only_lost_translations_make_a_new_epoch() {
    let (_host, mut vm, _) = vm(2048);
    vm.allocate(range(0, 2 * MIB), RW).unwrap();
    vm.protect(range(0, MIB), RW).unwrap_or(());
    vm.unmap(range(4 * MIB, MIB)).unwrap();
    let epoch = vm.epoch();
    vm.protect(range(0, MIB), Permissions::READ).unwrap();
    assert_eq!(vm.epoch(), epoch + 1);
    vm.unmap(range(0, MIB)).unwrap();
    assert_eq!(vm.epoch(), epoch + 2);
}

#[test]
fn copies_cross_blocks_and_stop_at_holes() {
    let (_host, mut vm, _) = vm(2048);
    vm.allocate(range(0x1000, 0x2000), Permissions::empty()).unwrap();
    let pattern: vec::Vec<u8> = (0..=255).cycle().take(0x1800).collect();
    assert_eq!(vm.write(Gpa(0x1400), &pattern), Ok(()));
    let mut back = vec![0; 0x1800];
    assert_eq!(vm.read(Gpa(0x1400), &mut back), Ok(()));
    assert_eq!(back, pattern);

    assert_eq!(vm.zero(range(0x1ffe, 4)), Ok(()));
    let mut six = [1; 6];
    vm.read(Gpa(0x1ffd), &mut six).unwrap();
    assert_eq!(six, [0xfd, 0, 0, 0, 0, 2]);

    assert_eq!(vm.write(Gpa(0x2ffc), &[9; 8]), Err(AccessError(Gpa(0x3000))));
    assert_eq!(vm.read(Gpa(0x2ffb), &mut six), Err(AccessError(Gpa(0x3000))));
    assert_eq!(six, [0, 9, 9, 9, 9, 2], "up to the hole");
    assert_eq!(vm.read(Gpa(u64::MAX), &mut six), Err(AccessError(Gpa(u64::MAX))));
    assert_eq!(vm.read(Gpa(u64::MAX), &mut []), Ok(()));
    assert_eq!(vm.zero(range(0, 0x1000)), Err(AccessError(Gpa(0))));
}

#[test]
fn memory_of_others_is_mapped_and_left_alone() {
    let (host, mut vm, _) = vm(64);
    let frame = Frames::allocate(&host, 0).unwrap();
    // SAFETY: the frame outlives the VM, and no reference to it exists.
    unsafe { vm.map(range(0x5000, 0x1000), frame.base(), RW) }.unwrap();
    vm.write(Gpa(0x5008), &[7]).unwrap();
    // SAFETY: the test owns the frame.
    assert_eq!(unsafe { frame.as_ptr().add(8).read() }, 7);
    drop(vm);
    assert_eq!(host.free_frames(), 63);
}
