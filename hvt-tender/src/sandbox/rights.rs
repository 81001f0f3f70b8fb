//! What a thread gives up for good: ways to gain rights, capabilities, and the file system.

use std::io;
use std::os::fd::BorrowedFd;

use super::outer;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// Makes sure that nothing that this thread executes gains it rights, as set-user-ID programs do.
pub(super) fn gain_none() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Gives up all capabilities, those that a program executed later could get included.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let held = capabilities(None)?;
    if held == none {
        // To take any from the bounding set would itself need one; and ambient ones are among those that are held.
        return Ok(());
    }
    clear_ambient_capability_set()?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
                Ok(()) => {}
                // This kernel has no more of them.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(set_capabilities(None, none)?)
}

/// What landlock came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landlock {
    /// All that was asked for, or what of it this kernel knows.
    Enforced,
    /// This kernel has none.
    Missing,
    /// A filter of system calls that the process was started under does not allow it.
    Filtered,
}

/// What of the network a thread reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// What is open already.
    Open,
    /// TCP, to everywhere.
    Internet,
}

/// Directories in which a thread keeps rights.
pub(super) struct Directories<'f, M: Iterator<Item = BorrowedFd<'f>>, R: Iterator<Item = BorrowedFd<'f>>> {
    /// To make files.
    pub(super) makes: Option<BorrowedFd<'f>>,
    /// To make and remove sockets.
    pub(super) meets: M,
    /// To remove files.
    pub(super) removes: R,
}

/// Takes the file system, TCP unless it is said to stay, and the sockets and processes of others out of this thread's
/// reach, except for rights in `directories`. What is open stays open.
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
