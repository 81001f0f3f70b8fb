//! Console that captures the guest's output.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::Console;
use crate::memory::GuestSlice;

/// Captures the guest's output in memory. Clones share the output: the guest writes to one clone,
/// and a test reads from another, during the run or afterwards.
#[derive(Clone, Debug, Default)]
pub struct CapturedOutput {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    output: Vec<u8>,
    ended: bool,
}

/// Shows the output as text.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, ended } = self;
        f.debug_struct("State").field("output", &String::from_utf8_lossy(output)).field("ended", ended).finish()
    }
}

impl CapturedOutput {
    /// Creates a console without output.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the output so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().output.clone()
    }

    /// Returns the output so far as text. Invalid UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().output).into_owned()
    }

    /// Waits up to `timeout` until the output contains `words`. Returns the output up to and
    /// including `words`.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::TimedOut`] after `timeout`, and [`io::ErrorKind::UnexpectedEof`] if
    /// the guest has exited without writing `words`. The message contains the whole output.
    pub fn wait_for(&self, words: &str, timeout: Duration) -> io::Result<String> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            let found = state.output.windows(words.len().max(1)).position(|window| window == words.as_bytes());
            if let Some(at) = found.or(words.is_empty().then_some(0)) {
                return Ok(String::from_utf8_lossy(&state.output[..at + words.len()]).into_owned());
            }
            let left = timeout.saturating_sub(start.elapsed());
            let (kind, why) = match (state.ended, left.is_zero()) {
                (true, _) => (io::ErrorKind::UnexpectedEof, "the guest exited before it wrote"),
                (_, true) => (io::ErrorKind::TimedOut, "timed out waiting for"),
                _ => {
                    let waited = self.shared.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
            };
            let said = String::from_utf8_lossy(&state.output);
            return Err(io::Error::new(kind, format!("{why} {words:?}; console so far: {said:?}")));
        }
    }

    /// Marks the output as complete.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console for CapturedOutput {
    fn write(&mut self, data: GuestSlice<'_>) {
        let mut state = self.lock();
        data.append_to(&mut state.output);
        self.shared.changed.notify_all();
    }

    /// The output is shared.
    fn clone_handle(&self) -> Option<Box<dyn Console + Send>> {
        Some(Box::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Buffer;
    use std::thread;

    const SOON: Duration = Duration::from_secs(20);

    fn write(console: &CapturedOutput, text: &str) {
        Buffer::of(text.as_bytes()).in_pieces(|slice| console.clone().write(slice));
    }

    #[test]
    fn words_are_waited_for() {
        let console = CapturedOutput::new();
        let writer = console.clone();
        let writing = thread::spawn(move || ["Hel", "lo, Wor", "ld\n"].map(|part| write(&writer, part)));
        assert_eq!(console.wait_for("World", SOON).unwrap(), "Hello, World");
        writing.join().unwrap();
        assert_eq!(console.text(), "Hello, World\n");
        assert_eq!(console.wait_for("", Duration::ZERO).unwrap(), "");
    }

    #[test]
    fn says_what_came_instead() {
        let console = CapturedOutput::new();
        write(&console, "Hello");
        let error = console.wait_for("World", Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "timed out waiting for \"World\"; console so far: \"Hello\"");
        console.end();
        assert_eq!(console.wait_for("World", SOON).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
