//! Handle of a guest that runs on its own thread, and the record of its run.
//!
//! ```
//! use std::time::Duration;
//! use hvt_tender::Limits;
//! use hvt_tender::Outcome;
//! use hvt_tender::Script;
//!
//! // In place of a server: Unikernel::load("app.hvt")?
//! let server = Script::new().puts("listening\n").sleep(Duration::MAX).unikernel()?;
//! let guest = server.limits(Limits::new().wall_time(Duration::from_secs(10))).spawn()?;
//! guest.console().wait_for("listening", Duration::from_secs(5))?;
//! guest.kill();
//! let output = guest.wait()?;
//! assert_eq!((output.outcome, output.console), (Outcome::Interrupted, b"listening\n".to_vec()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Any number of guests may run at the same time, each on its own thread and, with the process
//! backend, in its own process.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::cancel::CancelToken;
use crate::device::CapturedOutput;
use crate::error::UnikernelError;
use crate::monitor::Outcome;

pub(crate) use crate::measure::Calls;

/// Record of a guest that has ended.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Reason for the end of the guest. For a fault, it contains the registers.
    pub outcome: Outcome,
    /// Console output of the guest.
    pub console: Vec<u8>,
    /// Count and host time of the guest's hypercalls.
    pub calls: Calls,
    /// Host time from the first instruction to the end of the guest.
    pub wall_time: Duration,
    /// CPU time of the guest's instructions. On KVM, it includes the CPU time of hypercalls.
    pub cpu_time: Duration,
    /// Guest memory touched by the guest or by the loader, in bytes, counted in whole pages. On
    /// KVM, a page may have 2 MiB. `None` if the host does not report the usage.
    pub peak_memory: Option<u64>,
}

impl Output {
    /// Returns the console output as text. Invalid UTF-8 is replaced by U+FFFD.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }

    /// Returns the exit status, if the guest has halted.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        match self.outcome {
            Outcome::Exited { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Checks that the guest exited with status 0.
    ///
    /// ```should_panic
    /// use hvt_tender::Script;
    ///
    /// let output = Script::new().puts("no configuration\n").halt(2).unikernel()?.output()?;
    /// // Panics: the guest failed: exit status 2
    /// // console:
    /// // no configuration
    /// output.assert_success();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// Panics with the outcome and the console's text if the guest ended otherwise.
    #[track_caller]
    pub fn assert_success(&self) {
        assert!(self.outcome.is_success(), "the guest failed: {}\n{}", self.outcome, Transcript(&self.console));
    }
}

/// Shows the console as text.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, console, calls, wall_time, cpu_time, peak_memory } = self;
        f.debug_struct("Output")
            .field("outcome", outcome)
            .field("console", &String::from_utf8_lossy(console))
            .field("calls", calls)
            .field("wall_time", wall_time)
            .field("cpu_time", cpu_time)
            .field("peak_memory", peak_memory)
            .finish()
    }
}

/// Console output for the message of a failed test.
struct Transcript<'c>(&'c [u8]);

impl fmt::Display for Transcript<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match String::from_utf8_lossy(self.0).trim_end() {
            "" => f.write_str("console: empty"),
            text => write!(f, "console:\n{text}"),
        }
    }
}

/// Handle of a guest that runs on its own thread. Drop ends the guest and joins the thread.
///
/// If a test panics while it holds a guest, the guest's console is printed to the standard error:
///
/// ```should_panic
/// use std::time::Duration;
/// use hvt_tender::Script;
///
/// let guest = Script::new().puts("no route to host\n").sleep(Duration::MAX).unikernel()?.spawn()?;
/// // The test's standard error ends with: guest console:
/// // no route to host
/// guest.console().wait_for("listening", Duration::from_millis(20)).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Guest {
    stop: CancelToken,
    console: CapturedOutput,
    end: Receiver<Result<Output, UnikernelError>>,
    output: Option<Output>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// Calls `start` on a new thread and returns when the guest is ready to execute its first
    /// instruction. The function that `start` returns then runs the guest to its end on the same
    /// thread.
    pub(crate) fn spawn<Run>(
        stop: CancelToken,
        start: impl FnOnce(CancelToken, CapturedOutput) -> Result<Run, UnikernelError> + Send + 'static,
    ) -> Result<Self, UnikernelError>
    where
        Run: FnOnce() -> Result<Output, UnikernelError>,
    {
        let console = CapturedOutput::new();
        let (started, begun) = bounded(1);
        let (ended, end) = bounded(1);
        let (theirs, captured) = (stop.clone(), console.clone());
        let run = move || {
            let _ending = Ending(captured.clone());
            match start(theirs, captured) {
                Ok(run) => {
                    let _ = started.send(Ok(()));
                    // `send` fails if the handle has been dropped; then the output is not needed.
                    let _ = ended.send(run());
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        };
        let thread = thread::Builder::new().name("hvt-guest".into()).spawn(run).map_err(UnikernelError::Thread)?;
        // From here on, the drop of `guest` joins the thread.
        let guest = Self { stop, console, end, output: None, thread: Some(thread) };
        begun.recv().unwrap_or_else(|_| Err(UnikernelError::Thread(panicked())))?;
        Ok(guest)
    }

    /// Waits for the guest to end and returns its record.
    ///
    /// # Errors
    /// Returns [`UnikernelError`] if the backend failed, a block device could not be flushed, or
    /// the guest's thread panicked. A fault of the guest is not an error, but an [`Outcome`].
    pub fn wait(mut self) -> Result<Output, UnikernelError> {
        if let Some(output) = self.output.take() {
            return Ok(output);
        }
        self.end.recv().unwrap_or_else(|_| Err(UnikernelError::Thread(panicked())))
    }

    /// Waits up to `timeout` for the guest to end. Returns `None` if the guest is still running.
    ///
    /// # Errors
    /// Returns the errors of [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Output>, UnikernelError> {
        if self.output.is_none() {
            match self.end.recv_timeout(timeout) {
                Ok(output) => self.output = Some(output?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(UnikernelError::Thread(panicked())),
            }
        }
        Ok(self.output.clone())
    }

    /// Returns the record of the guest if it has ended. Does not wait.
    ///
    /// # Errors
    /// Returns the errors of [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<Output>, UnikernelError> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Requests the guest to end immediately. Its outcome is [`Outcome::Interrupted`], unless it
    /// has ended already.
    pub fn kill(&self) {
        self.stop.request();
    }

    /// Returns the token that ends the guest, for use by other threads.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.stop.clone()
    }

    /// Returns the console output, which grows while the guest runs.
    #[must_use]
    pub fn console(&self) -> &CapturedOutput {
        &self.console
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic already.
            let _ = thread.join();
        }
        if thread::panicking() {
            // In one call, because other tests print at the same time.
            eprintln!("guest {}", Transcript(&self.console.bytes()));
        }
    }
}

/// Guard that ends the captured output when the guest's thread ends, even by a panic. It wakes the
/// threads in [`CapturedOutput::wait_for`].
struct Ending(CapturedOutput);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn panicked() -> io::Error {
    io::Error::other("guest thread ended early: a device panicked, or its error has been returned before")
}
