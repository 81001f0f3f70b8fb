//! A switch between many ports.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::inbox::Inbox;
use super::port::Medium;
use super::{DEFAULT_MTU, DEFAULT_QUEUE, Impairment, Port};
use crate::device::Senders;
use crate::virtual_time::VirtualTime;

/// Addresses that a switch remembers; it floods what is for others.
const ADDRESSES: usize = 4096;

/// A switch that learns which address is behind which port.
///
/// Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Switch {
    fabric: Arc<Fabric>,
    handle: Arc<Handle>,
}

/// What makes the ports of a switch: clones share it.
#[derive(Debug)]
struct Handle {
    time: Option<VirtualTime>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(time) = &self.time {
            // Who waited for frames of a port that might be made waits in vain now.
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
    /// A switch without ports.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A switch without ports, whose frames arrive in this virtual time, for guests that live in it.
    #[must_use]
    pub fn in_virtual_time(time: &VirtualTime) -> Self {
        Self::living_in(Some(time.clone()))
    }

    fn living_in(time: Option<VirtualTime>) -> Self {
        let (fabric, handle) = (Arc::new(Fabric::default()), Arc::new(Handle { time }));
        fabric.lock().switch = Arc::downgrade(&handle);
        Self { fabric, handle }
    }

    /// Adds a port.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn port(&self) -> io::Result<Port> {
        self.port_with(Impairment::new())
    }

    /// Adds a port on the way to which this happens to frames.
    ///
    /// # Errors
    /// When the host has no descriptor left.
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
    /// Ports that were ever made.
    made: usize,
    ports: BTreeMap<usize, Weak<Inbox>>,
    learned: HashMap<[u8; 6], usize>,
    /// The switch that makes the ports, while there is one.
    switch: Weak<Handle>,
}

impl Fabric {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Learns from a frame, and finds the ports that it goes to.
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
            // It can make another port.
            return Senders::Anything;
        }
        let others = state.ports.iter().filter(|(port, _)| **port != to);
        others.filter_map(|(_, inbox)| Some(inbox.upgrade()?.sender())).max().unwrap_or(Senders::None)
    }
}

fn address(frame: &[u8], at: usize) -> Option<[u8; 6]> {
    frame.get(at..at + 6)?.try_into().ok()
}

/// Whether an address is that of many hosts: multicast or broadcast (IEEE 802, bit 0 of the first byte).
fn is_group(address: [u8; 6]) -> bool {
    address[0] & 1 != 0
}
