//! Checks an idle network device and invalid handles.
#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]
#![no_std]
#![no_main]

use core::time::Duration;

use guest_bindings::abi::Gpa;
use guest_bindings::abi::hypercall::{NetIo, Number, Status};
use guest_bindings::clock::Instant;
use guest_bindings::{DeviceError, ExitStatus, Net, StartInfo, yield_until};
use test_unikernels::{check, failure, raw, success};

guest_bindings::manifest! { net "service" }
guest_bindings::entry!(main);

fn main(_: &StartInfo) -> ExitStatus {
    let net = Net::open("service").unwrap_or_else(|error| failure(error));
    check(net.handle().number() == 1, "the handle of the first device is not 1");
    check(matches!(Net::open("servic"), Err(DeviceError::NoSuchDevice)), "a device that is not in the manifest exists");

    // Discard the frames that a host sends at first.
    let mut frame = [0; 2048];
    while net.read(&mut frame) != Err(DeviceError::Again) {}
    let start = Instant::now();
    let deadline = start + Duration::from_millis(50);
    let ready = yield_until(deadline);
    check(!ready.is_empty() || Instant::now() >= deadline, "a sleep ended early without a frame");
    check(ready.iter().all(|handle| handle == net.handle()), "a nonexistent device is ready");

    for number in [Number::NetRead, Number::NetWrite] {
        for handle in [0, 2, 64, 1 << 32 | 1, u64::MAX] {
            let data = Gpa((&raw mut frame).expose_provenance() as u64);
            let mut argument = NetIo { handle, data, len: 60, ret: -1, reserved: 0 };
            // SAFETY: The buffer is longer than the transfer.
            unsafe { raw::hypercall_with(number, &mut argument) };
            check(
                argument.ret == Status::Invalid as i32,
                format_args!("{} on {handle} is {}", number.name(), argument.ret),
            );
        }
    }
    success()
}
