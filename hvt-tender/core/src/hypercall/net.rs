//! Hypercalls of network devices.

use core::mem::offset_of;

use hvt_abi::hypercall::{FRAME_HEADER_SIZE, NetIo, Number, Status};

use super::{Call, Flow, HypercallError, IN_OUT, ret};
use crate::device::{Devices, Net, Slot};
use crate::memory::{GuestPtr, Permissions};

#[inline(never)]
pub(super) fn serve(call: &Call<'_>, devices: &mut Devices) -> Result<Flow, HypercallError> {
    let argument = call.argument::<NetIo>(IN_OUT)?;
    let io: NetIo = argument.load();
    let slot = usize::try_from(io.handle).ok().and_then(|handle| devices.slots.get_mut(handle));
    let status = match slot {
        Some(Slot::Net(device)) if call.number == Number::NetWrite => send(call, &io, device.as_mut())?,
        Some(Slot::Net(device)) => receive(call, &argument, &io, device.as_mut())?,
        _ => Status::Invalid,
    };
    argument.store(offset_of!(NetIo, ret), &ret(status));
    Ok(Flow::Continue)
}

/// Sends a frame. Like Solo5, leaves frames that exceed the MTU to the network, because a VLAN tag
/// alone exceeds it.
fn send(call: &Call<'_>, io: &NetIo, device: &mut dyn Net) -> Result<Status, HypercallError> {
    let frame = call.buffer("buffer", io.data, io.len, Permissions::READ)?;
    if frame.len() < FRAME_HEADER_SIZE {
        return Ok(Status::Invalid);
    }
    Ok(if device.send(frame).is_ok() { Status::Ok } else { Status::Unspecified })
}

/// Receives a frame. If the guest's buffer is empty, no frame is received and the frame stays
/// queued.
fn receive(
    call: &Call<'_>,
    argument: &GuestPtr<'_, NetIo>,
    io: &NetIo,
    device: &mut dyn Net,
) -> Result<Status, HypercallError> {
    let buffer = call.buffer("buffer", io.data, io.len, Permissions::WRITE)?;
    if buffer.is_empty() {
        return Ok(Status::Again);
    }
    Ok(match device.receive(buffer) {
        Ok(Some(len)) => {
            argument.store(offset_of!(NetIo, len), &len.min(buffer.len()));
            Status::Ok
        }
        Ok(None) => Status::Again,
        Err(_) => Status::Unspecified,
    })
}
