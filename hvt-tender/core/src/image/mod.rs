//! An ELF file, checked: what of it goes where in guest memory, and which devices the guest asks for.
//!
//! Everything in the file is an allegation. [`Image::parse`] looks at the headers, the notes, the manifest and the
//! segments once, with every addition checked; what comes out needs no second look except at the size of the guest's
//! memory, which [`boot`](crate::boot) knows.

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

/// A Solo5 unikernel for this machine and this tender, ready to be placed in guest memory.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    segments: Vec<Segment<'a>>,
    entry: Gpa,
    abi: Abi,
    manifest: Manifest,
}

impl<'a> Image<'a> {
    /// Reads a whole ELF file.
    ///
    /// # Errors
    /// [`ImageError`], when the file is not a unikernel that this tender can run: it says why, and what to do.
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

    /// The segments: ascending, not overlapping, page aligned, between 1 MiB and 4 GiB.
    #[must_use]
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// Where the guest starts to run. It lies in a segment that may be executed.
    #[must_use]
    pub fn entry(&self) -> Gpa {
        self.entry
    }

    /// First address after the last segment, page aligned.
    #[must_use]
    pub fn end(&self) -> Gpa {
        self.segments.last().map_or(GUEST_MIN_BASE, |segment| segment.range.end())
    }

    /// What the guest was built for.
    #[must_use]
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// The devices that the guest asks for.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// What a Solo5 unikernel was built for, be it for this machine and this tender or for others.
///
/// # Errors
/// [`ImageError`], when the file is no unikernel.
pub fn query_abi(file: &[u8]) -> Result<Abi, ImageError> {
    let headers = header::Headers::parse(file)?;
    note::Notes::find(file, &headers.program)?.abi.ok_or_else(|| headers.foreign(file))
}

/// The devices that a Solo5 unikernel asks for, be it for this machine and this tender or for others.
///
/// # Errors
/// [`ImageError`], when the file is no unikernel, or has no valid manifest.
pub fn query_manifest(file: &[u8]) -> Result<Manifest, ImageError> {
    let headers = header::Headers::parse(file)?;
    let notes = note::Notes::find(file, &headers.program)?;
    match (notes.manifest, notes.abi) {
        (Some(manifest), _) => Ok(Manifest::parse(manifest)?),
        (None, Some(_)) => Err(ImageError::NoManifest),
        (None, None) => Err(headers.foreign(file)),
    }
}
