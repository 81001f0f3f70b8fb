//! Execution of submissions.

use hvt_abi::hypercall::{FRAME_HEADER_SIZE, Status};
use hvt_abi::ring::{BUFFER_SIZE, Commit, Entry, NET_READ, NET_WRITE};

use super::RingError;
use super::queue::Queue;
use crate::device::Net;
use crate::memory::{GuestSlice, GuestSpace, MemoryMap, Permissions};

/// Executes the submissions of a ring.
pub(super) struct Service {
    pub(super) queue: Queue,
    pub(super) memory_map: MemoryMap,
    /// Network devices by handle.
    pub(super) devices: Vec<Option<Box<dyn Net + Send>>>,
}

impl Service {
    /// Executes all submissions in the ring and returns their number.
    ///
    /// # Errors
    /// Returns [`RingError`] if the guest has written an invalid index or submission. The caller
    /// must stop the guest and not serve the ring again.
    pub(super) fn serve(&mut self) -> Result<u64, RingError> {
        let mut served = 0;
        while let Some(entry) = self.queue.next()? {
            let commit = self.act(&entry)?;
            if let Some((status, len)) = commit {
                self.queue.commit(Commit { id: entry.id, ret: status as i32, len, reserved: 0 })?;
            }
            // From here on, the guest may reuse the buffer.
            self.queue.taken();
            served += 1;
        }
        Ok(served)
    }

    /// Executes a submission. Returns the status and the length of its commit, if it gets one.
    fn act(&mut self, entry: &Entry) -> Result<Option<(Status, u32)>, RingError> {
        let access = match entry.operation {
            NET_WRITE => Permissions::READ,
            NET_READ => Permissions::WRITE,
            other => return Err(RingError::Operation(other)),
        };
        if entry.len as usize > BUFFER_SIZE {
            return Err(RingError::Length(entry.len));
        }
        let guest = GuestSpace::new(self.queue.memory(), &self.memory_map);
        let buffer = guest.slice(entry.data, entry.len.into(), access)?;
        let device = usize::try_from(entry.handle).ok().and_then(|handle| self.devices.get_mut(handle)?.as_mut());
        Ok(match (entry.operation, device) {
            (NET_WRITE, device) => {
                // Writes get no commit: as on a wire, the guest does not learn whether the frame
                // was sent.
                if let Some(device) = device.filter(|_| buffer.len() >= FRAME_HEADER_SIZE) {
                    let _ = device.send(buffer);
                }
                None
            }
            (_, Some(device)) => Some(receive(device.as_mut(), buffer, entry.len)),
            (_, None) => Some((Status::Invalid, entry.len)),
        })
    }
}

fn receive(device: &mut dyn Net, buffer: GuestSlice<'_>, room: u32) -> (Status, u32) {
    match device.receive(buffer) {
        // A frame longer than the buffer is truncated.
        Ok(Some(len)) => (Status::Ok, u32::try_from(len).unwrap_or(room).min(room)),
        Ok(None) => (Status::Again, room),
        Err(_) => (Status::Unspecified, room),
    }
}

#[cfg(test)]
mod tests;
