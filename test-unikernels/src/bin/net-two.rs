//! Answers ARP requests and ICMP echos on two devices.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, Net, StartInfo};
use test_unikernels::responder::{self, Interface};
use test_unikernels::{check, failure, number, option, success};

guest_bindings::manifest! { net "service0", net "service1" }
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let interface = |name, address, usual| {
        let net = Net::open(name).unwrap_or_else(|error| failure(error));
        Interface { net, ip: responder::ip(option(start, address).unwrap_or(usual)) }
    };
    let interfaces = [interface("service0", "ip", "10.0.0.2"), interface("service1", "ip2", "10.1.0.2")];
    check(interfaces[0].net.info().mac != interfaces[1].net.info().mac, "both devices have the same MAC address");
    responder::serve(&interfaces, option(start, "echos").map(number));
    success()
}
