//! How a guest sleeps.

use alloc::{rc::Rc, vec::Vec};
use core::cell::RefCell;

use hvt_bare::{devices::Wire, peer::Peer};
use hvt_tender::device::{Interrupted, Poller};
use x86_64::instructions::hlt;

use crate::{
    clock::{Clock, tsc},
    interrupts,
};

/// The far ends of a guest's wires, if anybody is there.
pub(crate) type Peers = Rc<RefCell<Vec<Peer>>>;

/// Waits for frames on wires, or for the time.
#[derive(Default)]
pub(crate) struct Sleeper {
    /// The guest's ends, by handle.
    wires: Vec<(u32, Wire)>,
    /// Who lives at the other ends, while the guest sleeps.
    peers: Peers,
    /// The tick at which the guest is given up.
    deadline: u64,
}

impl Sleeper {
    /// Waits for frames on these wires, given with their devices' handles.
    pub(crate) fn new(wires: Vec<(u32, Wire)>, peers: Peers) -> Self {
        Self { wires, peers, deadline: u64::MAX }
    }

    /// The same, but not beyond this tick of the timer.
    pub(crate) fn until(self, deadline: u64) -> Self {
        Self { deadline, ..self }
    }
}

impl Poller for Sleeper {
    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted> {
        let frequency = Clock::get().frequency();
        let ticks = u128::from(timeout) * u128::from(frequency) / 1_000_000_000;
        let start = tsc();
        loop {
            self.peers.borrow_mut().iter_mut().for_each(Peer::poll);
            let ready =
                self.wires.iter().filter(|(_, wire)| wire.is_ready()).fold(0, |set, (handle, _)| set | 1 << handle);
            let left = ticks.saturating_sub(tsc().wrapping_sub(start).into());
            if ready != 0 || left == 0 {
                return Ok(ready);
            }
            if interrupts::ticks() >= self.deadline {
                return Err(Interrupted);
            }
            // The timer wakes the CPU. It is too coarse for the last bit of a sleep.
            if left > u128::from(frequency / u64::from(interrupts::TIMER_HZ)) {
                hlt();
            } else {
                core::hint::spin_loop();
            }
        }
    }
}
