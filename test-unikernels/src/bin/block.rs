//! Accesses a block device: all of it, its edges, ranges beyond its end, and partial blocks.
#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec;

use guest_bindings::abi::Gpa;
use guest_bindings::abi::hypercall::{BlockIo, Number, Status};
use guest_bindings::{Block, BlockInfo, DeviceError, ExitStatus, Net, StartInfo};
use test_suite::Contents;
use test_suite::cases::block::{AFTER, BEFORE};
use test_unikernels::{argument, check, failure, number, raw, success};

guest_bindings::manifest! { block "storage" }
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let storage = Block::open("storage").unwrap_or_else(|error| failure(error));
    let info = storage.info();
    let expected = (number(argument(start, 0)), number(argument(start, 1)) as usize);
    check((info.capacity, info.block_size) == expected, format_args!("the device is {info:?}"));
    check(
        matches!(Block::open("other"), Err(DeviceError::NoSuchDevice)),
        "a device that is not in the manifest exists",
    );
    check(matches!(Net::open("storage"), Err(DeviceError::NoSuchDevice)), "a block device is a network device");

    edges(&storage, info);
    hypercalls(info);
    // Neither transfer changed the device.
    whole(&storage, info, BEFORE);
    for offset in (0..info.capacity).step_by(info.block_size) {
        let mut block = vec![0; info.block_size];
        AFTER.fill(offset, &mut block);
        check(storage.write(offset, &block) == Ok(()), format_args!("write at {offset}"));
    }
    whole(&storage, info, AFTER);
    several(&storage, info);
    success()
}

/// Reads the whole device, first in single blocks and then in one call.
fn whole(storage: &Block, info: BlockInfo, contents: Contents) {
    let mut block = vec![0; info.block_size];
    for offset in (0..info.capacity).step_by(info.block_size) {
        block.fill(0xaa);
        check(storage.read(offset, &mut block) == Ok(()), format_args!("read at {offset}"));
        check(contents.matches(offset, &block), format_args!("the block at {offset} is not {contents:?}"));
    }
    let mut all = vec![0; info.capacity as usize];
    check(storage.read(0, &mut all) == Ok(()), "read of the whole device");
    check(contents.matches(0, &all), format_args!("the device is not {contents:?}"));
}

/// Transfers several blocks in one call, with unaligned memory.
fn several(storage: &Block, info: BlockInfo) {
    let len = (info.block_size * 3).min(info.capacity as usize);
    let offset = info.capacity - len as u64;
    let mut memory = vec![0; len + 9];
    let data = &mut memory[1..=len];
    AFTER.fill(offset, data);
    check(storage.write(offset, data) == Ok(()), "write of several blocks");
    data.fill(0);
    check(storage.read(offset, data) == Ok(()), "read of several blocks");
    check(AFTER.matches(offset, data), "several blocks are not what was written");
    check(memory[0] == 0 && memory[len + 1..] == [0; 8], "a read wrote beyond its buffer");
}

/// Checks ranges that are rejected for reads and for writes.
fn edges(storage: &Block, info: BlockInfo) {
    let BlockInfo { capacity, block_size } = info;
    let size = block_size as u64;
    let last = capacity - size;
    let mut buffer = vec![0; 2 * block_size];
    for (offset, len) in [
        (capacity, block_size),
        (last, 2 * block_size),
        (capacity + size, block_size),
        (u64::MAX - size + 1, block_size),
        (u64::MAX, block_size),
        (1 << 63, block_size),
        // Partial blocks.
        (0, 0),
        (0, 1),
        (0, block_size - 1),
        (0, block_size + 1),
        (1, block_size),
        (size - 1, block_size),
        (size / 2, block_size),
        (last + 1, block_size - 1),
    ] {
        let data = &mut buffer[..len];
        check(storage.read(offset, data) == Err(DeviceError::Invalid), format_args!("read of {len} bytes at {offset}"));
        check(
            storage.write(offset, data) == Err(DeviceError::Invalid),
            format_args!("write of {len} bytes at {offset}"),
        );
    }
    let first = &mut buffer[..block_size];
    check(storage.read(last, first) == Ok(()), "read of the last block");
    check(storage.read(0, first) == Ok(()), "read of the first block");
}

/// Makes hypercalls that the bindings would not make.
fn hypercalls(info: BlockInfo) {
    let size = info.block_size as u64;
    let mut buffer = vec![0; info.block_size];
    let data = Gpa(buffer.as_mut_ptr().expose_provenance() as u64);
    let good = BlockIo { handle: 1, offset: 0, data, len: size, ret: -1, reserved: 0 };
    for number in [Number::BlockRead, Number::BlockWrite] {
        for handle in [0, 2, 63, 64, 65, 1 << 32 | 1, u64::MAX] {
            refused(number, BlockIo { handle, ..good });
        }
        for len in [0, 1, size - 1, size / 2, u64::MAX, u64::MAX - size + 1, 1 << 63, info.capacity + size] {
            refused(number, BlockIo { len, ..good });
        }
        for offset in [1, size - 1, size / 2, u64::MAX] {
            refused(number, BlockIo { offset, ..good });
        }
    }
}

fn refused(number: Number, mut argument: BlockIo) {
    let asked = argument;
    // SAFETY: The buffer has the size of the valid argument, and the other arguments are rejected.
    unsafe { raw::hypercall_with(number, &mut argument) };
    check(argument.ret == Status::Invalid as i32, format_args!("{} of {asked:?} is {}", number.name(), argument.ret));
}
