//! Boots a unikernel, waits for its console output, and checks its exit status.
//!
//! ```text
//! cargo build --release --package test-unikernels
//! cargo run --package hvt-tender --example boot_and_assert -- target/release/hello
//! ```

use std::env;
use std::error::Error;
use std::time::Duration;

use hvt_abi::hypercall::Number;
use hvt_tender::Limits;
use hvt_tender::Unikernel;

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).ok_or("usage: boot_and_assert target/release/hello")?;
    let limits = Limits::new().wall_time(Duration::from_secs(10)).console(1 << 16);
    let guest = Unikernel::load(path)?.mem(16 << 20).arg("Hello_Solo5").limits(limits).spawn()?;

    // Console output while the guest runs.
    guest.console().wait_for("Hello, World", Duration::from_secs(5))?;

    // Complete record after the guest has ended.
    let output = guest.wait()?;
    assert_eq!(output.status(), Some(0), "{}", output.text());
    assert!(output.text().contains("Command line is: 'Hello_Solo5'"));
    assert!(output.calls.of(Number::Puts).count > 0);
    println!("{output:#?}");
    Ok(())
}
