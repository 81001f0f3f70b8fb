//! Sleep.

use hvt_abi::hypercall::{Number, Poll};

use crate::clock::Instant;
use crate::device::HandleSet;
use crate::hypercall;

/// Sleeps until a network device has a frame waiting or the deadline has come, and says which devices have.
///
/// A deadline in the past only asks. The set is empty when time was up.
pub fn yield_until(deadline: Instant) -> HandleSet {
    let timeout = deadline.saturating_duration_since(Instant::now());
    let timeout_nsecs = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    let mut argument = Poll { timeout_nsecs, ..Poll::default() };
    // SAFETY: The argument names no buffer.
    unsafe { hypercall::call(Number::Poll, &mut argument) };
    HandleSet(argument.ready_set)
}
