//! Sends an HTTP request to a unikernel over a lossy in-memory network. The unikernel gets its
//! address by DHCP.
//!
//! ```text
//! cargo build --release --package test-unikernels
//! cargo run --package hvt-tender --example http -- target/release/http
//! ```

use std::env;
use std::error::Error;
use std::io::{Read, Write};
use std::time::Duration;

use hvt_tender::Unikernel;
use hvt_tender::network::{Host, Impairment, Switch};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).ok_or("usage: http target/release/http")?;
    let switch = Switch::new();
    let host = Host::builder([10, 0, 0, 1]).dhcp([10, 0, 0, 2]).start(switch.port()?)?;
    let lossy = switch.port_with(Impairment::new().loss(0.05).seed(1))?;
    let guest = Unikernel::load(path)?.mem(16 << 20).net("service", lossy).spawn()?;
    guest.console().wait_for("listening", Duration::from_secs(20))?;

    let mut stream = host.connect([10, 0, 0, 2], 80)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;

    println!("{answer}");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("Hello from a unikernel\n"));
    Ok(())
}
