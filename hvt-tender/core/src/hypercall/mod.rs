//! Hypercalls: checks the guest's requests and passes them on to its devices.
//!
//! [`serve`] depends only on guest memory and the traits of [`device`](crate::device), so that
//! every backend and every host uses it. An argument structure is copied in once, because the guest
//! may change it at any time; checks and actions use the same copy. Only fields that the ABI marks
//! *out* are copied back.
//!
//! Like Solo5, [`serve`] distinguishes two kinds of mistakes. A handle, an offset or a length that
//! does not fit the device is answered with [`Status::Invalid`], and the guest continues. An
//! unknown number, or a pointer to memory that the guest itself may not access in that way, is a
//! [`HypercallError`]: the guest must be stopped.

mod block;
mod net;

#[cfg(test)]
mod tests;

use core::mem::offset_of;

use hvt_abi::Gpa;
use hvt_abi::hypercall::{HALT_COOKIE_SIZE, Halt, Number, Poll, Puts, Status, Walltime};

use crate::device::{Devices, Interrupted};
use crate::memory::{GuestPtr, GuestSlice, GuestSpace, Permissions, Violation};

/// Control flow after a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The guest runs on.
    Continue,
    /// The guest has ended.
    Halt {
        /// Exit status that the guest requests.
        status: i32,
        /// Address of [`HALT_COOKIE_SIZE`] readable bytes that describe the guest's registers.
        cookie: Option<Gpa>,
    },
    /// The guest's sleep was interrupted from outside. The argument is unchanged: the same
    /// hypercall must be served again before the guest can continue.
    Interrupted,
}

/// Mistake of a guest after which it cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HypercallError {
    /// Unknown hypercall number.
    #[error("unknown hypercall {0}")]
    Unknown(u32),
    /// Pointer to memory that the guest may not access in this way.
    #[error("hypercall {}: {field}: {violation}", call.name())]
    Pointer {
        /// The hypercall.
        call: Number,
        /// Name of the field that holds the pointer.
        field: &'static str,
        /// Rejected access.
        violation: Violation,
    },
}

/// Serves hypercall `number`, whose argument the guest alleges to lie at `argument`.
///
/// # Errors
/// Returns [`HypercallError`] if the guest made a mistake after which it must be stopped. Its
/// memory is then unchanged.
// Inlined, but only with the shortest of its callees: the hot path must not save registers for a
// long one.
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
    // First of all, so that results of checking the argument need not be kept across a call.
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

/// Access to an argument that has in and out fields.
const IN_OUT: Permissions = Permissions::READ.union(Permissions::WRITE);

/// A hypercall being served.
struct Call<'g> {
    number: Number,
    /// Address of the argument, as the guest alleges it.
    argument: Gpa,
    guest: &'g GuestSpace<'g>,
}

impl<'g> Call<'g> {
    /// Checks the buffer that field `field` of the argument describes.
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

    /// Checks the guest's argument, a structure `T` that the guest must be able to access with
    /// `access`. Checks and actions use one copy of it; results go into its fields.
    #[inline]
    fn argument<T>(&self, access: Permissions) -> Result<GuestPtr<'g, T>, HypercallError> {
        let place = self.guest.place(self.argument, access);
        place.map_err(|violation| HypercallError::Pointer { call: self.number, field: "argument", violation })
    }
}

/// Value of [`Status`] in the `ret` field of an argument.
fn ret(status: Status) -> i32 {
    status as i32
}
