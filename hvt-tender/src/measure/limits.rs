//! How much a guest may use, and how the first limit that it meets ends it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Limit;
use crate::cancel::CancelToken;
use crate::device::{Console, Descriptor};
use crate::memory::GuestSlice;

/// What a guest may use before it is ended. Nothing is limited unless it says so.
///
/// ```
/// use std::time::Duration;
/// use hvt_tender::guest::Limits;
///
/// let limits = Limits::new().wall_time(Duration::from_secs(10)).console(1 << 20);
/// assert_eq!(limits, limits.clone());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub(crate) wall_time: Option<Duration>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) console: Option<u64>,
    pub(crate) memory: Option<u64>,
}

impl Limits {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Host time from the guest's first instruction on.
    #[must_use]
    pub fn wall_time(mut self, most: Duration) -> Self {
        self.wall_time = Some(most);
        self
    }

    /// CPU time that the guest's instructions take; on KVM with that of its hypercalls.
    #[must_use]
    pub fn cpu_time(mut self, most: Duration) -> Self {
        self.cpu_time = Some(most);
        self
    }

    /// Bytes that it writes to its console. What is beyond them is lost.
    #[must_use]
    pub fn console(mut self, most: u64) -> Self {
        self.console = Some(most);
        self
    }

    /// Bytes of its memory that it touches, in whole pages, its own image included. It is looked at every few
    /// milliseconds, so a guest may touch more before it ends. On KVM pages may have 2 MiB.
    #[must_use]
    pub fn memory(mut self, most: u64) -> Self {
        self.memory = Some(most);
        self
    }
}

/// The first limit that a guest has met, shared by all who watch.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    limit: Arc<OnceLock<Limit>>,
    stop: CancelToken,
}

impl Verdict {
    /// None yet. The guest ends through `stop`.
    pub(crate) fn new(stop: CancelToken) -> Self {
        Self { limit: Arc::default(), stop }
    }

    /// Ends the guest, which has met this limit.
    pub(crate) fn exceeded(&self, limit: Limit) {
        // Later ones do not matter any more. Nor does any once somebody else has ended the guest.
        if !self.stop.requested() {
            let _ = self.limit.set(limit);
        }
        self.stop.request();
    }

    /// The limit that has been met.
    pub(crate) fn limit(&self) -> Option<Limit> {
        self.limit.get().copied()
    }
}

/// A console that takes so many bytes.
pub(crate) struct LimitedConsole {
    inner: Box<dyn Console>,
    left: u64,
    verdict: Verdict,
}

impl LimitedConsole {
    pub(crate) fn new(inner: Box<dyn Console>, most: u64, verdict: Verdict) -> Self {
        Self { inner, left: most, verdict }
    }
}

impl Console for LimitedConsole {
    fn write(&mut self, data: GuestSlice<'_>) {
        let taken = data.prefix(self.left);
        if !taken.is_empty() {
            self.inner.write(taken);
        }
        self.left -= taken.len();
        if taken.len() < data.len() {
            self.verdict.exceeded(Limit::Console);
        }
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        self.inner.descriptors()
    }
}
