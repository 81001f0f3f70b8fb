//! Guest memory in several heap allocations, for tests of the modules that need no operating
//! system.

#![expect(unsafe_code, reason = "guest memory is raw memory, which the guest changes at any time")]

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;

use hvt_abi::{Gpa, GuestRange};

use super::{Chunk, GuestMemory};

/// Guest memory in pieces: contiguous for the guest, but not in the host.
pub struct FakeMemory {
    /// Pieces with the guest address of their first byte, in ascending order and without gaps.
    /// Allocated by `Box::leak` and freed in `drop`. Accessed only through chunks, like the memory
    /// of a guest that writes all the time.
    pieces: Vec<(u64, NonNull<[u8]>)>,
    size: u64,
}

impl FakeMemory {
    /// Creates `size` bytes of zeros in pieces that end at the addresses `cuts`.
    pub fn new(size: u64, cuts: &[u64]) -> Self {
        let mut ends: Vec<u64> = cuts.iter().copied().filter(|cut| (1..size).contains(cut)).collect();
        ends.push(size);
        ends.sort_unstable();
        ends.dedup();
        let mut start = 0;
        let pieces = ends.into_iter().map(|end| {
            let piece = NonNull::from(Box::leak(vec![0; (end - start) as usize].into_boxed_slice()));
            (core::mem::replace(&mut start, end), piece)
        });
        Self { pieces: pieces.collect(), size }
    }

    /// Sets every byte to `byte`.
    pub fn fill(&self, byte: u8) {
        self.write(Gpa(0), &vec![byte; self.size as usize]).expect("as long as memory");
    }

    /// Returns a copy of all bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size as usize);
        for (_, piece) in &self.pieces {
            // SAFETY: the piece is alive. No other thread writes to it, because the type is not
            // `Sync`.
            bytes.extend_from_slice(unsafe { piece.as_ref() });
        }
        bytes
    }

    /// Returns a copy of the `len` bytes at `at`.
    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(Gpa(at), &mut bytes).expect("the test reads inside of memory");
        bytes
    }
}

impl Drop for FakeMemory {
    fn drop(&mut self) {
        for (_, piece) in &self.pieces {
            // SAFETY: the piece comes from `Box::leak` and is not used afterwards.
            drop(unsafe { Box::from_raw(piece.as_ptr()) });
        }
    }
}

impl GuestMemory for FakeMemory {
    fn size(&self) -> u64 {
        self.size
    }

    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        let index = self.pieces.partition_point(|(start, _)| *start <= range.start().0).checked_sub(1)?;
        let (start, piece) = self.pieces.get(index)?;
        let offset = (range.start().0 - start) as usize;
        let len = piece.len().checked_sub(offset)?.min(usize::try_from(range.len()).ok()?);
        if len == 0 {
            return None;
        }
        // SAFETY: `offset` lies in the piece.
        let first = unsafe { piece.cast::<u8>().add(offset) };
        // SAFETY: the `len` bytes at `first` lie in the piece, which lives as long as `self`.
        Some(unsafe { Chunk::new(first, len) })
    }
}

#[test]
fn a_chunk_ends_where_its_piece_does() {
    let memory = FakeMemory::new(0x30, &[0x10, 0x18]);
    let chunk = |start, len| memory.chunk(GuestRange::new(Gpa(start), len).unwrap()).map(|chunk| chunk.len());
    assert_eq!(chunk(0, 0x30), Some(0x10));
    assert_eq!(chunk(0xf, 0x30), Some(1));
    assert_eq!(chunk(0x10, 4), Some(4));
    assert_eq!(chunk(0x18, 0x100), Some(0x18));
    assert_eq!((chunk(0x30, 1), chunk(0, 0)), (None, None));
    memory.write(Gpa(0xe), &[1; 0x10]).unwrap();
    let expected: Vec<u8> = (0..0x30).map(|at| u8::from((0xe..0x1e).contains(&at))).collect();
    assert_eq!(memory.snapshot(), expected);
}
