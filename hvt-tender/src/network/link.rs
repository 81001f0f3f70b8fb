//! Point-to-point link between two ports.

use std::io;
use std::sync::Arc;

use super::inbox::Inbox;
use super::port::Medium;
use super::{DEFAULT_MTU, DEFAULT_QUEUE, Impairment, Port};
use crate::device::Senders;
use crate::virtual_time::VirtualTime;

/// Builder of a point-to-point link between two [`Port`]s.
#[derive(Clone, Debug)]
pub struct Link {
    impairment: Impairment,
    mtu: u16,
    queue: usize,
    time: Option<VirtualTime>,
}

impl Default for Link {
    fn default() -> Self {
        Self { impairment: Impairment::new(), mtu: DEFAULT_MTU, queue: DEFAULT_QUEUE, time: None }
    }
}

impl Link {
    /// Creates a link without impairments, with an MTU of 1500 and a queue of 1024 frames at each
    /// end.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies `impairment` to the frames of both directions. The directions draw independent
    /// random numbers from the same seed.
    #[must_use]
    pub fn impairment(mut self, impairment: Impairment) -> Self {
        self.impairment = impairment;
        self
    }

    /// Sets the MTU, the maximum payload of a frame in bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// Sets the capacity of the queue at each end. Frames in transit count as queued; a full queue
    /// drops new frames.
    #[must_use]
    pub fn queue(mut self, frames: usize) -> Self {
        self.queue = frames;
        self
    }

    /// Times the arrival of frames by `time` instead of the host's clock, for guests that run in
    /// this virtual time.
    #[must_use]
    pub fn virtual_time(mut self, time: &VirtualTime) -> Self {
        self.time = Some(time.clone());
        self
    }

    /// Creates the two ports of the link.
    ///
    /// # Errors
    /// Returns the error of eventfd(2) or timerfd_create(2), such as `EMFILE` if the process has no
    /// free descriptor.
    pub fn ports(self) -> io::Result<(Port, Port)> {
        let inbox = |number| Inbox::new(self.impairment.clone(), number, self.queue, self.time.clone()).map(Arc::new);
        let inboxes = [inbox(0)?, inbox(1)?];
        let medium = Arc::new(Cable { inboxes: inboxes.clone() });
        let [first, second] = inboxes;
        Ok((Port::new(0, first, medium.clone(), self.mtu), Port::new(1, second, medium, self.mtu)))
    }
}

/// Medium of a [`Link`]: a frame sent at one end is queued at the other.
struct Cable {
    inboxes: [Arc<Inbox>; 2],
}

impl Medium for Cable {
    fn carry(&self, from: usize, frame: &[u8]) {
        self.inboxes[1 - from % 2].send(frame);
    }

    fn admits(&self, from: usize, frames: usize) -> bool {
        self.inboxes[1 - from % 2].admits(frames)
    }

    fn is_full(&self, from: usize) -> bool {
        self.inboxes[1 - from % 2].is_full()
    }

    fn wake_by(&self, from: usize, waker: Arc<dyn Fn() + Send + Sync>) {
        self.inboxes[1 - from % 2].wake_by(waker);
    }

    fn senders(&self, to: usize) -> Senders {
        self.inboxes[1 - to % 2].sender()
    }
}
