//! Block devices of a case, backed by files.

use std::fs;
use std::path::{Path, PathBuf};

use test_suite::Disk;

/// A disk image in a directory.
pub(crate) struct Image {
    path: PathBuf,
    disk: Disk,
}

impl Image {
    /// Creates the image with the initial contents that the case specifies.
    pub(crate) fn create(directory: &Path, name: &str, disk: Disk) -> Result<Self, String> {
        let path = directory.join(name);
        let capacity = usize::try_from(disk.capacity).map_err(|error| error.to_string())?;
        let mut contents = vec![0; capacity];
        disk.before.fill(0, &mut contents);
        fs::write(&path, contents).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Self { path, disk })
    }

    /// Returns the path of the image.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the block size in bytes.
    pub(crate) fn block_size(&self) -> u16 {
        self.disk.block_size
    }

    /// Checks that the contents are the contents that the case expects.
    pub(crate) fn check(&self) -> Result<(), String> {
        let contents = fs::read(&self.path).map_err(|error| error.to_string())?;
        if contents.len() as u64 != self.disk.capacity {
            return Err(format!("{} has changed its length to {} bytes", self.path.display(), contents.len()));
        }
        let wrong = (0..self.disk.capacity)
            .step_by(512)
            .zip(contents.chunks(512))
            .find(|(offset, block)| !self.disk.after.matches(*offset, block));
        match wrong {
            Some((offset, _)) => Err(format!("{} has unexpected contents at byte {offset}", self.path.display())),
            None => Ok(()),
        }
    }
}
