//! Hypercalls: what a guest asks for, checked and passed on to its devices.
//!
//! [`serve`] is pure over guest memory and the traits of [`device`](crate::device): every backend and every host goes
//! through it. An argument structure is copied in once, because the guest may change it at any time; what is checked
//! is what is acted on, and only fields that the ABI calls *out* are copied back.
//!
//! Two kinds of mistake are told apart, as Solo5 does. A handle, an offset or a length that does not fit the device is
//! answered with [`Status::Invalid`], and the guest goes on. An unknown number, or a pointer to memory that the guest
//! itself may not access in that way, is an [`HypercallError`]: the guest must be stopped.

mod block;
mod net;

#[cfg(test)]
mod tests;

use core::mem::offset_of;

use hvt_abi::Gpa;
use hvt_abi::hypercall::{HALT_COOKIE_SIZE, Halt, Number, Poll, Puts, Status, Walltime};

use crate::device::{Devices, Interrupted};
use crate::memory::{GuestPtr, GuestSlice, GuestSpace, Permissions, Violation};

/// How it goes on after a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The guest runs on.
    Continue,
    /// The guest has ended.
    Halt {
        /// What it wants the tender to exit with.
        status: i32,
        /// Where it left [`HALT_COOKIE_SIZE`] bytes that describe its registers; they can be read.
        cookie: Option<Gpa>,
    },
    /// The guest's sleep was cut short because somebody asked the run to end. Its argument is as it was: to run the
    /// guest on, the same hypercall must be served again first.
    Interrupted,
}

/// A guest's mistake after which it cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HypercallError {
    /// There is no such hypercall.
    #[error("unknown hypercall {0}")]
    Unknown(u32),
    /// A pointer to memory that the guest may not access like that.
    #[error("hypercall {}: {field}: {violation}", call.name())]
    Pointer {
        /// The hypercall.
        call: Number,
        /// What the pointer was to point to.
        field: &'static str,
        /// Why it may not be followed.
        violation: Violation,
    },
}

/// Serves hypercall `number`, whose argument the guest alleges to lie at `argument`.
///
/// # Errors
/// When the guest made a mistake after which it must be stopped. Nothing in its memory has been changed then.
// Inlined, and of what it calls only the shortest: that does not pay for the registers that a long one uses.
#[inline(always)]
pub fn serve(
    number: u32,
    argument: Gpa,
    guest: &GuestSpace<'_>,
    devices: &mut Devices,
) -> Result<Flow, HypercallError> {
    let Some(number) = Number::from_u32(number) else { return Err(HypercallError::Unknown(number)) };
    let call = Call { number, argument, guest };
    match number {
        Number::Walltime => walltime(&call, devices),
        Number::Puts => puts(&call, devices),
        Number::Poll => poll(&call, devices),
        Number::BlockWrite | Number::BlockRead => block::serve(&call, devices),
        Number::NetWrite | Number::NetRead => net::serve(&call, devices),
        Number::Halt => halt(&call),
    }
}

#[inline(always)]
fn walltime(call: &Call<'_>, devices: &mut Devices) -> Result<Flow, HypercallError> {
    // Before all else: what is known of the argument need not outlast a call.
    let nsecs = devices.clock.now();
    call.argument::<Walltime>(Permissions::WRITE)?.store(0, &Walltime { nsecs });
    Ok(Flow::Continue)
}

#[inline(never)]
fn puts(call: &Call<'_>, devices: &mut Devices) -> Result<Flow, HypercallError> {
    let puts: Puts = call.argument(Permissions::READ)?.load();
    let data = call.buffer("data", puts.data, puts.len, Permissions::READ)?;
    if !data.is_empty() {
        devices.console.write(data);
    }
    Ok(Flow::Continue)
}

#[inline(never)]
fn poll(call: &Call<'_>, devices: &mut Devices) -> Result<Flow, HypercallError> {
    let argument = call.argument::<Poll>(IN_OUT)?;
    let poll = argument.load();
    match devices.poller.poll(poll.timeout_nsecs) {
        Ok(ready_set) => {
            argument.store(offset_of!(Poll, ready_set), &ready_set);
            argument.store(offset_of!(Poll, ret), &ready_set.count_ones());
            Ok(Flow::Continue)
        }
        Err(Interrupted) => Ok(Flow::Interrupted),
    }
}

#[inline(never)]
fn halt(call: &Call<'_>) -> Result<Flow, HypercallError> {
    let halt: Halt = call.argument(Permissions::READ)?.load();
    let cookie = (halt.cookie != Gpa(0)).then_some(halt.cookie);
    if let Some(cookie) = cookie {
        call.buffer("cookie", cookie, HALT_COOKIE_SIZE, Permissions::READ)?;
    }
    Ok(Flow::Halt { status: halt.exit_status, cookie })
}

/// How an argument is accessed that has fields for both ways.
const IN_OUT: Permissions = Permissions::READ.union(Permissions::WRITE);

/// A hypercall being served.
struct Call<'g> {
    number: Number,
    /// Where the guest alleges its argument to lie.
    argument: Gpa,
    guest: &'g GuestSpace<'g>,
}

impl<'g> Call<'g> {
    /// A buffer that the guest names in its argument as `field`.
    #[inline]
    fn buffer(
        &self,
        field: &'static str,
        at: Gpa,
        len: u64,
        access: Permissions,
    ) -> Result<GuestSlice<'g>, HypercallError> {
        match self.guest.slice(at, len, access) {
            Ok(slice) => Ok(slice),
            Err(violation) => Err(HypercallError::Pointer { call: self.number, field, violation }),
        }
    }

    /// The guest's argument, a structure `T` all of which the guest must be able to access like that. What is checked
    /// and acted on is a copy of it, taken once; results go into its fields.
    #[inline]
    fn argument<T>(&self, access: Permissions) -> Result<GuestPtr<'g, T>, HypercallError> {
        let place = self.guest.place(self.argument, access);
        place.map_err(|violation| HypercallError::Pointer { call: self.number, field: "argument", violation })
    }
}

/// [`Status`] as it stands in the `ret` field of an argument.
fn ret(status: Status) -> i32 {
    status as i32
}
