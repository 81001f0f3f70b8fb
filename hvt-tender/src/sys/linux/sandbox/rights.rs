//! Rights that a thread drops irreversibly: ways to gain rights, capabilities, and the file system.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::os::fd::BorrowedFd;

use super::outer;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use nix::errno::Errno;

/// Makes sure that no program that this thread executes gains rights, as set-user-ID programs do.
pub(super) fn gain_none() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Drops all capabilities, including those that a program executed later could get.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let held = Capabilities::of_this_thread()?;
    if held == Capabilities::NONE {
        // Dropping a capability from the bounding set itself requires a capability; and ambient
        // capabilities are among the held ones.
        return Ok(());
    }
    // The kernel requires unused arguments to be 0 in all 64 bits.
    const UNUSED: libc::c_ulong = 0;
    let all = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: the call takes no pointers.
    Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, all, UNUSED, UNUSED, UNUSED) })?;
    if held.may_shrink_bounding_set() {
        for capability in 0..libc::c_ulong::from(u64::BITS) {
            // SAFETY: the call takes no pointers.
            match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, UNUSED, UNUSED, UNUSED) }) {
                Ok(_) => {}
                // This kernel has no further capabilities.
                Err(Errno::EINVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Capabilities::NONE.set()
}

/// Capabilities of a thread, in the format of capget(2) and capset(2).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Capabilities([CapabilityWords; 2]);

/// `struct __user_cap_data_struct` (`linux/capability.h`): 32 capabilities in each set.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct CapabilityWords {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `struct __user_cap_header_struct` (`linux/capability.h`).
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

impl CapabilityHeader {
    /// The calling thread, with sets of two words each: `_LINUX_CAPABILITY_VERSION_3`.
    const THIS_THREAD: Self = Self { version: 0x2008_0522, pid: 0 };
}

impl Capabilities {
    const NONE: Self = Self([CapabilityWords { effective: 0, permitted: 0, inheritable: 0 }; 2]);

    fn of_this_thread() -> io::Result<Self> {
        let (mut header, mut held) = (CapabilityHeader::THIS_THREAD, Self::NONE);
        // SAFETY: the kernel writes a version to the header if it does not support this one, and
        // writes two elements of words.
        Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut held) })?;
        Ok(held)
    }

    /// Sets the capabilities of the calling thread.
    fn set(&self) -> io::Result<()> {
        let mut header = CapabilityHeader::THIS_THREAD;
        // SAFETY: the kernel writes a version to the header if it does not support this one, and
        // reads two elements of words.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const *self) })?;
        Ok(())
    }

    /// Returns whether `CAP_SETPCAP` is effective.
    fn may_shrink_bounding_set(&self) -> bool {
        self.0[0].effective & 1 << 8 != 0
    }
}

/// Result of setting up Landlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landlock {
    /// All requested restrictions that this kernel supports are in force.
    Enforced,
    /// This kernel does not support Landlock.
    Missing,
    /// An inherited filter of system calls does not allow Landlock.
    Filtered,
}

/// Network access that a thread keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Open descriptors only.
    Open,
    /// TCP connections to any address.
    Internet,
}

/// Directories in which a thread keeps rights.
pub(super) struct Directories<'f, M: Iterator<Item = BorrowedFd<'f>>, R: Iterator<Item = BorrowedFd<'f>>> {
    /// Directory for creating files.
    pub(super) makes: Option<BorrowedFd<'f>>,
    /// Directories for creating and removing sockets.
    pub(super) meets: M,
    /// Directories for removing files.
    pub(super) removes: R,
}

/// Denies this thread access to the file system, to TCP (unless `reach` allows it), and to sockets
/// and processes of others, except for the rights in `directories`. Open descriptors stay usable.
pub(super) fn leave_files<'f>(
    directories: Directories<'f, impl Iterator<Item = BorrowedFd<'f>>, impl Iterator<Item = BorrowedFd<'f>>>,
    reach: Reach,
) -> Result<Landlock, RulesetError> {
    const NEWEST: ABI = ABI::V6;
    if !outer::allows(libc::SYS_landlock_create_ruleset) {
        return Ok(Landlock::Filtered);
    }
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?.scope(Scope::from_all(NEWEST))?;
    if reach == Reach::Open {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let ruleset = ruleset.create()?;
    let make = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate;
    let meet = AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ReadDir;
    let Directories { makes, meets, removes } = directories;
    let makes = makes.into_iter().map(|directory| PathBeneath::new(directory, make));
    let meets = meets.map(|directory| PathBeneath::new(directory, meet));
    let removes = removes.map(|directory| PathBeneath::new(directory, AccessFs::RemoveFile));
    let ruleset = ruleset.add_rules(makes.chain(meets).chain(removes).map(Ok::<_, RulesetError>))?;
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Landlock::Missing,
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Landlock::Enforced,
    })
}
