//! Parts of a run that a unikernel was given: handed out once, shared by their handles, or made anew for each run.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::UnikernelError;
use crate::error::RunPart;

/// Any error of a function that makes a device.
pub(super) type MakeError = Box<dyn Error + Send + Sync>;

/// Source of one part of a run. Clones share it.
pub(super) enum Supply<T> {
    /// A value for one run. The function returns another handle of the same value, if the value has such handles.
    Value(Arc<Mutex<Option<T>>>, fn(&T) -> Option<T>),
    /// A function that makes a value for each run.
    Factory(Arc<dyn Fn() -> Result<T, MakeError> + Send + Sync>),
}

impl<T> Supply<T> {
    /// Supplies `value` to one run, and its other handles to further runs.
    pub(super) fn value(value: T, clone_handle: fn(&T) -> Option<T>) -> Self {
        Self::Value(Arc::new(Mutex::new(Some(value))), clone_handle)
    }

    /// Supplies `value` to one run.
    pub(super) fn once(value: T) -> Self {
        Self::value(value, |_| None)
    }

    /// Supplies a result of `make` to each run.
    pub(super) fn factory<E: Into<MakeError>>(make: impl Fn() -> Result<T, E> + Send + Sync + 'static) -> Self {
        Self::Factory(Arc::new(move || make().map_err(Into::into)))
    }

    /// Takes the value for a run. `part` names it in errors.
    pub(super) fn take(&self, part: impl FnOnce() -> RunPart) -> Result<T, UnikernelError> {
        match self {
            Self::Value(value, clone_handle) => {
                let mut value = value.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = value.take().ok_or_else(|| UnikernelError::Spent { part: part() })?;
                *value = clone_handle(&taken);
                Ok(taken)
            }
            Self::Factory(make) => make().map_err(|source| UnikernelError::Make { part: part(), source }),
        }
    }
}

impl<T> Clone for Supply<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Value(value, clone_handle) => Self::Value(value.clone(), *clone_handle),
            Self::Factory(make) => Self::Factory(make.clone()),
        }
    }
}

impl<T> fmt::Debug for Supply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            // A lock that is held belongs to a run that takes the value.
            Self::Value(value, _) if value.try_lock().is_ok_and(|value| value.is_none()) => "spent",
            Self::Value(..) => "value",
            Self::Factory(_) => "factory",
        })
    }
}
