//! Files of the boot modules. Each module is a cpio archive with unikernels of the conformance
//! table under `suite/` and other unikernels under `guest/`.

use alloc::{format, string::String, vec::Vec};

use cpio_reader::Mode;

/// All files of all archives.
pub struct Pack<'a> {
    files: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Pack<'a> {
    /// Reads the files of these archives.
    #[must_use]
    pub fn new(archives: impl Iterator<Item = &'a [u8]>) -> Self {
        let files = archives
            .flat_map(cpio_reader::iter_files)
            .filter(|entry| entry.mode().contains(Mode::REGULAR_FILE))
            .map(|entry| (entry.name(), entry.file()))
            .collect();
        Self { files }
    }

    /// Returns the guest of the conformance table with this name.
    ///
    /// # Errors
    /// Returns a message if there is no such guest.
    pub fn suite(&self, name: &str) -> Result<&'a [u8], String> {
        let found = self.files.iter().find(|(path, _)| path.strip_prefix("suite/") == Some(name));
        found.map(|(_, file)| *file).ok_or_else(|| format!("no guest '{name}' in the archives"))
    }

    /// Returns the other guests with their names.
    pub fn guests(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.files.iter().filter_map(|(path, file)| Some((path.strip_prefix("guest/")?, *file)))
    }
}
