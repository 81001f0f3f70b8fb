#[cfg(target_arch = "x86_64")]
mod virtual_time;

use super::*;
use crate::measure::{Limit, Limits, Tally};

use crossbeam_channel::{Sender, unbounded};
use hvt_abi::Gpa;
use hvt_abi::hypercall::{Halt, Number, Poll, Puts};
use hvt_abi::native::Registers;
use zerocopy::IntoBytes;

use crate::backend::auto::FOR_TESTS;
use crate::device::Console;
use crate::memory::GuestSlice;
use crate::monitor::{Failure, Reason};
use crate::script::fixture::{CALLS_DATA, calls};
use crate::unikernel::Unikernel;

const LONG: Duration = Duration::from_secs(30);

/// Guest that makes these hypercalls and then spins.
fn guest(made: &[(Number, &[u8])]) -> Unikernel {
    Unikernel::from_bytes(calls(&[], made)).unwrap().backend(FOR_TESTS).mem(4 << 20)
}

/// First byte that [`puts`] prints, which is the first byte of its own argument structure.
const SAID: [u8; 1] = [CALLS_DATA as u8];

fn puts(len: u64) -> Puts {
    Puts { data: Gpa(CALLS_DATA), len }
}

fn sleep() -> Poll {
    Poll { timeout_nsecs: u64::MAX, ..Poll::default() }
}

#[test]
fn output_records_the_run() {
    let halt = Halt { exit_status: 3, ..Halt::default() };
    let nap = Poll { timeout_nsecs: 3_000_000, ..Poll::default() };
    let (long, short) = (puts(16), puts(1));
    let made: &[(Number, &[u8])] = &[
        (Number::Puts, long.as_bytes()),
        (Number::Puts, short.as_bytes()),
        (Number::Poll, nap.as_bytes()),
        (Number::Halt, halt.as_bytes()),
    ];
    let output = guest(made).spawn().unwrap().wait().unwrap();
    assert_eq!((output.status(), output.console.len()), (Some(3), 17));
    assert_eq!(output.calls.of(Number::Puts).count, 2);
    assert_eq!(output.calls.of(Number::NetRead), Tally::default());
    assert_eq!(output.calls.total().count, 4);
    let slept = output.calls.of(Number::Poll).time;
    assert!(slept >= Duration::from_millis(3) && output.wall_time >= slept, "{output:?}");
    assert!(output.cpu_time < LONG);
    let touched = output.peak_memory.unwrap();
    assert!((0x2000..1 << 20).contains(&touched), "{touched}");
    assert_eq!(guest(made).output().unwrap().console, output.console);
}

/// Register with the argument of the hypercall.
#[cfg(target_arch = "x86_64")]
fn argument(registers: &Registers) -> u64 {
    registers.rax
}

#[cfg(target_arch = "aarch64")]
fn argument(registers: &Registers) -> u64 {
    registers.x[0]
}

#[test]
fn a_fault_comes_with_registers() {
    let output = guest(&[(Number::Puts, Puts { data: Gpa(0), len: 1 }.as_bytes())]).spawn().unwrap().wait().unwrap();
    let Outcome::Failed(Failure { reason: Reason::Hypercall(_), registers: Some(registers) }) = output.outcome else {
        panic!("{output:?}")
    };
    assert_eq!(argument(&registers) & !0xfff, CALLS_DATA & !0xfff);
}

#[test]
fn a_kill_ends_a_guest_that_spins_or_sleeps() {
    let (said, sleeps) = (puts(1), sleep());
    let spinning = &[(Number::Puts, said.as_bytes())][..];
    let sleeping = &[(Number::Puts, said.as_bytes()), (Number::Poll, sleeps.as_bytes())];
    for made in [spinning, sleeping] {
        let mut guest = guest(made).spawn().unwrap();
        let said = guest.console().wait_for(std::str::from_utf8(&SAID).unwrap(), LONG);
        assert_eq!(said.unwrap().as_bytes(), SAID);
        assert_eq!(guest.try_wait().unwrap(), None);
        guest.kill();
        assert_eq!(guest.wait_timeout(LONG).unwrap().unwrap().outcome, Outcome::Interrupted);
        assert_eq!(guest.try_wait().unwrap().unwrap().outcome, Outcome::Interrupted, "repeatedly");
        assert_eq!(guest.wait().unwrap().outcome, Outcome::Interrupted);
    }
    let guest = guest(sleeping).spawn().unwrap();
    guest.kill();
    assert_eq!(guest.wait().unwrap().outcome, Outcome::Interrupted, "before any output");
}

#[test]
fn every_limit_has_its_outcome() {
    let sleep = sleep();
    let sleeping = &[(Number::Poll, sleep.as_bytes())];
    let short = Duration::from_millis(20);
    let outcome = |made: &[(Number, &[u8])], limits| guest(made).limits(limits).spawn().unwrap().wait().unwrap();
    for made in [&[][..], sleeping] {
        let output = outcome(made, Limits::new().wall_time(short));
        assert_eq!(output.outcome, Outcome::Exceeded(Limit::WallTime));
        assert!(output.wall_time >= short);
    }
    let output = outcome(&[], Limits::new().cpu_time(short).wall_time(LONG));
    assert_eq!(output.outcome, Outcome::Exceeded(Limit::CpuTime));
    assert!(output.cpu_time >= short);
    let output = outcome(&[], Limits::new().memory(0x1000));
    assert_eq!(output.outcome, Outcome::Exceeded(Limit::Memory));
    let said = puts(10);
    let output =
        outcome(&[(Number::Puts, said.as_bytes()), (Number::Puts, said.as_bytes())], Limits::new().console(15));
    assert_eq!((output.outcome, output.console.len()), (Outcome::Exceeded(Limit::Console), 15));
    let halt = Halt::default();
    let within: &[(Number, &[u8])] = &[(Number::Puts, said.as_bytes()), (Number::Halt, halt.as_bytes())];
    let output = outcome(within, Limits::new().console(10).wall_time(LONG).cpu_time(LONG).memory(4 << 20));
    assert_eq!((output.status(), output.console.len()), (Some(0), 10));
}

#[test]
fn a_failed_start_is_an_error() {
    let error = guest(&[]).block("storage", crate::device::Disk::empty(512)).spawn().unwrap_err();
    assert!(matches!(error, UnikernelError::Attach(_)), "{error}");
}

/// Output goes to the guest's console and to the captured output.
#[test]
fn two_consoles_get_the_same() {
    struct BellConsole(Sender<u64>);
    impl Console for BellConsole {
        fn write(&mut self, data: GuestSlice<'_>) {
            self.0.send(data.len()).unwrap();
        }
    }
    let (doorbell, rings) = unbounded();
    let said = puts(10);
    let guest = guest(&[(Number::Puts, said.as_bytes())]).console(BellConsole(doorbell)).spawn().unwrap();
    assert_eq!(rings.recv_timeout(LONG), Ok(10));
    guest.kill();
    assert_eq!(guest.wait().unwrap().console.len(), 10);
}

#[test]
fn a_device_that_panics_ends_its_guest_alone() {
    struct Bomb;
    impl Console for Bomb {
        fn write(&mut self, _: GuestSlice<'_>) {
            panic!("this panic is part of a test");
        }
    }
    let said = puts(1);
    let bombed = guest(&[(Number::Puts, said.as_bytes())]).console(Bomb).spawn().unwrap();
    assert!(matches!(bombed.wait(), Err(UnikernelError::Thread(_))));
}

/// Guest that prints a letter and exits with this status.
fn exits(status: i32) -> Output {
    let (said, halt) = (puts(1), Halt { exit_status: status, ..Halt::default() });
    guest(&[(Number::Puts, said.as_bytes()), (Number::Halt, halt.as_bytes())]).output().unwrap()
}

#[test]
fn a_failed_assertion_shows_the_console() {
    exits(0).assert_success();
    let output = exits(3);
    let panic = std::panic::catch_unwind(|| output.assert_success()).unwrap_err();
    let said = String::from_utf8_lossy(&SAID);
    assert_eq!(*panic.downcast::<String>().unwrap(), format!("the guest failed: exit status 3\nconsole:\n{said}"));
    assert_eq!(Transcript(b" \n").to_string(), "console: empty");
}

#[test]
fn output_is_printed_as_text() {
    let text = format!("{:?}", exits(0));
    let said = String::from_utf8_lossy(&SAID);
    assert!(text.contains(&format!("console: {said:?}, calls: {{\"puts\": Tally {{ count: 1, ")), "{text}");
    assert!(text.contains("\"halt\": Tally { count: 1, ") && !text.contains("walltime"), "{text}");
}

/// Environment variable that is set in the child process, which panics.
const PANICS: &str = "HVT_TEST_PANICS";

/// The panic is in a child process, so that the test can read its standard error.
#[test]
fn a_panic_prints_the_console_of_a_live_guest() {
    if std::env::var_os(PANICS).is_some() {
        let guest = guest(&[(Number::Puts, puts(1).as_bytes())]).spawn().unwrap();
        guest.console().wait_for(std::str::from_utf8(&SAID).unwrap(), LONG).unwrap();
        panic!("this panic is part of a test");
    }
    let name = "guest::tests::a_panic_prints_the_console_of_a_live_guest";
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    let output = test.args(["--exact", name, "--nocapture"]).env(PANICS, "1").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&SAID);
    assert!(
        error.contains("this panic is part of a test") && error.contains(&format!("guest console:\n{said}\n")),
        "{error}"
    );
}
