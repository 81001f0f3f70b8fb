//! Execution of one case.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_suite::{Case, DeviceKind, End, Reason};

use crate::disk::Image;
use crate::link::{self, Peer};

/// Maximum duration of a case. Emulated machines are slow.
const LIMIT: Duration = Duration::from_secs(120);

/// A case on a backend.
pub(crate) struct Run {
    /// The case.
    pub(crate) case: &'static Case,
    /// Name of the backend.
    pub(crate) backend: String,
    /// The tender's binary.
    pub(crate) tender: PathBuf,
    /// Directory of the guests.
    pub(crate) directory: PathBuf,
}

impl Run {
    /// Runs the case and compares all results with the expected results. The error contains all
    /// details.
    pub(crate) fn check(&self) -> Result<(), String> {
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut attached = Attached::default();
        for device in self.case.devices {
            match device.kind {
                DeviceKind::Block(disk) => {
                    attached.block(Image::create(scratch.path(), device.name, disk)?, device.name)
                }
                DeviceKind::Net(link) => attached.net(&link, device.name)?,
            }
        }
        let output = Output::new().map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.tender);
        command.arg(format!("--mem={}", self.case.memory)).args(["--backend", &self.backend]).args(&attached.options);
        // The ring is on even if there is only one CPU.
        command.arg("--net-ring=on");
        command.arg("--").arg(self.directory.join(self.case.guest)).args(self.case.arguments);
        command.stdin(Stdio::null()).stdout(output.stdout()?).stderr(output.stderr()?);
        prepare(&mut command, &attached.ends);

        let deadline = Instant::now() + LIMIT;
        let tender = command.spawn().map_err(|error| format!("cannot run {}: {error}", self.tender.display()))?;
        drop(attached.ends);
        let peers: Vec<_> =
            attached.peers.into_iter().map(|peer| thread::spawn(move || peer.converse(deadline))).collect();
        let ended = self.end(tender, &output, deadline);
        // Each peer keeps its end of the link open until here.
        let talked = peers.into_iter().try_for_each(|peer| peer.join().map_err(|_| "the peer died".to_owned())?.1);
        let verdict = ended
            .and_then(|status| self.judge(status, &output.read()?))
            .and(talked)
            .and_then(|()| attached.images.iter().try_for_each(Image::check));
        verdict.map_err(|what| match output.read() {
            Ok(texts) => {
                let console = String::from_utf8_lossy(&texts.console);
                let messages = texts.messages;
                format!("{what}\n--- command\n{command:?}\n--- console\n{console}\n--- messages\n{messages}")
            }
            Err(error) => format!("{what}; its messages are lost: {error}"),
        })
    }

    /// Waits for the end of the tender. Terminates the tender if the case specifies that it does
    /// not end by itself.
    fn end(&self, mut tender: Child, output: &Output, deadline: Instant) -> Result<ExitStatus, String> {
        let never = self.case.ends == [End::Never];
        let mut interrupted = false;
        loop {
            if let Some(status) = tender.try_wait().map_err(|error| error.to_string())? {
                return match never && !interrupted {
                    true => Err(format!("the tender ended by itself: {status}")),
                    false => Ok(status),
                };
            }
            if never && !interrupted && self.case.console.complaint(&output.read()?.console).is_none() {
                let pid = i32::try_from(tender.id()).map_err(|error| error.to_string())?;
                kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|error| error.to_string())?;
                interrupted = true;
            }
            if Instant::now() > deadline {
                tender.kill().and_then(|()| tender.wait()).map_err(|error| error.to_string())?;
                return Err(format!("still running after {} seconds", LIMIT.as_secs()));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn judge(&self, status: ExitStatus, texts: &Texts) -> Result<(), String> {
        if let Some(complaint) = self.case.console.complaint(&texts.console) {
            return Err(format!("console: {complaint:?} ({status})"));
        }
        let fits = |end: &End| match *end {
            End::Status(expected) => status.code() == Some(expected.into()),
            End::Stopped(reason) => status.code() == Some(1) && texts.messages.contains(key_words(reason)),
            End::Never => status.code() == Some(1),
        };
        if !self.case.ends.iter().any(fits) {
            return Err(format!("ended with {status}, not with one of {:?}", self.case.ends));
        }
        let stopped = self.case.ends.iter().all(|end| !matches!(end, End::Status(_)));
        if !stopped && status.success() && !texts.messages.is_empty() {
            return Err("the tender printed messages about a successful guest".to_owned());
        }
        Ok(())
    }
}

/// Returns the words of the tender's message for each reason.
fn key_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Pointer => "guest address",
        Reason::Hypercall => "hypercall",
        Reason::Port => "I/O port",
        Reason::Device => "device memory",
        Reason::RingKick => "kicked ring",
        Reason::Halted => "(hlt)",
        Reason::NoHandler => "has no handler for an exception",
        Reason::Memory => "host/guest translation fault",
        Reason::Unsupported => "does not emulate",
    }
}

/// Devices and the tender's arguments for them.
#[derive(Default)]
struct Attached {
    options: Vec<OsString>,
    images: Vec<Image>,
    peers: Vec<Peer>,
    ends: Vec<link::End>,
}

impl Attached {
    fn block(&mut self, image: Image, name: &str) {
        let mut option = OsString::from(format!("--block:{name}="));
        option.push(image.path());
        self.options.push(option);
        self.options.push(format!("--block-sector-size:{name}={}", image.block_size()).into());
        self.images.push(image);
    }

    fn net(&mut self, link: &test_suite::Link, name: &str) -> Result<(), String> {
        let (end, peer) = link::create(link).map_err(|error| format!("making a link: {error}"))?;
        let mac = link.mac.map(|byte| format!("{byte:02x}")).join(":");
        self.options.push(format!("--net:{name}={end}").into());
        self.options.push(format!("--net-mac:{name}={mac}").into());
        self.peers.push(peer);
        self.ends.push(end);
        Ok(())
    }
}

/// Passes these ends of links to the command, and to no other process started concurrently.
fn prepare(command: &mut Command, ends: &[link::End]) {
    let (mut kept, mut entered): (Vec<RawFd>, Vec<RawFd>) = (Vec::new(), Vec::new());
    for end in ends {
        match end {
            link::End::Descriptor(fd) => kept.push(fd.as_raw_fd()),
            link::End::Interface { namespace, .. } => entered.push(namespace.as_raw_fd()),
        }
    }
    let prepare = move || {
        // SAFETY: Neither call takes a pointer.
        let keep = |fd: &RawFd| unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } == 0;
        // SAFETY: As above.
        let enter = |fd: &RawFd| unsafe { libc::setns(*fd, libc::CLONE_NEWNET) } == 0;
        let done = kept.iter().all(keep) && entered.iter().all(enter);
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: Between fork and exec, two async-signal-safe system calls are made.
    unsafe { command.pre_exec(prepare) };
}

/// Files for the output of a tender. Unlike pipes, files never fill up.
struct Output {
    stdout: File,
    stderr: File,
}

/// The contents of [`Output`].
struct Texts {
    console: Vec<u8>,
    messages: String,
}

impl Output {
    fn new() -> io::Result<Self> {
        Ok(Self { stdout: tempfile::tempfile()?, stderr: tempfile::tempfile()? })
    }

    fn stdout(&self) -> Result<File, String> {
        self.stdout.try_clone().map_err(|error| error.to_string())
    }

    fn stderr(&self) -> Result<File, String> {
        self.stderr.try_clone().map_err(|error| error.to_string())
    }

    fn read(&self) -> Result<Texts, String> {
        let (console, messages) = (contents(&self.stdout)?, contents(&self.stderr)?);
        Ok(Texts { console, messages: String::from_utf8_lossy(&messages).into_owned() })
    }
}

/// Reads a file without moving its file offset, which the writer shares.
fn contents(file: &File) -> Result<Vec<u8>, String> {
    let read = || {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok::<_, io::Error>(bytes)
    };
    read().map_err(|error| format!("cannot read what the tender wrote: {error}"))
}
