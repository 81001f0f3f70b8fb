//! Uses the maximum number of devices: 62 block devices and a network device.
#![no_std]
#![no_main]

use guest_bindings::{Block, DeviceError, ExitStatus, Net, StartInfo, yield_until};
use test_suite::cases::block_names;
use test_unikernels::responder::{self, Interface};
use test_unikernels::{check, failure, number, option, success};

guest_bindings::manifest! {
    block "block01", block "block02", block "block03", block "block04", block "block05",
    block "block06", block "block07", block "block08", block "block09", block "block10",
    block "block11", block "block12", block "block13", block "block14", block "block15",
    block "block16", block "block17", block "block18", block "block19", block "block20",
    block "block21", block "block22", block "block23", block "block24", block "block25",
    block "block26", block "block27", block "block28", block "block29", block "block30",
    block "block31", block "block32", block "block33", block "block34", block "block35",
    block "block36", block "block37", block "block38", block "block39", block "block40",
    block "block41", block "block42", block "block43", block "block44", block "block45",
    block "block46", block "block47", block "block48", block "block49", block "block50",
    block "block51", block "block52", block "block53", block "block54", block "block55",
    block "block56", block "block57", block "block58", block "block59", block "block60",
    block "block61", block "block62", net "net63",
}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    for (handle, name) in (1..).zip(block_names::NAMES) {
        let device = Block::open(name).unwrap_or_else(|error| failure(format_args!("{name}: {error}")));
        check(device.handle().number() == handle, format_args!("{name} has the handle {:?}", device.handle()));
        let info = device.info();
        check(info.capacity == block_names::capacity(handle), format_args!("{name} is {info:?}"));
        check_contents(&device, handle);
    }
    let net = Net::open("net63").unwrap_or_else(|error| failure(error));
    check(net.handle().number() == 63, "the handle of the last device is not 63");
    check(matches!(Block::open("block63"), Err(DeviceError::NoSuchDevice)), "there is a device too many");
    check(
        yield_until(guest_bindings::clock::Instant::now()).iter().all(|ready| ready == net.handle()),
        "a block device is ready",
    );
    let ip = responder::ip(option(start, "ip").unwrap_or("10.0.0.2"));
    responder::serve(&[Interface { net, ip }], option(start, "echos").map(number));
    success()
}

fn check_contents(device: &Block, handle: u64) {
    let mut block = [0; 512];
    let last = device.info().capacity - 512;
    for offset in [0, last] {
        check(device.read(offset, &mut block) == Ok(()), format_args!("read of device {handle} at {offset}"));
        let good = block_names::contents(handle).matches(offset, &block);
        check(good, format_args!("device {handle} has the contents of another"));
    }
    check(
        device.read(last + 512, &mut block) == Err(DeviceError::Invalid),
        format_args!("device {handle} is too long"),
    );
}
