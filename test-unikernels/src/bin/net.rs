//! Answers ARP requests and ICMP echos. `echos=N` ends the guest after N echos.
#![no_std]
#![no_main]

use guest_bindings::{Block, DeviceError, ExitStatus, Net, StartInfo, println};
use test_unikernels::responder::{self, Interface};
use test_unikernels::{check, failure, number, option, success};

guest_bindings::manifest! { net "service" }
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let net = Net::open("service").unwrap_or_else(|error| failure(error));
    check(matches!(Block::open("service"), Err(DeviceError::NoSuchDevice)), "a network device is a block device");
    let info = net.info();
    let [a, b, c, d, e, f] = info.mac;
    println!("MAC {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, MTU {}", info.mtu);
    if let Some(mac) = option(start, "mac") {
        let mut parts = mac.split(':');
        let same =
            info.mac.iter().all(|&byte| parts.next().is_some_and(|part| u8::from_str_radix(part, 16) == Ok(byte)));
        check(same, "the MAC address differs");
    }
    if let Some(mtu) = option(start, "mtu") {
        check(number(mtu) == info.mtu as u64, "the MTU differs");
    }
    check(info.mac[0] & 1 == 0, "the MAC address is a group address");
    let ip = responder::ip(option(start, "ip").unwrap_or("10.0.0.2"));
    responder::serve(&[Interface { net, ip }], option(start, "echos").map(number));
    success()
}
