//! Accounting of VMs and pinned memory per user.

use alloc::{collections::BTreeMap, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use hvt_abi::kernel::KernelError;
use spin::Mutex;

/// Accounts of all users that have VMs.
#[derive(Debug, Default)]
pub(super) struct Accounts(Mutex<BTreeMap<u32, Arc<Account>>>);

/// Resources of one user. The user's VMs hold a reference.
#[derive(Debug, Default)]
pub(super) struct Account {
    vms: AtomicU64,
    /// Pinned memory in bytes.
    pinned: AtomicU64,
}

impl Accounts {
    /// Returns the account of a user, and creates it if necessary. Accounts without resources are
    /// removed.
    pub(super) fn of(&self, user: u32) -> Arc<Account> {
        let mut accounts = self.0.lock();
        accounts.retain(|_, account| Arc::strong_count(account) > 1);
        accounts.entry(user).or_default().clone()
    }

    /// Returns the number of pinned bytes and the number of VMs.
    pub(super) fn used(&self, user: u32) -> (u64, u32) {
        self.0.lock().get(&user).map_or((0, 0), |account| {
            let vms = account.vms.load(Ordering::Relaxed);
            (account.pinned.load(Ordering::Relaxed), u32::try_from(vms).unwrap_or(u32::MAX))
        })
    }
}

/// Share of an account's resources. Dropping the value returns the share to the account.
#[derive(Debug)]
pub(super) struct Charge {
    account: Arc<Account>,
    what: fn(&Account) -> &AtomicU64,
    amount: u64,
    limit: u64,
}

impl Charge {
    /// Charges one VM.
    ///
    /// # Errors
    /// Returns [`KernelError::LimitReached`] if the user has `limit` VMs already.
    pub(super) fn vm(account: &Arc<Account>, limit: u32) -> Result<Self, KernelError> {
        let mut charge =
            Self { account: account.clone(), what: |account| &account.vms, amount: 0, limit: limit.into() };
        charge.grow(1)?;
        Ok(charge)
    }

    /// Creates a charge of no pinned memory.
    pub(super) fn pinned(account: &Arc<Account>, limit: u64) -> Self {
        Self { account: account.clone(), what: |account| &account.pinned, amount: 0, limit }
    }

    /// Adds `amount` to the charge.
    ///
    /// # Errors
    /// Returns [`KernelError::LimitReached`] if the account would exceed its limit. The charge is
    /// unchanged then.
    pub(super) fn grow(&mut self, amount: u64) -> Result<(), KernelError> {
        let grown = |used: u64| used.checked_add(amount).filter(|grown| *grown <= self.limit);
        (self.what)(&self.account)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
            .map_err(|_| KernelError::LimitReached)?;
        self.amount = self.amount.saturating_add(amount);
        Ok(())
    }

    /// Returns `amount` of the charge to the account.
    pub(super) fn shrink(&mut self, amount: u64) {
        let amount = amount.min(self.amount);
        (self.what)(&self.account).fetch_sub(amount, Ordering::Relaxed);
        self.amount -= amount;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_apart_and_forgotten() {
        let accounts = Accounts::default();
        let (first, second) = (accounts.of(1), accounts.of(2));
        let charge = Charge::vm(&first, 1).unwrap();
        assert_eq!(Charge::vm(&accounts.of(1), 1).err(), Some(KernelError::LimitReached));
        let mut pinned = Charge::pinned(&second, 8);
        pinned.grow(8).unwrap();
        assert_eq!(pinned.grow(1), Err(KernelError::LimitReached));
        assert_eq!((accounts.used(1), accounts.used(2), accounts.used(3)), ((0, 1), (8, 0), (0, 0)));
        pinned.shrink(3);
        assert_eq!(accounts.used(2), (5, 0));
        drop((charge, pinned, first, second));
        accounts.of(3);
        assert_eq!(accounts.0.lock().len(), 1);
    }
}
