//! Limits on the resources of a guest. The first limit that the guest exceeds ends it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Limit;
use crate::cancel::CancelToken;
use crate::device::{Console, Descriptor};
use crate::memory::GuestSlice;

/// Limits on the resources of a guest. A guest that exceeds one ends with
/// [`Outcome::Exceeded`](crate::monitor::Outcome::Exceeded). By default, nothing is limited.
///
/// ```
/// use std::time::Duration;
/// use hvt_tender::Limits;
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
    /// Creates an empty set of limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the host time since the guest's first instruction.
    #[must_use]
    pub fn wall_time(mut self, most: Duration) -> Self {
        self.wall_time = Some(most);
        self
    }

    /// Limits the CPU time of the guest's instructions. On KVM, it includes the CPU time of
    /// hypercalls.
    #[must_use]
    pub fn cpu_time(mut self, most: Duration) -> Self {
        self.cpu_time = Some(most);
        self
    }

    /// Limits the number of bytes that the guest writes to its console. Excess bytes are dropped.
    #[must_use]
    pub fn console(mut self, most: u64) -> Self {
        self.console = Some(most);
        self
    }

    /// Limits the memory that the guest touches, in bytes, counted in whole pages and including its
    /// image. On KVM, a page may have 2 MiB. The usage is sampled every 5 ms, so that a guest may
    /// touch more memory before it ends.
    #[must_use]
    pub fn memory(mut self, most: u64) -> Self {
        self.memory = Some(most);
        self
    }
}

/// First limit that a guest has exceeded, shared by the console and the watchdog.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    limit: Arc<OnceLock<Limit>>,
    stop: CancelToken,
}

impl Verdict {
    /// Creates a verdict without an exceeded limit, which ends the guest by requesting `stop`.
    pub(crate) fn new(stop: CancelToken) -> Self {
        Self { limit: Arc::default(), stop }
    }

    /// Records the exceeded limit and ends the guest.
    pub(crate) fn exceeded(&self, limit: Limit) {
        // Only the first limit counts, and none if another thread has ended the guest already.
        if !self.stop.requested() {
            let _ = self.limit.set(limit);
        }
        self.stop.request();
    }

    /// Returns the limit that the guest has exceeded, if any.
    pub(crate) fn limit(&self) -> Option<Limit> {
        self.limit.get().copied()
    }
}

/// Console with a limit on the number of bytes.
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
