//! Hypercalls of block devices.

use core::mem::offset_of;

use hvt_abi::hypercall::{BlockIo, Number, Status};

use super::{Call, Flow, HypercallError, IN_OUT, ret};
use crate::device::{Devices, Slot};
use crate::memory::Permissions;

#[inline(never)]
pub(super) fn serve(call: &Call<'_>, devices: &mut Devices) -> Result<Flow, HypercallError> {
    let argument = call.argument::<BlockIo>(IN_OUT)?;
    let status = transfer(call, &argument.load(), devices)?;
    argument.store(offset_of!(BlockIo, ret), &ret(status));
    Ok(Flow::Continue)
}

fn transfer(call: &Call<'_>, io: &BlockIo, devices: &mut Devices) -> Result<Status, HypercallError> {
    let slot = usize::try_from(io.handle).ok().and_then(|handle| devices.slots.get_mut(handle));
    let Some(Slot::Block(device)) = slot else {
        return Ok(Status::Invalid);
    };
    if !device.holds(io.offset, io.len) {
        return Ok(Status::Invalid);
    }
    // A read leaves `len` unchanged: the whole buffer was read.
    let done = if call.number == Number::BlockWrite {
        device.write(io.offset, call.buffer("buffer", io.data, io.len, Permissions::READ)?)
    } else {
        device.read(io.offset, call.buffer("buffer", io.data, io.len, Permissions::WRITE)?)
    };
    Ok(if done.is_ok() { Status::Ok } else { Status::Unspecified })
}
