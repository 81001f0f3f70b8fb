//! Memory access permissions.

use core::fmt;

use bitflags::bitflags;

bitflags! {
    /// Memory access permissions: the permissions of a guest page, or the type of an attempted
    /// access.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Permissions: u32 {
        /// Data reads.
        const READ = 1 << 0;
        /// Data writes. As a permission, it includes [`READ`](Self::READ).
        const WRITE = 1 << 1;
        /// Instruction fetches. As a permission, it includes [`READ`](Self::READ) if the hardware
        /// has no execute-only pages.
        const EXECUTE = 1 << 2;
    }
}

/// Formats the permissions as in `/proc/PID/maps`, for example `r-x`.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (permission, letter) in [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::EXECUTE, 'x')] {
            write!(f, "{}", if self.contains(permission) { letter } else { '-' })?;
        }
        Ok(())
    }
}
