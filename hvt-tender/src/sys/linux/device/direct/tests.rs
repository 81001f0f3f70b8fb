use super::*;
use crate::device::block::tests::{LoopDevice, image, pattern};
use crate::device::testing::{Buffer, in_own_namespace};
use crate::error_chain::ErrorChain;
use std::fs;
use std::os::fd::AsRawFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::CloneFlags;
use tempfile::TempDir;

fn options(block_size: u64) -> Options {
    Options { block_size, ..Options::default() }
}

fn open(path: &Path, block_size: u64) -> Result<DirectBlock, OpenError> {
    DirectBlock::open(path, &options(block_size))
}

/// Writes and reads pieces of several lengths with aligned and misaligned buffers.
fn transfers(block: &mut DirectBlock, contents: impl Fn() -> Vec<u8>) {
    assert!(OFlag::from_bits_retain(fcntl(&block.disk.file, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_DIRECT));
    let (size, capacity) = (usize::from(block.block_size()), block.capacity() as usize);
    let mut expected = vec![0; capacity];
    let through = PAGES * size_of::<Page>();
    let lengths = [size, 3 * size, through - size, through, through + size, 2 * through + 5 * size];
    for (number, len) in lengths.into_iter().enumerate() {
        let offset = (capacity - len) / size * size;
        let data: Vec<u8> = pattern(len).into_iter().map(|byte| byte ^ number as u8).collect();
        let (aligned, odd) = (Buffer::aligned(len), Buffer::of(&data));
        assert!(aligned.with(|slice| block.fits(slice)) && !odd.with(|slice| block.fits(slice)));
        assert!(len <= 4096 || !aligned.in_pieces(|slice| block.fits(slice)));
        let check = |block: &mut DirectBlock, expected: &mut Vec<u8>| {
            expected[offset..][..len].copy_from_slice(&data);
            assert!(contents() == *expected, "{len} bytes written at {offset}");
            aligned.with(|slice| block.read(offset as u64, slice)).unwrap();
            assert!(aligned.bytes() == data, "{len} bytes read at {offset}");
            let back = Buffer::zeroed(len);
            back.with(|slice| block.read(offset as u64, slice)).unwrap();
            assert!(back.bytes() == data, "{len} bytes read at {offset}, elsewhere");
        };
        odd.with(|slice| block.write(offset as u64, slice)).unwrap();
        check(block, &mut expected);
        Buffer::of(&vec![0; len]).in_pieces(|slice| block.write(offset as u64, slice)).unwrap();
        expected[offset..][..len].fill(0);
        assert!(contents() == expected);
        aligned.fill(&data);
        aligned.with(|slice| block.write(offset as u64, slice)).unwrap();
        check(block, &mut expected);
        aligned.in_pieces(|slice| block.read(offset as u64, slice)).unwrap();
        assert!(aligned.bytes() == data);
    }
    assert_eq!(block.sync(), Ok(()));
    assert!(!block.disk.dirty);
}

/// The file is beside the test program, which is not on a file system in memory.
#[test]
fn a_file_is_read_and_written_around_the_page_cache() {
    let program = std::env::current_exe().unwrap();
    let folder = TempDir::new_in(program.parent().unwrap()).unwrap();
    let path = folder.path().join("disk.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let mut block = open(&path, 4096).unwrap();
    // Read through the page cache, which the kernel keeps coherent with direct writes.
    transfers(&mut block, || fs::read(&path).unwrap());
}

/// Data written to the device are in the backing file at once.
#[test]
fn a_block_device_is_reached_around_the_page_cache() {
    let file = image(1 << 20);
    let path = file.path().to_owned();
    let Some(device) = LoopDevice::on(file, 512) else { return };
    let mut block = open(&device.path, 512).unwrap();
    assert_eq!(block.alignment.max(512), 512);
    transfers(&mut block, || fs::read(&path).unwrap());
}

#[test]
fn blocks_smaller_than_the_disks_are_refused() {
    let Some(device) = LoopDevice::on(image(1 << 20), 4096) else { return };
    for size in [512, 2048] {
        let error = open(&device.path, size).unwrap_err();
        assert!(matches!(error, OpenError::Open { problem: Problem::DirectSize(4096), .. }), "{error}");
        let text = ErrorChain::of(&error).to_string();
        assert!(text.contains("--block-sector-size=4096"), "{text}");
    }
    let mut block = open(&device.path, 4096).unwrap();
    transfers(&mut block, || {
        let mut all = vec![0; 1 << 20];
        File::open(&device.path).unwrap().read_exact_at(&mut all, 0).unwrap();
        all
    });
}

#[test]
fn a_file_system_without_direct_io_is_refused() {
    in_own_namespace(CloneFlags::CLONE_NEWNS, || {
        let folder = TempDir::new().unwrap();
        mount(Some("ramfs"), folder.path(), Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
        let path = folder.path().join("disk.img");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let error = open(&path, 512).unwrap_err();
        assert!(matches!(error, OpenError::Open { problem: Problem::NotDirect, .. }), "{error}");
        let text = ErrorChain::of(&error).to_string();
        assert!(text.contains("remove --block-direct"), "{text}");
        FileBlock::open(&path, &options(512)).unwrap();
        umount(folder.path()).unwrap();
    });
}

/// Without the alignment that kernels since 6.1 report.
#[test]
fn an_unreported_alignment_is_found_by_trying() {
    for size in [512, 4096] {
        let Some(device) = LoopDevice::on(image(1 << 20), size) else { return };
        let block = open(&device.path, 4096).unwrap();
        let mut buffer = vec![Page([0; 4096]); PAGES];
        assert_eq!(smallest_read(&block.disk.file, buffer.as_mut_bytes()).unwrap(), u64::from(size));
        if let Some(told) = told(&block.disk.file).unwrap() {
            assert_eq!(told.place, u64::from(size));
        }
    }
    // A directory supports no reads.
    let mut buffer = [0; 1 << 15];
    let directory = File::open("/").unwrap();
    assert!(matches!(smallest_read(&directory, &mut buffer), Err(Problem::Host(_))));
}

/// A write to a full disk fails at once; other writes and reads still work.
#[test]
fn a_full_disk_is_an_error_of_the_device() {
    in_own_namespace(CloneFlags::CLONE_NEWNS, || {
        let folder = TempDir::new().unwrap();
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
        let path = folder.path().join("disk.img");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let device = LoopDevice::at(&path, 512).unwrap();
        let mut block = open(&device.path, 512).unwrap();
        let buffer = Buffer::of(&[7; 32768]);
        assert_eq!(buffer.with(|slice| block.write(0, slice)), Ok(()));
        assert_eq!(Buffer::of(&[7; 1 << 19]).with(|slice| block.write(1 << 19, slice)), Err(DeviceError));
        assert_eq!(buffer.with(|slice| block.read(0, slice)), Ok(()), "what was written is still there");
        assert_eq!(buffer.bytes(), [7; 32768]);
        drop((block, device));
        // The last user of the device may still be closing it.
        nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn a_read_only_device_is_not_written() {
    let program = std::env::current_exe().unwrap();
    let folder = TempDir::new_in(program.parent().unwrap()).unwrap();
    let path = folder.path().join("disk.img");
    fs::write(&path, [5; 8192]).unwrap();
    let mut block = DirectBlock::open(&path, &Options { read_only: true, block_size: 4096 }).unwrap();
    let buffer = Buffer::of(&[1; 4096]);
    assert_eq!(buffer.with(|slice| block.write(0, slice)), Err(DeviceError));
    assert_eq!(buffer.with(|slice| block.read(4096, slice)), Ok(()));
    assert_eq!(buffer.bytes(), [5; 4096]);
    assert_eq!(fs::read(&path).unwrap(), [5; 8192]);
    assert!(block.disk.file.as_raw_fd() == block.descriptors()[0].number && !block.disk.dirty);
}
