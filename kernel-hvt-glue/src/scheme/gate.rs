//! Lock for a VM's memory: shared access to use the memory, exclusive access to change it.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU32, Ordering},
};

use hvt_abi::kernel::KernelError;

/// The value is being changed.
const CHANGING: u32 = 1 << 31;
/// No further caller may enter to run.
const PAUSED: u32 = 1 << 30;
/// Mask of the number of shared accesses. No machine has enough CPUs to reach [`PAUSED`].
const LOOKING: u32 = PAUSED - 1;

/// Lock that never waits: it allows many shared accesses or one exclusive access to a value, and an
/// attempt either succeeds or fails at once. [`pause`](Self::pause) closes the lock for callers
/// that want to run.
pub(super) struct Gate<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: references to the value are either shared by many or held exclusively by one.
unsafe impl<T: Send + Sync> Sync for Gate<T> {}

impl<T> Gate<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Acquires shared access.
    #[inline]
    pub(super) fn look(&self) -> Result<Looking<'_, T>, KernelError> {
        self.come_in(CHANGING)
    }

    /// Acquires shared access to run, unless the gate is paused.
    #[inline]
    pub(super) fn enter(&self) -> Result<Looking<'_, T>, KernelError> {
        self.come_in(CHANGING | PAUSED)
    }

    #[inline]
    fn come_in(&self, obstacles: u32) -> Result<Looking<'_, T>, KernelError> {
        let before = self.state.fetch_add(1, Ordering::Acquire);
        // From here on, dropping `looking` decrements the count.
        let looking = Looking(self);
        match before & obstacles {
            0 => Ok(looking),
            obstacle if obstacle & CHANGING != 0 => Err(KernelError::Busy),
            _ => Err(KernelError::Paused),
        }
    }

    /// Acquires exclusive access.
    pub(super) fn change(&self) -> Result<Changing<'_, T>, KernelError> {
        let state = self.state.load(Ordering::Relaxed);
        if state & !PAUSED != 0 {
            return Err(KernelError::Busy);
        }
        self.state
            .compare_exchange(state, state | CHANGING, Ordering::Acquire, Ordering::Relaxed)
            .map(|_| Changing(self))
            .map_err(|_| KernelError::Busy)
    }

    /// Rejects further callers of [`enter`](Self::enter), and returns the number of current shared
    /// accesses.
    pub(super) fn pause(&self) -> u32 {
        self.state.fetch_or(PAUSED, Ordering::Relaxed) & LOOKING
    }

    /// Reverts [`pause`](Self::pause).
    pub(super) fn resume(&self) {
        self.state.fetch_and(!PAUSED, Ordering::Relaxed);
    }
}

/// Shared access.
pub(super) struct Looking<'a, T>(&'a Gate<T>);

impl<T> Deref for Looking<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the value does not change during a shared access.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for Looking<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::Release);
    }
}

/// Exclusive access.
pub(super) struct Changing<'a, T>(&'a Gate<T>);

impl<T> Deref for Changing<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: there is no other access.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Changing<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: there is no other access.
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
        assert_eq!(gate.change().err(), Some(KernelError::Busy));
        assert_eq!(*first + *second, 2);
        drop((first, second));
        let mut change = gate.change().unwrap();
        *change = 2;
        assert_eq!(gate.look().err(), Some(KernelError::Busy));
        assert_eq!(gate.enter().err(), Some(KernelError::Busy));
        assert_eq!(gate.change().err(), Some(KernelError::Busy));
        drop(change);
        assert_eq!(*gate.look().unwrap(), 2);
    }

    #[test]
    fn a_paused_gate_is_closed_for_those_who_run() {
        let gate = Gate::new(());
        let inside = gate.enter().unwrap();
        assert_eq!((gate.pause(), gate.pause()), (1, 1));
        assert_eq!(gate.enter().err(), Some(KernelError::Paused));
        assert!(gate.look().is_ok());
        drop(inside);
        assert_eq!(gate.pause(), 0);
        assert!(gate.change().is_ok());
        assert_eq!(gate.enter().err(), Some(KernelError::Paused));
        gate.resume();
        assert!(gate.enter().is_ok());
    }
}
