//! Changes the tender's user and root directory once all files are open.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chdir, chroot, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

use super::outer;
use crate::config::{Identity, User};

impl Identity {
    /// Changes the root directory and the user irreversibly.
    pub(crate) fn drop_privileges(&self) -> Result<(), IdentityError> {
        // The root directory comes first: an unprivileged user cannot change it.
        if let Some(root) = &self.root {
            // Filters of service managers may kill the process for this call.
            let unknown = outer::missing(&[(libc::SYS_chroot, "chroot")]).map(outer::refusal);
            unknown
                .map_or_else(|| change_root(root), Err)
                .map_err(|source| IdentityError::Root { root: root.clone(), source })?;
        }
        if let Some(user) = self.user {
            user.drop_privileges()?;
        }
        Ok(())
    }
}

fn change_root(root: &Path) -> io::Result<()> {
    chroot(root)?;
    // A working directory outside of the new root would allow an escape.
    Ok(chdir("/")?)
}

impl User {
    fn drop_privileges(self) -> Result<(), IdentityError> {
        let Self { uid, gid } = self;
        let error = |what| move |errno: nix::Error| IdentityError::User { uid, gid, what, source: errno.into() };
        if self.is_current().map_err(error("read its user and groups"))? {
            return Ok(());
        }
        // The user comes last: an unprivileged user cannot change the groups.
        setgroups(&[]).map_err(error("drop its other groups"))?;
        let group = Gid::from_raw(gid);
        setresgid(group, group, group).map_err(error("change its group"))?;
        let user = Uid::from_raw(uid);
        setresuid(user, user, user).map_err(error("change its user"))
    }

    /// Returns whether the process already has this user and group. Then no privileges are needed.
    fn is_current(self) -> nix::Result<bool> {
        let (users, groups) = (getresuid()?, getresgid()?);
        let user = [users.real, users.effective, users.saved].map(Uid::as_raw) == [self.uid; 3];
        let group = [groups.real, groups.effective, groups.saved].map(Gid::as_raw) == [self.gid; 3];
        Ok(user && group && getgroups()?.iter().all(|other| other.as_raw() == self.gid))
    }
}

/// Change of the user or root directory that failed. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The root directory cannot be changed.
    #[error("--chroot {}: cannot change the root directory{}", root.display(), hint(source, "CAP_SYS_CHROOT"))]
    Root {
        /// Requested root directory.
        root: PathBuf,
        /// Error of the host.
        source: io::Error,
    },
    /// The user or the group cannot be changed.
    #[error("--user {uid}:{gid}: the tender cannot {what}{}", hint(source, "CAP_SETUID and CAP_SETGID"))]
    User {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Step that failed.
        what: &'static str,
        /// Error of the host.
        source: io::Error,
    },
}

/// Returns the required privileges if permission was denied.
fn hint(source: &io::Error, capabilities: &str) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => format!(" (requires root, or {capabilities})"),
        _ => String::new(),
    }
}
