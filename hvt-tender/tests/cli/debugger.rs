//! Guests under Debian's `gdb`. The tests run on the backend that every machine has, or on the
//! backend in `HVT_BACKENDS`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{backend, cpu, guest, tender, text};

/// A tender whose guest waits for a debugger.
pub(crate) struct Waiting {
    tender: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    /// Address that the tender listens on.
    pub(crate) address: String,
}

impl Waiting {
    /// Starts the guest `debuggee` with this argument.
    pub(crate) fn new(argument: &str) -> Self {
        Self::with(&["--gdb", "--gdb-port=0"], argument)
    }

    /// Starts the guest with these debugger options of the tender.
    fn with(options: &[&str], argument: &str) -> Self {
        let mut command = tender();
        command.args(["--mem=32", "--backend", &backend()]).args(options).arg("--");
        command.arg(guest("debuggee")).args(["--solo5:quiet", argument]);
        let mut tender = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(tender.stdout.take().unwrap());
        let mut stderr = BufReader::new(tender.stderr.take().unwrap());
        let mut line = String::new();
        // The warning for --no-sandbox precedes this line.
        while !line.contains("target remote ") {
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "{line}");
        }
        let address = line.trim_end().split("target remote ").nth(1).expect(&line).to_owned();
        Self { tender, stdout, stderr, address }
    }

    /// Returns the `status` files of all threads of the tender.
    pub(crate) fn threads(&self) -> Vec<String> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.tender.id())).unwrap();
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap()).collect()
    }

    /// Terminates the tender with a signal.
    pub(crate) fn terminate(&self) {
        kill(Pid::from_raw(self.tender.id() as i32), Signal::SIGTERM).unwrap();
    }

    /// Returns the next line that the guest prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    /// Waits for the end of the tender. Returns its status, the remaining output of the guest, and
    /// the messages of the tender.
    pub(crate) fn end(mut self) -> (Option<i32>, String, String) {
        let (mut printed, mut said) = (String::new(), String::new());
        self.stdout.read_to_string(&mut printed).unwrap();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.tender.wait().unwrap().code(), printed, said)
    }

    /// Starts gdb with these commands. Returns `None` without gdb, which a continuous integration
    /// must have.
    fn gdb(&self, commands: &[&str]) -> Option<Child> {
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set width 0"]);
        gdb.arg(guest("debuggee")).arg("-ex").arg(format!("target remote {}", self.address));
        for command in commands {
            gdb.args(["-ex", command]);
        }
        match gdb.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Ok(gdb) => Some(gdb),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "gdb: {error}");
                eprintln!("SKIPPED: this test needs gdb: {error}");
                None
            }
        }
    }
}

/// Kills the tender of a failed test.
impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.tender.kill();
        let _ = self.tender.wait();
    }
}

/// Asserts that the output of gdb contains all these words, in this order.
#[track_caller]
fn assert_says(output: &Output, words: &[&str]) {
    let said = text(&output.stdout);
    let mut rest = said;
    for word in words {
        match rest.split_once(word) {
            Some((_, behind)) => rest = behind,
            None => panic!("{word:?} is missing: {said}\n--- errors\n{}", text(&output.stderr)),
        }
    }
}

#[test]
fn breaks_steps_and_goes_on_to_the_end() {
    let waiting = Waiting::new("rounds");
    let first = ["break debuggee::innermost", "continue", "backtrace", "print value", "x/i $pc", "next", "finish"];
    let rest = [
        "delete",
        "tbreak debuggee::one_round",
        "continue",
        "stepi",
        "info symbol $pc",
        "monitor memory",
        "monitor nonsense",
        "x/x 0x20",
        "continue",
    ];
    let Some(gdb) = waiting.gdb(&[&first, cpu::LOOKS, &rest].concat()) else { return };
    let output = gdb.wait_with_output().unwrap();
    let first = [
        "Breakpoint 1, debuggee::innermost (value=2)",
        "#0  debuggee::innermost (value=2)",
        "in debuggee::one_round (number=1)",
        "in debuggee::rounds (count=5)",
        "in _start",
        "$1 = 2",
        "WATCHED.load",
        "Value returned is $2 = 3",
    ];
    let rest = [
        "Temporary breakpoint 2, debuggee::one_round (number=2)",
        "debuggee::one_round",
        "in section .text",
        "[Inferior 1 (process 1) exited with code 07]",
    ];
    assert_says(&output, &[&first, cpu::SEES, &rest].concat());
    let errors = text(&output.stderr);
    for words in [cpu::BOOT_INFO, "unknown command 'nonsense'", "Cannot access memory"] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
    let (status, printed, _) = waiting.end();
    assert_eq!((status, printed.as_str()), (Some(7), "35\n"));
}

/// The tender removes its socket, also with landlock and in another root directory.
#[test]
fn a_debugger_connects_to_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gdb");
    let option = format!("--gdb={}", path.display());
    let root = tempfile::tempdir().unwrap();
    let chroot = format!("--chroot={}", root.path().display());
    let mut rounds = vec![vec![option.as_str()], vec![&option, "--no-sandbox"]];
    if nix::unistd::geteuid().is_root() {
        rounds.push(vec![&option, &chroot]);
    }
    for options in rounds {
        // A killed tender leaves its socket behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let waiting = Waiting::with(&options, "rounds");
        assert_eq!(waiting.address, path.to_str().unwrap());
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o600);
        let commands = ["break debuggee::innermost", "continue", "delete", "continue"];
        let Some(gdb) = waiting.gdb(&commands) else { return };
        let said = ["Breakpoint 1, debuggee::innermost (value=2)", "[Inferior 1 (process 1) exited with code 07]"];
        assert_says(&gdb.wait_with_output().unwrap(), &said);
        assert!(!path.exists(), "{options:?}");
        let (status, printed, _) = waiting.end();
        assert_eq!((status, printed.as_str()), (Some(7), "35\n"), "{options:?}");
    }
}

#[test]
fn a_socket_for_a_debugger_goes_with_its_tender() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gdb");
    let option = format!("--gdb={}", path.display());
    let waiting = Waiting::with(&[&option], "rounds");
    // A second tender is refused, and the first tender continues to wait.
    let mut second = tender();
    second.args(["--mem=32", "--backend", &backend(), &option]).arg(guest("debuggee"));
    super::assert_fails(
        &second.output().unwrap(),
        1,
        &format!("{option}: cannot listen on the socket: in use by another process"),
    );
    waiting.terminate();
    let (status, _, said) = waiting.end();
    assert!(status == Some(1) && said.contains("stopped by SIGTERM"), "{status:?} {said}");
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let mut third = tender();
    third.args(["--mem=32", "--backend", &backend(), &option]).arg(guest("debuggee"));
    super::assert_fails(&third.output().unwrap(), 1, "the file exists and is not a socket");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn breaks_by_hardware() {
    let waiting = Waiting::new("rounds");
    let commands = ["hbreak debuggee::innermost", "continue", "backtrace 2", "delete", "continue"];
    let Some(gdb) = waiting.gdb(&commands) else { return };
    let said = [
        "Hardware assisted breakpoint 1",
        "Breakpoint 1, debuggee::innermost (value=2)",
        "in debuggee::one_round (number=1)",
        "[Inferior 1 (process 1) exited with code 07]",
    ];
    assert_says(&gdb.wait_with_output().unwrap(), &said);
    let (status, printed, _) = waiting.end();
    assert_eq!((status, printed.as_str()), (Some(7), "35\n"));
}

#[test]
fn watches_memory() {
    let waiting = Waiting::new("rounds");
    let commands = [
        "break debuggee::rounds",
        "continue",
        "delete",
        "watch -location *(&debuggee::WATCHED as *mut u64)",
        "continue",
        "backtrace 3",
        "continue",
        "delete",
        "awatch -location *(&debuggee::WATCHED as *mut u64)",
        "continue",
        "rwatch -location *(&debuggee::BESIDE as *mut u64)",
        "delete 3",
        "continue",
        "print *(&debuggee::BESIDE as *mut u64)",
        "delete",
        "continue",
    ];
    let Some(gdb) = waiting.gdb(&commands) else { return };
    let output = gdb.wait_with_output().unwrap();
    assert_says(
        &output,
        &[
            "Hardware watchpoint 2",
            "Old value = 4660",
            "New value = 2",
            "in debuggee::innermost (value=2)",
            "Old value = 2",
            "New value = 4",
            "Hardware access (read/write) watchpoint 3",
            "Value = 4",
            "Hardware read watchpoint 4",
            "exited with code 07",
        ],
    );
    let (status, printed, _) = waiting.end();
    assert_eq!((status, printed.as_str()), (Some(7), "35\n"));
}

/// Ctrl-C interrupts a computing guest and a guest that sleeps in a hypercall. Both continue from
/// the same point.
#[test]
fn interrupts_and_goes_on() {
    for (argument, says) in [("spin", "spinning\n"), ("sleep", "sleeping\n")] {
        let mut waiting = Waiting::new(argument);
        let commands = ["continue", "backtrace", "monitor hypercalls", "detach"];
        let Some(gdb) = waiting.gdb(&commands) else { return };
        assert_eq!(waiting.line(), says, "the guest runs");
        kill(Pid::from_raw(gdb.id() as i32), Signal::SIGINT).unwrap();
        let output = gdb.wait_with_output().unwrap();
        assert_says(&output, &["Program received signal SIGINT", "debuggee::main (", "detached"]);
        assert!(text(&output.stderr).contains(" 1 puts (2)\n"), "{}", text(&output.stderr));
        // The debugger has detached, and the guest continues to run.
        assert!(waiting.tender.try_wait().unwrap().is_none());
        waiting.terminate();
        assert_eq!(waiting.end().0, Some(1));
    }
}

#[test]
fn kills() {
    let waiting = Waiting::new("rounds");
    let Some(gdb) = waiting.gdb(&["break debuggee::innermost", "continue", "kill"]) else { return };
    assert_says(&gdb.wait_with_output().unwrap(), &["Breakpoint 1", "killed"]);
    let (status, printed, said) = waiting.end();
    assert_eq!((status, printed.as_str()), (Some(1), ""));
    assert!(said.contains("the debugger has killed the guest"), "{said}");
}

/// A forbidden access stops the guest at the faulting instruction, so that the debugger can inspect
/// it before the guest ends.
#[test]
fn sees_a_fault() {
    let waiting = Waiting::new("fault");
    let commands = [&["continue", "set language c"], cpu::LOOKS_AT_FAULT, &["continue"]].concat();
    let Some(gdb) = waiting.gdb(&commands) else { return };
    let output = gdb.wait_with_output().unwrap();
    let first = ["received signal SIGSEGV", "debuggee::arch::fault"];
    assert_says(&output, &[&first, cpu::SEES_AT_FAULT, &["terminated with signal"]].concat());
    let (status, _, said) = waiting.end();
    assert_eq!(status, Some(1));
    assert!(said.contains(cpu::FAULT), "{said}");
}

/// A breakpoint instruction of the guest invokes the guest's own handler.
#[test]
fn leaves_a_guest_its_traps() {
    let waiting = Waiting::new("trap");
    let Some(gdb) = waiting.gdb(&["break debuggee::innermost", "continue"]) else { return };
    assert_says(&gdb.wait_with_output().unwrap(), &["exited with code 0377"]);
    let (status, printed, _) = waiting.end();
    assert_eq!(status, Some(255));
    assert!(cpu::OWN_BREAKPOINT.iter().any(|words| printed.contains(words)), "{printed}");
}

#[test]
fn an_occupied_port_is_an_error() {
    let waiting = Waiting::new("rounds");
    let (_, port) = waiting.address.rsplit_once(':').unwrap();
    let output = tender().args(["--gdb", &format!("--gdb-port={port}")]).arg(guest("hello")).output().unwrap();
    super::assert_fails(&output, 1, "--gdb: cannot listen on port");
    // A signal ends the wait.
    waiting.terminate();
    let (status, printed, said) = waiting.end();
    assert_eq!((status, printed.as_str()), (Some(1), ""));
    assert!(said.contains("stopped by SIGTERM"), "{said}");
}
