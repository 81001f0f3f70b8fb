//! Pings two unikernels on a switch that loses every fifth frame, and records what passes.
//!
//! ```text
//! cargo build --release --package test-unikernels
//! cargo run --package hvt-tender --example lossy_network -- target/release/net
//! tcpdump -r lossy_network.pcap
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use hvt_tender::Unikernel;
use hvt_tender::network::{Conditions, Port, Switch};

/// Our address.
const OURS: [u8; 4] = [10, 0, 0, 1];
/// Longest wait for an answer: there is no way but this switch.
const PATIENCE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).ok_or("usage: lossy_network target/release/net")?;
    let recording = env::temp_dir().join("lossy_network.pcap");
    let switch = Switch::new();
    let ours = switch.port()?.with_pcap(&recording)?;
    let mut guests = Vec::new();
    for (host, seed) in [(2, 1), (3, 2)] {
        let lossy = Conditions::new().loss(0.2).delay(Duration::from_micros(200)).seed(seed);
        let port = switch.port_with(lossy)?;
        let mac = port.mac();
        let unikernel = Unikernel::load(&path)?.mem(16 << 20).arg(format!("ip=10.0.0.{host}"));
        guests.push((host, mac, unikernel.net("service", port).spawn()?));
    }
    for (host, mac, guest) in &guests {
        guest.console().wait_for("MTU", Duration::from_secs(5))?;
        let answered = (0..100).filter(|number| ping(&ours, *mac, [10, 0, 0, *host], *number)).count();
        println!("10.0.0.{host} answers {answered} of 100");
        assert!((60..100).contains(&answered), "a loss of one in five");
    }
    println!("recorded in {}", recording.display());
    Ok(())
}

/// Sends an ICMP echo request (RFC 792); whether it is answered.
fn ping(port: &Port, mac: [u8; 6], ip: [u8; 4], number: u16) -> bool {
    let mut header = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0][..], &OURS, &ip].concat();
    let mut echo = [&[8, 0, 0, 0, 0, 7][..], &number.to_be_bytes()].concat();
    let (sum, echo_sum) = (checksum(&header), checksum(&echo));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    echo[2..4].copy_from_slice(&echo_sum.to_be_bytes());
    let frame = [&mac[..], &port.mac(), &[8, 0], &header, &echo].concat();
    if port.send(&frame).is_err() {
        return false;
    }
    std::iter::from_fn(|| port.receive(PATIENCE).ok())
        .any(|answer| answer.len() >= 42 && answer[34] == 0 && answer[40..42] == number.to_be_bytes())
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    !((sum >> 16) + (sum & 0xffff)) as u16
}
