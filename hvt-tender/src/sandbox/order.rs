//! Confining a thread that was made before the tender became who it is to be.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::rights::Reach;
use super::{Calls, Sandbox, SandboxError};

/// The order to a thread to confine itself. Threads that devices have made carry it out when the guest's thread is about
/// to be confined: to change the user, the C library needs all threads as they were.
pub(crate) struct Order {
    sandbox: Sandbox,
    calls: Calls,
    done: SyncSender<Result<(), SandboxError>>,
}

impl Sandbox {
    /// An order to make these calls alone, and what tells whether it has been carried out. The internet stays within
    /// the thread's reach.
    pub(crate) fn order(&self, calls: Calls) -> (Order, Receiver<Result<(), SandboxError>>) {
        let (done, result) = sync_channel(1);
        (Order { sandbox: self.clone(), calls, done }, result)
    }
}

impl Order {
    /// Carries it out, for the calling thread.
    pub(crate) fn obey(self) {
        let result = self.sandbox.give_up(None, &[], Reach::Internet).and_then(|()| self.sandbox.confine(self.calls));
        // Who gave the order waits for this.
        let _ = self.done.send(result);
    }
}
