//! Checked ELF file: segments to load into guest memory, and devices declared by the unikernel.
//!
//! Everything in the file is an allegation. [`Image::parse`] checks the headers, the notes, the
//! manifest and the segments once, with overflow checks on every addition. Its result needs no
//! second check except against the size of guest memory, which [`boot`](crate::boot) performs.

mod error;
mod header;
mod manifest;
mod note;
mod segment;
mod symbol;
pub mod write;

#[cfg(any(test, feature = "fixtures"))]
pub mod fixture;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use hvt_abi::{GUEST_MIN_BASE, Gpa};

pub use error::{Foreign, ImageError, ManifestError, SegmentError};
pub use manifest::{Device, DeviceKind, Manifest, is_device_name};
pub use note::Abi;
pub use segment::Segment;
pub use symbol::{Symbol, symbol_at};

/// Solo5 unikernel for this machine and this tender, ready to be loaded into guest memory.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    segments: Vec<Segment<'a>>,
    entry: Gpa,
    abi: Abi,
    manifest: Manifest,
}

impl<'a> Image<'a> {
    /// Parses a whole ELF file.
    ///
    /// # Errors
    /// Returns [`ImageError`], which names the reason and the remedy, if the file is not a
    /// unikernel that this tender can run.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        let headers = header::Headers::parse(file)?;
        headers.check_machine()?;
        let notes = note::Notes::find(file, &headers.program)?;
        let abi = notes.abi.ok_or_else(|| headers.foreign(file))?;
        abi.check()?;
        headers.check_static_executable()?;
        let manifest = Manifest::parse(notes.manifest.ok_or(ImageError::NoManifest)?)?;
        let segments = segment::collect(file, &headers.program)?;
        let entry = Gpa(headers.entry);
        if !segments.iter().any(|segment| segment.is_code_at(entry)) {
            return Err(ImageError::Entry { entry });
        }
        Ok(Self { segments, entry, abi, manifest })
    }

    /// Returns the segments: ascending, disjoint, page-aligned, between 1 MiB and 4 GiB.
    #[must_use]
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// Returns the entry point, which lies in an executable segment.
    #[must_use]
    pub fn entry(&self) -> Gpa {
        self.entry
    }

    /// Returns the first address after the last segment, page-aligned.
    #[must_use]
    pub fn end(&self) -> Gpa {
        self.segments.last().map_or(GUEST_MIN_BASE, |segment| segment.range.end())
    }

    /// Returns target and ABI version that the unikernel was built for.
    #[must_use]
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// Returns the devices that the unikernel declares.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Returns target and ABI version of a Solo5 unikernel, even if it is built for another machine or
/// tender.
///
/// # Errors
/// Returns [`ImageError`] if the file is not a unikernel.
pub fn query_abi(file: &[u8]) -> Result<Abi, ImageError> {
    let headers = header::Headers::parse(file)?;
    note::Notes::find(file, &headers.program)?.abi.ok_or_else(|| headers.foreign(file))
}

/// Returns the devices that a Solo5 unikernel declares, even if it is built for another machine or
/// tender.
///
/// # Errors
/// Returns [`ImageError`] if the file is not a unikernel or has no valid manifest.
pub fn query_manifest(file: &[u8]) -> Result<Manifest, ImageError> {
    let headers = header::Headers::parse(file)?;
    let notes = note::Notes::find(file, &headers.program)?;
    match (notes.manifest, notes.abi) {
        (Some(manifest), _) => Ok(Manifest::parse(manifest)?),
        (None, Some(_)) => Err(ImageError::NoManifest),
        (None, None) => Err(headers.foreign(file)),
    }
}
