use super::*;
use std::time::Instant;

use proptest::prelude::*;

use crate::cancel::CancelToken;
use crate::device::testing::Buffer;

fn write(disk: &Disk, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
    let buffer = Buffer::of(bytes);
    let whole = buffer.with(|slice| disk.clone().write(offset, slice));
    assert_eq!(buffer.bytes(), bytes);
    whole
}

fn read(disk: &Disk, offset: u64, len: usize) -> Result<Vec<u8>, DeviceError> {
    let buffer = Buffer::zeroed(len);
    buffer.in_pieces(|slice| disk.clone().read(offset, slice)).map(|()| buffer.bytes())
}

#[test]
fn sizes_are_whole_blocks() {
    assert_eq!(Disk::empty(0).capacity(), 512);
    assert_eq!(Disk::empty(513).capacity(), 1024);
    assert_eq!(Disk::from_bytes([1; 100]).with_block_size(4096).capacity(), 4096);
    assert_eq!(Disk::empty(u64::MAX).capacity(), u64::MAX, "attaching it is refused");
    assert_eq!(Disk::empty(1 << 50).contents().unwrap_err().kind(), io::ErrorKind::OutOfMemory);
}

#[test]
fn clones_share_what_is_written() {
    let disk = Disk::from_bytes([7; 700]);
    write(&disk, 512, &[9; 512]).unwrap();
    assert_eq!(disk.contents().unwrap(), [[7; 512], [9; 512]].concat());
    assert_eq!(read(&disk, 0, 1024).unwrap(), [[7; 512], [9; 512]].concat());
    assert_eq!((disk.reads(), disk.writes()), (1, 1));
}

#[test]
fn a_file_under_a_disk_stays_as_it_is() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let before = vec![5; 9000];
    std::fs::write(file.path(), &before).unwrap();
    let disk = Disk::copy_on_write(file.path()).unwrap();
    assert_eq!(disk.capacity(), 9216);
    write(&disk, 4096 - 512, &[6; 1024]).unwrap();
    let expected = [&[5; 3584][..], &[6; 1024], &[5; 4392], &[0; 216]].concat();
    assert_eq!(disk.contents().unwrap(), expected);
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
    for wrong in ["/dev/null", "/", "/nothing/here"] {
        assert!(Disk::copy_on_write(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn faults_come_when_they_are_due() {
    let disk = Disk::from_bytes([1; 1024]);
    disk.fail_read(2);
    disk.fail_write(1);
    assert!(read(&disk, 0, 512).is_ok());
    assert_eq!(read(&disk, 0, 512), Err(DeviceError));
    assert!(read(&disk, 0, 512).is_ok());
    assert_eq!(write(&disk, 0, &[2; 512]), Err(DeviceError));
    assert_eq!(disk.contents().unwrap(), [1; 1024]);
    assert_eq!(write(&disk, 0, &[2; 512]), Ok(()));
    disk.slow_down(Duration::from_millis(5));
    let start = Instant::now();
    read(&disk, 0, 512).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(5));
}

/// The longest delay, cancelled before it and in the middle of it.
#[test]
fn a_stop_ends_a_delay() {
    let stop = CancelToken::new().unwrap();
    let disk = Disk::from_bytes([7; 512]);
    disk.slow_down(Duration::MAX);
    let mut slow = disk.clone();
    slow.wait_by(Arc::new(stop.clone()));
    let reading = std::thread::spawn(move || {
        for _ in 0..2 {
            assert_eq!(read(&slow, 0, 512).unwrap(), [7; 512]);
        }
    });
    stop.request();
    reading.join().unwrap();
}

#[test]
fn a_torn_write_leaves_its_first_bytes_and_no_power() {
    for torn in [0, 1, 511, 513, 1024, 4096] {
        let disk = Disk::from_bytes([1; 2048]);
        disk.tear_write(2, torn);
        assert_eq!(write(&disk, 1536, &[3; 512]), Ok(()));
        assert_eq!(write(&disk, 0, &[2; 1024]), Err(DeviceError));
        assert_eq!(read(&disk, 0, 512), Err(DeviceError));
        assert_eq!(write(&disk, 0, &[4; 512]), Err(DeviceError));
        disk.repair();
        let new = torn.min(1024) as usize;
        let expected = [&vec![2; new][..], &vec![1; 1536 - new], &[3; 512]].concat();
        assert_eq!(read(&disk, 0, 2048).unwrap(), expected, "{torn}");
        assert_eq!(write(&disk, 0, &[4; 512]), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn holds_what_a_plain_array_would(
        writes in prop::collection::vec((0..24_u64, 1..8_u64, any::<u8>()), 0..20),
        base in 0..16_000_usize,
    ) {
        let mut plain: Vec<u8> = (0..base).map(|index| (index % 251) as u8).collect();
        let disk = Disk::from_bytes(plain.clone()).with_block_size(512);
        let disk = Disk { capacity: 16_384, ..disk };
        plain.resize(16_384, 0);
        for (block, blocks, byte) in writes {
            let (start, end) = (block * 512, (block + blocks) * 512);
            plain[start as usize..end as usize].fill(byte);
            write(&disk, start, &vec![byte; (end - start) as usize]).unwrap();
        }
        prop_assert!(disk.contents().unwrap() == plain);
        prop_assert!(read(&disk, 512, 15_872).unwrap() == plain[512..]);
    }
}
