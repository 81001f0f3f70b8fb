//! Who the tender is once everything is open, and what it then sees of the file system.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chdir, chroot, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

use super::outer;
use crate::config::{Identity, User};

impl Identity {
    /// Becomes it, for good.
    pub(crate) fn drop_privileges(&self) -> Result<(), IdentityError> {
        // The root first: a user without rights cannot change it.
        if let Some(root) = &self.root {
            // Filters of service managers may end the process for it.
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
    // The working directory would be a way out.
    Ok(chdir("/")?)
}

impl User {
    fn drop_privileges(self) -> Result<(), IdentityError> {
        let Self { uid, gid } = self;
        let error = |what| move |errno: nix::Error| IdentityError::User { uid, gid, what, source: errno.into() };
        if self.is_current().map_err(error("find out who it is"))? {
            return Ok(());
        }
        // The user last: it may not change the groups.
        setgroups(&[]).map_err(error("leave its other groups"))?;
        let group = Gid::from_raw(gid);
        setresgid(group, group, group).map_err(error("change its group"))?;
        let user = Uid::from_raw(uid);
        setresuid(user, user, user).map_err(error("change its user"))
    }

    /// Whether this is who the process is already, which takes no rights.
    fn is_current(self) -> nix::Result<bool> {
        let (users, groups) = (getresuid()?, getresgid()?);
        let user = [users.real, users.effective, users.saved].map(Uid::as_raw) == [self.uid; 3];
        let group = [groups.real, groups.effective, groups.saved].map(Gid::as_raw) == [self.gid; 3];
        Ok(user && group && getgroups()?.iter().all(|other| other.as_raw() == self.gid))
    }
}

/// Why the tender cannot become who it was told to become. The message is one line.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The root directory.
    #[error("--chroot {}: this directory cannot become the root{}: {source}", root.display(), hint(source, "CAP_SYS_CHROOT"))]
    Root {
        /// The directory.
        root: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The user or the group.
    #[error("--user {uid}:{gid}: the tender cannot {what}{}: {source}", hint(source, "CAP_SETUID and CAP_SETGID"))]
    User {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// What failed.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// What it takes, where it is not permitted.
fn hint(source: &io::Error, capabilities: &str) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => format!(" (it takes root, or {capabilities})"),
        _ => String::new(),
    }
}
