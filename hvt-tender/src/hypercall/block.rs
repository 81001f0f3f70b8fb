//! Hypercalls of block devices.

use core::mem::offset_of;

use hvt_abi::hypercall::{BlockIo, Number, Status};

use super::{Call, Error, Flow, IN_OUT, ret};
use crate::device::{Block, Devices, Slot};
use crate::memory::Access;

pub(super) fn serve(call: &Call<'_>, devices: &mut Devices) -> Result<Flow, Error> {
    let io: BlockIo = call.copy_in(IN_OUT)?;
    let status = transfer(call, &io, devices)?;
    call.copy_out(offset_of!(BlockIo, ret), &ret(status))?;
    Ok(Flow::Continue)
}

fn transfer(call: &Call<'_>, io: &BlockIo, devices: &mut Devices) -> Result<Status, Error> {
    let slot = usize::try_from(io.handle).ok().and_then(|handle| devices.slots.get_mut(handle));
    let Some(Slot::Block(device)) = slot else {
        return Ok(Status::Invalid);
    };
    if !whole_blocks(device.as_ref(), io.offset, io.len) {
        return Ok(Status::Invalid);
    }
    // A read leaves `len` as it is: it has read all of it.
    let done = if call.number == Number::BlockWrite {
        device.write(io.offset, call.buffer("buffer", io.data, io.len, Access::READ)?)
    } else {
        device.read(io.offset, call.buffer("buffer", io.data, io.len, Access::WRITE)?)
    };
    Ok(if done.is_ok() { Status::Ok } else { Status::Unspecified })
}

/// Whether `len` bytes from `offset` on are blocks of the device, at least one, and all of them inside it.
fn whole_blocks(device: &dyn Block, offset: u64, len: u64) -> bool {
    // The block size is a power of two.
    let mask = u64::from(device.block_size()).wrapping_sub(1);
    let inside = offset.checked_add(len).is_some_and(|end| end <= device.capacity());
    len != 0 && (offset | len) & mask == 0 && inside
}
