//! Two unikernels ping each other over a link that loses 20 % of the frames, in virtual time. The
//! frames are recorded in a pcap file. A second run with the same seed gives the same output.
//!
//! ```text
//! cargo build --release --package test-unikernels
//! cargo run --package hvt-tender --example lossy_network -- target/release/ping
//! tcpdump -r /tmp/lossy_network.pcap
//! ```

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::time::Duration;

use hvt_tender::network::{Impairment, Link};
use hvt_tender::{Unikernel, VirtualTime};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).ok_or("usage: lossy_network target/release/ping")?;
    let said = run(&path, 7)?;
    print!("{}", said.concat());
    for said in &said {
        let answered = said.matches("time=").count();
        assert!((50..100).contains(&answered), "100 requests, 20 % loss in each direction: {answered} replies");
    }
    assert!(said == run(&path, 7)?);
    assert!(said != run(&path, 8)?);
    Ok(())
}

/// Returns the console output of the two guests on a network with this seed.
fn run(path: &OsStr, seed: u64) -> Result<Vec<String>, Box<dyn Error>> {
    let time = VirtualTime::new();
    let lossy = Impairment::new().loss(0.2).delay(Duration::from_micros(200)).seed(seed);
    let (first, second) = Link::new().impairment(lossy).virtual_time(&time).ports()?;
    let first = first.with_pcap(env::temp_dir().join("lossy_network.pcap"))?;

    // Neither guest starts before both are ready.
    let hold = time.hold();
    let mut guests = Vec::new();
    for (port, addresses) in [(first, ["ip=10.0.0.2", "peer=10.0.0.3"]), (second, ["ip=10.0.0.3", "peer=10.0.0.2"])] {
        let unikernel = Unikernel::load(path)?.mem(16 << 20).net("service", port).virtual_time(&time);
        guests.push(unikernel.args(addresses).args(["count=100", "deadline=50", "linger=1000"]).spawn()?);
    }
    drop(hold);

    let mut said = Vec::new();
    for guest in guests {
        let output = guest.wait()?;
        assert_eq!(output.status(), Some(0), "{}", output.text());
        said.push(output.text());
    }
    Ok(said)
}
