//! Confining the helper threads of devices.

use crossbeam_channel::bounded;

use super::rights::Reach;
use super::{Sandbox, SandboxError};
use crate::cancel::CancelToken;
use crate::device::HelperThread;

impl Sandbox {
    /// Confines a thread that was started before the tender dropped its privileges. It could not be
    /// confined earlier: to change the user, the C library requires all threads in their original
    /// state. A thread that uses the internet keeps this access.
    ///
    /// # Errors
    /// Returns the [`SandboxError`] of the thread. A thread that has ended needs no sandbox.
    pub(crate) fn confine_helper(&self, thread: &dyn HelperThread, stop: &CancelToken) -> Result<(), SandboxError> {
        let mut calls = self.calls(stop);
        calls.allow_uses(thread.descriptors());
        let reach = if thread.uses_internet() { Reach::Internet } else { Reach::Open };
        if thread.uses_internet() {
            calls.allow_internet();
        }
        let (sandbox, (done, result)) = (self.clone(), bounded(1));
        thread.execute(Box::new(move || {
            // `confine_helper` waits for the result.
            let _ = done.send(sandbox.restrict(None, &[], reach).and_then(|()| sandbox.confine(calls)));
        }));
        result.recv().unwrap_or(Ok(()))
    }
}
