//! Who may look at a VM's memory, and who may change it.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU32, Ordering},
};

use hvt_abi::kernel::Error;

/// Somebody changes the value.
const CHANGING: u32 = 1 << 31;
/// Nobody new may come in to run.
const PAUSED: u32 = 1 << 30;
/// How many look at the value. No machine has so many CPUs that this could reach [`PAUSED`].
const LOOKING: u32 = PAUSED - 1;

/// A value that many may look at or one may change, all of which are only ever tried; and that can be closed for those
/// who want to run.
pub(super) struct Gate<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: references to the value are handed out to many or, alone, to one.
unsafe impl<T: Send + Sync> Sync for Gate<T> {}

impl<T> Gate<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// To look at the value.
    #[inline]
    pub(super) fn look(&self) -> Result<Looking<'_, T>, Error> {
        self.come_in(CHANGING)
    }

    /// To run with the value: as for looking, unless it is paused.
    #[inline]
    pub(super) fn enter(&self) -> Result<Looking<'_, T>, Error> {
        self.come_in(CHANGING | PAUSED)
    }

    #[inline]
    fn come_in(&self, obstacles: u32) -> Result<Looking<'_, T>, Error> {
        let before = self.state.fetch_add(1, Ordering::Acquire);
        // From here on, leaving takes the number back.
        let looking = Looking(self);
        match before & obstacles {
            0 => Ok(looking),
            obstacle if obstacle & CHANGING != 0 => Err(Error::Busy),
            _ => Err(Error::Paused),
        }
    }

    /// To change the value, alone.
    pub(super) fn change(&self) -> Result<Changing<'_, T>, Error> {
        let state = self.state.load(Ordering::Relaxed);
        if state & !PAUSED != 0 {
            return Err(Error::Busy);
        }
        self.state
            .compare_exchange(state, state | CHANGING, Ordering::Acquire, Ordering::Relaxed)
            .map(|_| Changing(self))
            .map_err(|_| Error::Busy)
    }

    /// Lets nobody in to run any more, and returns how many are inside.
    pub(super) fn pause(&self) -> u32 {
        self.state.fetch_or(PAUSED, Ordering::Relaxed) & LOOKING
    }

    /// Undoes it.
    pub(super) fn resume(&self) {
        self.state.fetch_and(!PAUSED, Ordering::Relaxed);
    }
}

/// Somebody who looks.
pub(super) struct Looking<'a, T>(&'a Gate<T>);

impl<T> Deref for Looking<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: nobody changes the value while it is looked at.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for Looking<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::Release);
    }
}

/// Who changes it.
pub(super) struct Changing<'a, T>(&'a Gate<T>);

impl<T> Deref for Changing<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: nobody else is inside.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Changing<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: nobody else is inside.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Changing<'_, T> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!CHANGING, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_look_or_one_changes() {
        let gate = Gate::new(1);
        let (first, second) = (gate.look().unwrap(), gate.enter().unwrap());
        assert_eq!(gate.change().err(), Some(Error::Busy));
        assert_eq!(*first + *second, 2);
        drop((first, second));
        let mut change = gate.change().unwrap();
        *change = 2;
        assert_eq!(gate.look().err(), Some(Error::Busy));
        assert_eq!(gate.enter().err(), Some(Error::Busy));
        assert_eq!(gate.change().err(), Some(Error::Busy));
        drop(change);
        assert_eq!(*gate.look().unwrap(), 2);
    }

    #[test]
    fn a_paused_gate_is_closed_for_those_who_run() {
        let gate = Gate::new(());
        let inside = gate.enter().unwrap();
        assert_eq!((gate.pause(), gate.pause()), (1, 1));
        assert_eq!(gate.enter().err(), Some(Error::Paused));
        assert!(gate.look().is_ok());
        drop(inside);
        assert_eq!(gate.pause(), 0);
        assert!(gate.change().is_ok());
        assert_eq!(gate.enter().err(), Some(Error::Paused));
        gate.resume();
        assert!(gate.enter().is_ok());
    }
}
