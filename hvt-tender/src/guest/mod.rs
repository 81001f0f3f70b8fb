//! Handle of a guest that runs beside its caller, and the record that it leaves.
//!
//! ```
//! use std::time::Duration;
//! use hvt_tender::guest::Limits;
//! use hvt_tender::monitor::Outcome;
//! use hvt_tender::script::Script;
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
//! As many as one likes may run at once, each on a thread of its own, and on the process backend in a process of its own.

#[cfg(test)]
mod tests;

use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::cancel::CancelToken;
use crate::device::CapturedOutput;
use crate::error::UnikernelError;
use crate::monitor::Outcome;

pub use crate::measure::{Calls, Limit, Limits, Tally};

/// All that is known of a guest that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended; for a fault, with its registers.
    pub outcome: Outcome,
    /// What it wrote to its console.
    pub console: Vec<u8>,
    /// Its hypercalls, and the time that they took.
    pub calls: Calls,
    /// Host time from its first instruction to its end.
    pub wall_time: Duration,
    /// CPU time that its instructions took; on KVM with that of its hypercalls.
    pub cpu_time: Duration,
    /// Bytes of its memory that were ever touched, by itself or by the loader, in whole pages: on KVM of up to 2 MiB.
    /// `None` where the host does not tell.
    pub peak_memory: Option<u64>,
}

impl Output {
    /// Its console output as text; what is no UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }

    /// Its exit status, if it ended by itself.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        match self.outcome {
            Outcome::Exited { status, .. } => Some(status),
            _ => None,
        }
    }
}

/// A guest that runs, on a thread of its own. Dropping this ends it and waits until nothing is left of it.
#[derive(Debug)]
pub struct Guest {
    stop: CancelToken,
    console: CapturedOutput,
    end: Receiver<Result<Output, UnikernelError>>,
    output: Option<Output>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// Starts a guest by `start`; returns once it is about to execute its first instruction. The function that `start`
    /// returns runs the guest to its end, on the same thread.
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
                    // Whoever does not wait for it does not want to know.
                    let _ = ended.send(run());
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        };
        let thread = thread::Builder::new().name("hvt-guest".into()).spawn(run).map_err(UnikernelError::Thread)?;
        // From here on its drop joins the thread.
        let guest = Self { stop, console, end, output: None, thread: Some(thread) };
        begun.recv().unwrap_or_else(|_| Err(UnikernelError::Thread(panicked())))?;
        Ok(guest)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When the backend failed; what the guest does is an [`Outcome`].
    pub fn wait(mut self) -> Result<Output, UnikernelError> {
        if let Some(output) = self.output.take() {
            return Ok(output);
        }
        self.end.recv().unwrap_or_else(|_| Err(UnikernelError::Thread(panicked())))
    }

    /// Waits until it ends, for `timeout` at most. `None` if it is still running then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
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

    /// How it ended, if it has.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<Output>, UnikernelError> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Ends it, wherever it is. Its outcome is then [`Outcome::Interrupted`], unless it has ended before.
    pub fn kill(&self) {
        self.stop.request();
    }

    /// What ends it, for other threads.
    #[must_use]
    pub fn stop(&self) -> CancelToken {
        self.stop.clone()
    }

    /// Its console output, as it comes.
    #[must_use]
    pub fn console(&self) -> &CapturedOutput {
        &self.console
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Tells who waits for words on the console that none will come, however the guest's thread ends.
struct Ending(CapturedOutput);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn panicked() -> io::Error {
    io::Error::other("the guest's thread ended early: a device panicked, or its end has been reported before")
}
