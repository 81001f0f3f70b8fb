//! Simulates a power failure in the middle of a write, then boots the unikernel again from the same
//! disk.
//!
//! ```text
//! cargo build --release --package test-unikernels
//! cargo run --package hvt-tender --example torn_write -- target/release/block
//! ```

use std::env;
use std::error::Error;

use hvt_tender::Output;
use hvt_tender::Unikernel;
use hvt_tender::device::Disk;
use test_suite::cases::block::{AFTER, BEFORE};

const SIZE: usize = 16 * 512;

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).ok_or("usage: torn_write target/release/block")?;
    let boot = |disk: &Disk| -> Result<Output, Box<dyn Error>> {
        let unikernel = Unikernel::load(&path)?.mem(16 << 20).args([SIZE.to_string().as_str(), "512"]);
        Ok(unikernel.block("storage", disk.clone()).output()?)
    };

    // The guest writes block after block. Only 100 bytes of the third block reach the disk.
    let (mut before, mut after) = (vec![0; SIZE], vec![0; SIZE]);
    BEFORE.fill(0, &mut before);
    AFTER.fill(0, &mut after);
    let disk = Disk::from_bytes(before.clone());
    disk.tear_write(3, 100);
    let output = boot(&disk)?;
    println!("power failure: {}", output.text().trim_end());
    assert_ne!(output.status(), Some(0));
    let torn = 2 * 512 + 100;
    assert!(disk.contents()? == [&after[..torn], &before[torn..]].concat());

    // After the repair, the guest boots from the torn disk.
    disk.repair();
    let output = boot(&disk)?;
    println!("second boot:   {}", output.text().trim_end());
    assert!(output.text().contains("the block at 0 is not"));
    Ok(())
}
