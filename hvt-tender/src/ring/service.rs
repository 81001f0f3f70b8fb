//! What a submission asks for.

use hvt_abi::hypercall::{FRAME_HEADER_SIZE, Status};
use hvt_abi::ring::{BUFFER_SIZE, Commit, Entry, NET_READ, NET_WRITE};

use super::RingError;
use super::queue::Queue;
use crate::device::Net;
use crate::memory::{GuestSlice, GuestSpace, MemoryMap, Permissions};

/// Serves the submissions of a ring.
pub(super) struct Service {
    pub(super) queue: Queue,
    pub(super) memory_map: MemoryMap,
    /// By handle.
    pub(super) devices: Vec<Option<Box<dyn Net + Send>>>,
}

impl Service {
    /// Serves what is submitted; returns how many submissions that were.
    ///
    /// # Errors
    /// When the guest did what it may not: it must be stopped, and its ring not be served any more.
    pub(super) fn serve(&mut self) -> Result<u64, RingError> {
        let mut served = 0;
        while let Some(entry) = self.queue.next()? {
            let commit = self.act(&entry)?;
            if let Some((status, len)) = commit {
                self.queue.commit(Commit { id: entry.id, ret: status as i32, len, reserved: 0 })?;
            }
            // The guest may use the buffer again from here on.
            self.queue.taken();
            served += 1;
        }
        Ok(served)
    }

    /// Does what a submission asks for. The answer, if it gets one: status and length.
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
                // Nobody is told whether the frame went out, as on a wire.
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
        // A frame longer than the buffer has lost its end.
        Ok(Some(len)) => (Status::Ok, u32::try_from(len).unwrap_or(room).min(room)),
        Ok(None) => (Status::Again, room),
        Err(_) => (Status::Unspecified, room),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
