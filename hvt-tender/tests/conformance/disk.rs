//! Block devices of a case, as files.

use std::fs;
use std::path::{Path, PathBuf};

use test_suite::Disk;

/// A disk image in a directory.
pub(crate) struct Image {
    path: PathBuf,
    disk: Disk,
}

impl Image {
    /// Makes the image, with what the case says stands on it before.
    pub(crate) fn create(directory: &Path, name: &str, disk: Disk) -> Result<Self, String> {
        let path = directory.join(name);
        let capacity = usize::try_from(disk.capacity).map_err(|error| error.to_string())?;
        let mut contents = vec![0; capacity];
        disk.before.fill(0, &mut contents);
        fs::write(&path, contents).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Self { path, disk })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of a block.
    pub(crate) fn block_size(&self) -> u16 {
        self.disk.block_size
    }

    /// Whether what stands on it now is what the case says.
    pub(crate) fn check(&self) -> Result<(), String> {
        let contents = fs::read(&self.path).map_err(|error| error.to_string())?;
        if contents.len() as u64 != self.disk.capacity {
            return Err(format!("{} has become {} bytes long", self.path.display(), contents.len()));
        }
        let wrong = (0..self.disk.capacity)
            .step_by(512)
            .zip(contents.chunks(512))
            .find(|(offset, block)| !self.disk.after.matches(*offset, block));
        match wrong {
            Some((offset, _)) => Err(format!("{} is not what it should be at byte {offset}", self.path.display())),
            None => Ok(()),
        }
    }
}
