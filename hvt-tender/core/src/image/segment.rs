//! Loadable segments.

use alloc::vec::Vec;

use goblin::elf::ProgramHeader;
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_LOAD};
use hvt_abi::{GUEST_MIN_BASE, Gpa, GuestRange, MEM_MAX, PAGE_SIZE};

use super::error::{ImageError, SegmentError};
use super::header::{contents, truncated};
use crate::memory::Permissions;

/// Range of guest memory described by the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Whole pages that the segment occupies. Bytes of the pages outside of [`bytes`](Self::bytes)
    /// are zero.
    pub range: GuestRange,
    /// Guest address of the bytes, inside the range.
    pub at: Gpa,
    /// Contents from the file.
    pub bytes: &'a [u8],
    /// Permissions of the guest according to the file: never both write and execute, possibly only
    /// execute, possibly none.
    pub access: Permissions,
}

impl Segment<'_> {
    /// Returns true if the guest may execute code at `address`.
    pub(super) fn is_code_at(&self, address: Gpa) -> bool {
        self.range.contains(address) && self.access.contains(Permissions::EXECUTE)
    }

    /// Returns true if `next` is the `.bss` of this data segment and starts in its last page, which
    /// is loaded and zero already.
    fn continues_as(&self, next: &Segment<'_>) -> bool {
        let bytes_end = self.at.checked_add(self.bytes.len() as u64);
        next.bytes.is_empty()
            && next.access == self.access
            && self.range.contains(next.at)
            && bytes_end.is_some_and(|bytes_end| bytes_end <= next.at)
    }
}

/// Collects the segments of all `PT_LOAD` headers, except empty ones.
///
/// Solo5's tender ignores segments without bytes in the file, which hold the `.bss` of guests. Here
/// they count, so that they are checked and their memory belongs to the guest.
pub(super) fn collect<'a>(file: &'a [u8], program: &[ProgramHeader]) -> Result<Vec<Segment<'a>>, ImageError> {
    let mut segments: Vec<Segment<'a>> = Vec::new();
    let loaded = |header: &ProgramHeader| header.p_type == PT_LOAD && (header.p_memsz, header.p_filesz) != (0, 0);
    for (index, header) in program.iter().enumerate().filter(|(_, header)| loaded(header)) {
        let bytes = contents(file, header).ok_or_else(|| truncated(file, header, "a segment"))?;
        let placed = place(header, bytes, segments.last()).map_err(|problem| ImageError::Segment { index, problem })?;
        segments.extend(placed);
    }
    Ok(segments)
}

/// Checks one segment against the rules and against the segment `before` it.
///
/// Returns `None` if the pages of `before` cover the segment already.
fn place<'a>(
    header: &ProgramHeader,
    bytes: &'a [u8],
    before: Option<&Segment<'_>>,
) -> Result<Option<Segment<'a>>, SegmentError> {
    let at = Gpa(header.p_vaddr);
    if header.p_memsz < header.p_filesz {
        return Err(SegmentError::FileExceedsMemory { file: header.p_filesz, memory: header.p_memsz });
    }
    if at < GUEST_MIN_BASE {
        return Err(SegmentError::TooLow(at));
    }
    let too_high = || SegmentError::TooHigh { start: at, len: header.p_memsz };
    let end = at.checked_add(header.p_memsz).filter(|end| end.0 <= MEM_MAX).ok_or_else(too_high)?;
    // Like Solo5, widens a segment as far as its alignment allows. Solo5 ignores segments without
    // bytes in the file, so their alignment may have any value.
    let alignment = if bytes.is_empty() { PAGE_SIZE } else { header.p_align.max(1) };
    if !alignment.is_power_of_two() {
        return Err(SegmentError::Alignment(alignment));
    }
    let alignment = alignment.min(PAGE_SIZE);
    let start = at.align_down(alignment);
    let end = end.checked_align_up(alignment).ok_or_else(too_high)?;
    if let Some(boundary) = [start, end].into_iter().find(|boundary| !boundary.is_aligned(PAGE_SIZE)) {
        return Err(SegmentError::Unaligned(boundary));
    }
    let range = GuestRange::between(start, end).ok_or_else(too_high)?;
    let access = access(header.p_flags);
    if access.contains(Permissions::WRITE | Permissions::EXECUTE) {
        return Err(SegmentError::WritableAndExecutable(range));
    }
    let segment = Segment { range, at, bytes, access };
    match before {
        Some(before) if at < before.at => Err(SegmentError::NotAscending(at)),
        Some(before) if before.continues_as(&segment) => {
            let rest = GuestRange::between(before.range.end(), end).filter(|rest| !rest.is_empty());
            Ok(rest.map(|range| Segment { range, at: range.start(), ..segment }))
        }
        Some(before) if before.range.overlaps(&range) => Err(SegmentError::Overlap(range)),
        _ => Ok(Some(segment)),
    }
}

fn access(flags: u32) -> Permissions {
    [(PF_R, Permissions::READ), (PF_W, Permissions::WRITE), (PF_X, Permissions::EXECUTE)]
        .into_iter()
        .filter(|(flag, _)| flags & flag != 0)
        .map(|(_, access)| access)
        .collect()
}
