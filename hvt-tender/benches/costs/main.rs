//! Costs of the process backend, as ratios to costs of the host measured in the same run.
//!
//! Run it with `scripts/bench`. It needs the environment variables `HVT_TENDER` (path of the
//! release binary) and `HVT_GUESTS` (directory of the test unikernels). With `--check`, it fails if
//! a bound is exceeded.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod compute;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod floor;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod guest;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod memory;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod start;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod table;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    match measure() {
        Ok(rows) => table::print(&rows, check),
        Err(error) => {
            eprintln!("bench: {}", hvt_tender::ErrorChain::of(error.as_ref()));
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() -> std::process::ExitCode {
    eprintln!("bench: the process backend requires Linux on x86_64");
    std::process::ExitCode::FAILURE
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn measure() -> Result<Vec<table::Row>, Box<dyn std::error::Error>> {
    use table::{Figure, Row};
    let tender = guest::Tender::from_environment()?;
    let mut rows = Vec::new();

    let (hello, nothing) = start::exec_to_exit(&tender)?;
    rows.push(Row {
        what: "hello, exec to exit",
        figure: Figure::Microseconds(hello),
        against: "/bin/true",
        other: Figure::Microseconds(nothing),
        at_most: 2.8,
    });

    let signal = floor::signal_round_trip()?;
    let futex = floor::futex_round_trip()?;
    rows.push(Row {
        what: "walltime hypercall",
        figure: Figure::Microseconds(guest::walltime(&tender)?),
        against: "a SIGSEGV and a same-core futex round trip",
        other: Figure::Microseconds(signal + futex),
        at_most: 0.9,
    });

    let (inside, outside) = compute::additions(&tender)?;
    rows.push(Row {
        what: "10^8 additions",
        figure: Figure::Microseconds(inside),
        against: "the same loop in this process",
        other: Figure::Microseconds(outside),
        at_most: 1.02,
    });

    let memory = memory::beyond_the_guest(&tender)?;
    rows.push(Row {
        what: "memory beyond the guest's, tender and child",
        figure: Figure::Kib(memory),
        against: "4 MiB",
        other: Figure::Kib(4096.0),
        at_most: 1.0,
    });
    Ok(rows)
}
