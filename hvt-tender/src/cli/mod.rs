//! The command line: parses the arguments, runs the unikernel, and reports an error as one line and
//! an exit status.

mod args;
mod command;
mod descriptors;
mod devices;
mod fault;
mod log;
mod open;
mod option;
mod personality;
mod signals;
mod start;
mod streams;
mod table;
mod value;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use self::descriptors::Descriptors;
use self::devices::DevicePlan;
use self::personality::Personality;
use self::start::start;
use crate::cancel::CancelToken;
use crate::config::Config;
use crate::core_dump::CoreDump;
use crate::device::{Descriptor, Uses};
use crate::error_chain::ErrorChain;
use crate::gdb::Debugger;
use crate::measure::{Limit, Limits};
use crate::monitor::Outcome;
use crate::record_file::RecordFile;
use crate::sandbox::{self, Sandbox};
use crate::sys::host_limit;
use crate::unikernel::{self, Unikernel};
use crate::virtual_time::VirtualTime;

pub use args::{Command, UsageError, parse};
pub use command::{command, markdown};

/// Exit status of every failure except the guest's own exit status. Solo5's tenders use the same
/// status, and process supervisors that restart guests rely on it.
const FAILED: i32 = 1;

/// Exit status if the guest exceeded `--timeout`: the same as timeout(1).
const TIMED_OUT: i32 = 124;

/// Runs the command line, and returns the exit status.
///
/// The first of `args` is the name of the program (`argv[0]`). Under the name `solo5-hvt` it
/// behaves like Solo5's tender. The guest's console output goes to the standard output, everything
/// else to the standard error.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    start(args, |config, personality| {
        run(config, personality).unwrap_or_else(|error| {
            personality.report(&ErrorChain::of(&error));
            if matches!(error, CliError::TimedOut(_)) { TIMED_OUT } else { FAILED }
        })
    })
}

/// Runs a unikernel, and returns the exit status.
fn run(mut config: Config, personality: Personality) -> Result<i32, CliError> {
    host_limit::raise();
    // Claimed first, before this program opens files under the numbers that the user means.
    let descriptors = Descriptors::claim(&config)?;
    if !sandbox::IS_AVAILABLE {
        config.sandbox = false;
    } else if config.sandbox {
        descriptors.close_others();
        sandbox::explain(personality.name()).map_err(CliError::Signals)?;
    } else {
        ::log::warn!(
            "--no-sandbox: the tender keeps its capabilities, the file system, inherited descriptors and all system \
             calls: a guest that takes over the tender gets all rights of its user"
        );
    }
    let stop = CancelToken::new().map_err(unikernel::UnikernelError::Stop)?;
    signals::stop_on_signals(&stop).map_err(CliError::Signals)?;
    let timeout = config.timeout;
    let prepared = prepare(config, descriptors, &stop);
    // A signal during the set-up makes a blocked call fail; the signal is the error to report.
    let (unikernel, file) =
        prepared.map_err(|error| signals::received().map_or(error, |by| CliError::Stopped(Some(by))))?;
    match unikernel.cancel_token(stop).run_once()? {
        Outcome::Exited { status, .. } => Ok(status),
        Outcome::Failed(failure) => {
            // Read only now, because only a failed guest needs symbol names. The file may have
            // changed since.
            fault::report(personality, &failure, &contents(&file).unwrap_or_default());
            Ok(FAILED)
        }
        Outcome::Interrupted => Err(CliError::Stopped(signals::received())),
        Outcome::Asleep => Err(CliError::Asleep),
        Outcome::Exceeded(Limit::WallTime) => Err(CliError::TimedOut(timeout.unwrap_or_default())),
        Outcome::Exceeded(limit) => Err(CliError::Limit(limit)),
    }
}

/// Returns the unikernel with the user's options applied, and its open file. The file is kept open
/// because the sandbox forbids opening files, and a crash report needs the file's symbols.
fn prepare(config: Config, mut descriptors: Descriptors, stop: &CancelToken) -> Result<(Unikernel, File), CliError> {
    let (unikernel, file) = Unikernel::load_with_file(&config.kernel, Some(stop))?;
    let mut sandbox = Sandbox::new().descriptor(Descriptor::new(&file, Uses::READ_AT | Uses::STAT));
    let dump = config.core_directory.map(|path| {
        let dump = CoreDump::into_directory(&path);
        dump.map_err(|source| CliError::CoreDirectory { path, source })
    });
    let dump = dump.transpose()?;
    let plan = DevicePlan::new(&config.devices, unikernel.manifest())?;
    let time = config.virtual_time.then(VirtualTime::new);
    let mut unikernel = plan.attach(unikernel, &mut descriptors, time.as_ref(), stop)?;
    if let Some(time) = &time {
        unikernel = unikernel.virtual_time(time);
    }
    if let Some(most) = config.timeout {
        unikernel = unikernel.limits(Limits::new().wall_time(most));
    }
    if let Some(path) = config.trace {
        let trace = RecordFile::create(&path, Some(stop)).map_err(|source| CliError::Trace { path, source })?;
        sandbox = sandbox.descriptor(Descriptor::new(&trace, Uses::WRITE));
        unikernel = unikernel.trace(BufWriter::new(trace));
    }
    if let Some(dump) = dump {
        unikernel = unikernel.core_dump(dump);
    }
    if config.gdb {
        unikernel = unikernel.debugger(debugger(config.gdb_socket, config.gdb_port)?);
    }
    if config.sandbox {
        unikernel = unikernel.sandbox(sandbox);
    }
    let arguments = config.arguments.into_iter().map(OsString::into_vec);
    unikernel = unikernel.mem(config.memory).args(arguments).backend(config.backend).identity(config.identity);
    unikernel = unikernel.net_ring(config.net_ring);
    Ok((unikernel, file))
}

/// Creates a debugger that listens on the Unix socket or, without one, on the port.
fn debugger(socket: Option<PathBuf>, port: u16) -> Result<Debugger, CliError> {
    let listening = match &socket {
        Some(path) => Debugger::listen_unix(path),
        None => Debugger::listen((Ipv4Addr::LOCALHOST, port)),
    };
    listening.map_err(|source| match (source.kind(), socket) {
        (io::ErrorKind::Unsupported, _) => CliError::NoDebugger(source),
        (_, Some(path)) => CliError::DebuggerSocket { path, source },
        (_, None) => CliError::Debugger { port, error: source },
    })
}

/// Reads a whole file.
fn contents(mut file: &File) -> io::Result<Vec<u8>> {
    let len = file.seek(SeekFrom::End(0))?;
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Error without an exit status of a guest. The message is one line.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Descriptor(#[from] descriptors::DescriptorError),
    #[error(transparent)]
    Devices(#[from] devices::Mismatch),
    #[error(transparent)]
    Open(#[from] open::AttachError),
    #[error("{}: cannot be written", path.display())]
    Trace { path: PathBuf, source: io::Error },
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
    #[error("--dumpcore {}: cannot write core files there", path.display())]
    CoreDirectory { path: PathBuf, source: io::Error },
    #[error("--gdb: cannot listen on port {port} of 127.0.0.1: {error}; choose another one with --gdb-port")]
    Debugger { port: u16, error: io::Error },
    #[error("--gdb={}: cannot listen on the socket", path.display())]
    DebuggerSocket { path: PathBuf, source: io::Error },
    #[error("--gdb")]
    NoDebugger(#[source] io::Error),
    #[error(transparent)]
    Unikernel(#[from] unikernel::UnikernelError),
    #[error("{0}")]
    Limit(Limit),
    #[error("the guest did not exit within {0:?} (--timeout)")]
    TimedOut(Duration),
    #[error("the guest sleeps forever: no event in its virtual time can wake it")]
    Asleep,
    #[error("stopped by {}", _0.unwrap_or("request"))]
    Stopped(Option<&'static str>),
}

#[cfg(test)]
mod tests;
