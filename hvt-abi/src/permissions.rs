//! Permissions of memory as a type.

use core::fmt;

use bitflags::bitflags;

bitflags! {
    /// Ways to access memory: what a guest may do with a page, or what it tried to do.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Permissions: u32 {
        /// Read data.
        const READ = 1 << 0;
        /// Write data. As a permission, it includes [`READ`](Self::READ).
        const WRITE = 1 << 1;
        /// Fetch instructions. As a permission, it includes [`READ`](Self::READ) where the hardware has no execute-only
        /// pages.
        const EXECUTE = 1 << 2;
    }
}

/// The letters of `/proc/PID/maps`: `r-x`.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (permission, letter) in [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::EXECUTE, 'x')] {
            write!(f, "{}", if self.contains(permission) { letter } else { '-' })?;
        }
        Ok(())
    }
}
