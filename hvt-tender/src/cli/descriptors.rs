//! Descriptors inherited by this program.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use crate::config::{BlockSource, Config, DeviceOptions, NetSource};
use crate::sys::open_descriptors;

/// Inherited descriptors that the command line names, by number (`@N`) or by path (`/dev/fd/N`).
pub(super) struct Descriptors(BTreeMap<RawFd, OwnedFd>);

impl Descriptors {
    /// Takes ownership of the named descriptors. Must be called before this program opens a
    /// descriptor itself. A descriptor stays open until it is [taken](Self::take) or this value is
    /// dropped, so its path can be opened until then.
    pub(super) fn claim(config: &Config) -> Result<Self, DescriptorError> {
        let mut claimed = BTreeMap::new();
        for net in &config.devices.nets {
            let NetSource::Descriptor(number) = net.value else { continue };
            let error = |source: io::Error| DescriptorError { number, source };
            if is_standard(number) {
                return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "it is a standard stream")));
            }
            if claimed.contains_key(&number) {
                return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "two devices name it")));
            }
            claimed.insert(number, own(number).map_err(error)?);
        }
        for number in paths(config).filter_map(number_in).filter(|number| !is_standard(*number)) {
            if claimed.contains_key(&number) {
                continue;
            }
            // If the descriptor is not open, opening the path reports the error.
            if let Ok(descriptor) = own(number) {
                claimed.insert(number, descriptor);
            }
        }
        Ok(Self(claimed))
    }

    /// Closes all other descriptors except the standard streams. The parent process leaked them by
    /// mistake, and the guest must not reach them. Must be called before this program opens a
    /// descriptor itself.
    pub(super) fn close_others(&self) {
        let mut first = libc::STDERR_FILENO.cast_unsigned() + 1;
        for number in self.0.keys().map(|number| number.cast_unsigned()).chain([u32::MAX]) {
            if first < number {
                // SAFETY: these descriptors have no owner. This program has opened none yet, and no
                // descriptor from `first` to `number - 1` is claimed.
                unsafe { open_descriptors::close_range(first, number - 1) };
            }
            first = number.saturating_add(1);
        }
    }

    /// Returns a claimed descriptor.
    pub(super) fn take(&mut self, number: RawFd) -> Result<OwnedFd, DescriptorError> {
        let missing = || DescriptorError { number, source: io::ErrorKind::NotFound.into() };
        self.0.remove(&number).ok_or_else(missing)
    }
}

/// Descriptor that cannot be used. The message is one line.
#[derive(Debug, thiserror::Error)]
#[error("--net @{number}: the descriptor cannot be used")]
pub(super) struct DescriptorError {
    number: RawFd,
    source: io::Error,
}

/// Returns every path that is opened before the guest is created.
fn paths(config: &Config) -> impl Iterator<Item = &Path> {
    let DeviceOptions { nets, recordings, blocks, .. } = &config.devices;
    let nets = nets.iter().filter_map(|net| match &net.value {
        NetSource::Pcap(path) | NetSource::Unix(path) => Some(path),
        NetSource::None | NetSource::User | NetSource::Interface(_) | NetSource::Descriptor(_) => None,
    });
    let blocks = blocks.iter().map(|block| match &block.value {
        BlockSource::File(path) | BlockSource::Copy(path) => path,
    });
    let recordings = recordings.iter().map(|recording| &recording.value);
    let others = [&config.core_directory, &config.trace].into_iter().flatten();
    [&config.kernel].into_iter().chain(others).chain(nets).chain(recordings).chain(blocks).map(PathBuf::as_path)
}

fn is_standard(number: RawFd) -> bool {
    (0..=libc::STDERR_FILENO).contains(&number)
}

/// Takes ownership of an inherited descriptor that is not taken yet, and sets its close-on-exec
/// flag.
fn own(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call only sets a flag of a descriptor, or fails if the descriptor is not open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and has no owner. This program has opened only the standard
    // streams so far, and it takes no descriptor twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Returns the descriptor number in a path. Shells pass `/dev/fd/N`, a symbolic link into
/// `/proc/self/fd`.
fn number_in(path: &Path) -> Option<RawFd> {
    let rest = ["/dev/fd", "/proc/self/fd"].iter().find_map(|folder| path.strip_prefix(folder).ok())?;
    let Component::Normal(number) = rest.components().next()? else { return None };
    number.to_str()?.parse().ok().filter(|number| *number >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_paths() {
        for (path, number) in [
            ("/dev/fd/7", Some(7)),
            ("/proc/self/fd/63", Some(63)),
            ("/dev/fd/7/below", Some(7)),
            ("/dev//fd/7", Some(7)),
            ("/dev/fd", None),
            ("/dev/fd/-1", None),
            ("/dev/fd/x", None),
            ("/dev/fd/99999999999", None),
            ("dev/fd/7", None),
            ("/dev/stdin", None),
            ("/tmp/7", None),
        ] {
            assert_eq!(number_in(Path::new(path)), number, "{path}");
        }
    }
}
