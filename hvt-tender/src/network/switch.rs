//! Learning Ethernet switch.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::inbox::Inbox;
use super::port::Medium;
use super::{DEFAULT_MTU, DEFAULT_QUEUE, Impairment, Port};
use crate::device::Senders;
use crate::virtual_time::VirtualTime;

/// Maximum number of addresses that a switch learns. Frames to any other address are flooded.
const ADDRESSES: usize = 4096;

/// Ethernet switch that learns the port of each MAC address and floods frames to unknown addresses.
///
/// A clone refers to the same switch. The ports stay connected after all clones have been dropped.
#[derive(Clone, Debug)]
pub struct Switch {
    fabric: Arc<Fabric>,
    handle: Arc<Handle>,
}

/// Handle that creates ports, shared by all clones of a switch.
#[derive(Debug)]
struct Handle {
    time: Option<VirtualTime>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(time) = &self.time {
            // No further port can be created, so a guest that waits for frames of such a port may
            // wait forever: let the clock check.
            time.poke();
        }
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::living_in(None)
    }
}

impl Switch {
    /// Creates a switch without ports.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a switch without ports that times the arrival of frames by `time` instead of the
    /// host's clock, for guests that run in this virtual time.
    #[must_use]
    pub fn in_virtual_time(time: &VirtualTime) -> Self {
        Self::living_in(Some(time.clone()))
    }

    fn living_in(time: Option<VirtualTime>) -> Self {
        let (fabric, handle) = (Arc::new(Fabric::default()), Arc::new(Handle { time }));
        fabric.lock().switch = Arc::downgrade(&handle);
        Self { fabric, handle }
    }

    /// Adds a port without impairments, with an MTU of 1500 and a queue of 1024 frames.
    ///
    /// # Errors
    /// Returns the error of eventfd(2), such as `EMFILE` if the process has no free descriptor.
    pub fn port(&self) -> io::Result<Port> {
        self.port_with(Impairment::new())
    }

    /// Adds a port with an MTU of 1500 and a queue of 1024 frames, and applies `impairment` to the
    /// frames that it receives.
    ///
    /// # Errors
    /// Returns the error of eventfd(2) or timerfd_create(2), such as `EMFILE` if the process has no
    /// free descriptor.
    pub fn port_with(&self, impairment: Impairment) -> io::Result<Port> {
        let mut state = self.fabric.lock();
        let number = state.made;
        let inbox = Arc::new(Inbox::new(impairment, number, DEFAULT_QUEUE, self.handle.time.clone())?);
        state.made += 1;
        state.ports.insert(number, Arc::downgrade(&inbox));
        Ok(Port::new(number, inbox, self.fabric.clone(), DEFAULT_MTU))
    }
}

#[derive(Debug, Default)]
struct Fabric {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of ports created so far, including dropped ones.
    made: usize,
    ports: BTreeMap<usize, Weak<Inbox>>,
    learned: HashMap<[u8; 6], usize>,
    /// Handle that creates ports, as long as a clone of the switch exists.
    switch: Weak<Handle>,
}

impl Fabric {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Learns the source address of `frame` and returns the inboxes of its destination ports.
    fn route(&mut self, from: usize, frame: &[u8]) -> Vec<Arc<Inbox>> {
        self.ports.retain(|_, inbox| inbox.strong_count() > 0);
        let (Some(to), Some(source)) = (address(frame, 0), address(frame, 6)) else { return Vec::new() };
        if !is_group(source) && (self.learned.len() < ADDRESSES || self.learned.contains_key(&source)) {
            self.learned.insert(source, from);
        }
        let known = self.learned.get(&to).filter(|port| self.ports.contains_key(port) && !is_group(to));
        match known {
            Some(port) if *port == from => Vec::new(),
            Some(port) => self.ports.get(port).and_then(Weak::upgrade).into_iter().collect(),
            None => {
                self.ports.iter().filter(|(port, _)| **port != from).filter_map(|(_, inbox)| inbox.upgrade()).collect()
            }
        }
    }
}

impl Medium for Fabric {
    fn carry(&self, from: usize, frame: &[u8]) {
        let targets = self.lock().route(from, frame);
        targets.iter().for_each(|inbox| inbox.send(frame));
    }

    fn senders(&self, to: usize) -> Senders {
        let state = self.lock();
        if state.switch.strong_count() > 0 {
            // The switch can still create a port with any sender behind it.
            return Senders::Anything;
        }
        let others = state.ports.iter().filter(|(port, _)| **port != to);
        others.filter_map(|(_, inbox)| Some(inbox.upgrade()?.sender())).max().unwrap_or(Senders::None)
    }
}

fn address(frame: &[u8], at: usize) -> Option<[u8; 6]> {
    frame.get(at..at + 6)?.try_into().ok()
}

/// Returns whether a MAC address is multicast or broadcast (IEEE 802, bit 0 of the first byte).
fn is_group(address: [u8; 6]) -> bool {
    address[0] & 1 != 0
}
