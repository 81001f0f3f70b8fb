//! Sleep until a deadline or a network frame.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use hvt_abi::hypercall::{Number, Poll};

use crate::clock::Instant;
use crate::device::HandleSet;
use crate::hypercall;

/// Sleeps until a network device has a frame waiting or the deadline has passed, and returns the
/// devices with waiting frames.
///
/// With a deadline in the past, the function polls the devices without sleeping. After a timeout
/// the set is empty.
pub fn yield_until(deadline: Instant) -> HandleSet {
    let timeout = deadline.saturating_duration_since(Instant::now());
    let timeout_nsecs = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    let mut argument = Poll { timeout_nsecs, ..Poll::default() };
    // SAFETY: The argument contains no pointer to a buffer.
    unsafe { hypercall::call::<{ Number::Poll as u32 }, _>(&mut argument) };
    HandleSet(argument.ready_set)
}
