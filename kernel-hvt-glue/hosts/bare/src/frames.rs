//! Physical memory, in frames of 4 KiB.
//!
//! The allocator keeps memory in chunks of 2 MiB, each with a bit per frame and a count of free
//! frames. A block of 2^n frames is aligned to its own size, so it lies within one chunk or covers
//! whole chunks.

use core::fmt;

use hvt_boot::PhysicalRange;

/// Bytes in a frame.
pub const FRAME_SIZE: u64 = 4096;
/// Frames in a chunk.
const CHUNK_FRAMES: usize = 512;
/// Bytes in a chunk: 2 MiB.
pub const CHUNK_SIZE: u64 = FRAME_SIZE * CHUNK_FRAMES as u64;
/// log2 of [`CHUNK_FRAMES`].
const CHUNK_ORDER: u32 = CHUNK_FRAMES.trailing_zeros();
/// Bits in a word of the bitmap.
const WORD: usize = u64::BITS as usize;

/// 2 MiB of physical memory, with a bit per frame.
#[derive(Clone, Copy)]
pub struct Chunk {
    /// A set bit is a free frame.
    free: [u64; CHUNK_FRAMES / WORD],
    /// Number of set bits.
    count: u16,
}

impl Chunk {
    /// A chunk without a free frame.
    pub const USED: Self = Self { free: [0; CHUNK_FRAMES / WORD], count: 0 };

    const FULL: u16 = CHUNK_FRAMES as u16;

    /// Returns the index of the first of 2^`order` free frames. `order` is less than
    /// [`CHUNK_ORDER`].
    fn find(&self, order: u32) -> Option<usize> {
        let frames = 1 << order;
        if usize::from(self.count) < frames {
            return None;
        }
        if frames < WORD {
            self.free.iter().enumerate().find_map(|(index, &word)| {
                let mut runs = word;
                for shift in 0..order {
                    runs &= runs >> (1 << shift);
                }
                // Keep only the aligned starts of runs of that many free frames.
                runs &= !0 / ((1 << frames) - 1);
                (runs != 0).then(|| index * WORD + runs.trailing_zeros() as usize)
            })
        } else {
            let words = frames / WORD;
            let index = self.free.chunks_exact(words).position(|block| block.iter().all(|&word| word == !0))?;
            Some(index * frames)
        }
    }

    /// Marks frames `first..first + frames` as free or used. All of them must be in the other
    /// state.
    fn mark(&mut self, first: usize, frames: usize, free: bool) {
        for (index, word) in self.free.iter_mut().enumerate() {
            let start = first.clamp(index * WORD, (index + 1) * WORD) - index * WORD;
            let end = (first + frames).clamp(index * WORD, (index + 1) * WORD) - index * WORD;
            if start == end {
                continue;
            }
            let mask = (!0 >> (WORD - (end - start))) << start;
            assert_eq!(*word & mask, if free { 0 } else { mask }, "frames freed or taken twice");
            *word ^= mask;
        }
        self.count = if free { self.count + frames as u16 } else { self.count - frames as u16 };
    }
}

/// All frames of the machine.
pub struct FrameAllocator<'a> {
    chunks: &'a mut [Chunk],
    free: usize,
    /// Index of the lowest chunk that may have a free frame: no chunk below has one.
    lowest: usize,
}

impl<'a> FrameAllocator<'a> {
    /// Creates an allocator for the memory from 0 to [`CHUNK_SIZE`] times the number of chunks. All
    /// memory is used at first.
    pub fn new(chunks: &'a mut [Chunk]) -> Self {
        chunks.fill(Chunk::USED);
        let lowest = chunks.len();
        Self { chunks, free: 0, lowest }
    }

    /// Returns the number of chunks needed to manage all of `memory`.
    pub fn chunks_for(memory: &[PhysicalRange]) -> usize {
        memory.iter().map(|range| range.end.div_ceil(CHUNK_SIZE)).max().unwrap_or(0) as usize
    }

    /// Returns the number of free frames.
    pub fn free_frames(&self) -> usize {
        self.free
    }

    /// Adds the frames that `range` covers in full. None of them may be free already.
    pub fn add(&mut self, range: PhysicalRange) {
        let (start, end) = (range.start.div_ceil(FRAME_SIZE), range.end / FRAME_SIZE);
        self.mark(start as usize, end.saturating_sub(start) as usize, true);
    }

    /// Allocates 2^`order` contiguous frames, aligned to their total size. Returns the address of
    /// the first, or `None` if there is no such block.
    pub fn allocate(&mut self, order: u32) -> Option<u64> {
        if order >= usize::BITS || self.free < 1 << order {
            return None;
        }
        while self.chunks[self.lowest].count == 0 {
            self.lowest += 1;
        }
        let first = if order < CHUNK_ORDER {
            let mut candidates = self.chunks[self.lowest..].iter().enumerate();
            let (skipped, frame) = candidates.find_map(|(index, chunk)| Some((index, chunk.find(order)?)))?;
            (self.lowest + skipped) * CHUNK_FRAMES + frame
        } else {
            let chunks = 1 << (order - CHUNK_ORDER);
            let block = self.lowest / chunks;
            let mut candidates = self.chunks[block * chunks..].chunks_exact(chunks);
            (block + candidates.position(|block| block.iter().all(|chunk| chunk.count == Chunk::FULL))?)
                * chunks
                * CHUNK_FRAMES
        };
        self.mark(first, 1 << order, false);
        Some(first as u64 * FRAME_SIZE)
    }

    /// Frees 2^`order` frames starting at `address`.
    ///
    /// # Panics
    /// Panics if one of the frames is free already or outside the managed memory, that is, if
    /// `allocate` did not return the block.
    pub fn free(&mut self, address: u64, order: u32) {
        assert!(address.is_multiple_of(FRAME_SIZE << order), "{address:#x} is no block of 2^{order} frames");
        self.mark((address / FRAME_SIZE) as usize, 1 << order, true);
    }

    fn mark(&mut self, first: usize, frames: usize, free: bool) {
        let mut at = first;
        while at < first + frames {
            let (chunk, offset) = (at / CHUNK_FRAMES, at % CHUNK_FRAMES);
            let here = (first + frames - at).min(CHUNK_FRAMES - offset);
            self.chunks[chunk].mark(offset, here, free);
            at += here;
        }
        if free {
            self.free += frames;
            self.lowest = self.lowest.min(first / CHUNK_FRAMES);
        } else {
            self.free -= frames;
        }
    }
}

impl fmt::Debug for FrameAllocator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} free frames in {} chunks", self.free, self.chunks.len())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_frames_covered_in_full_are_added() {
        let mut chunks = vec![Chunk::USED; 1];
        let mut frames = FrameAllocator::new(&mut chunks);
        frames.add(PhysicalRange { start: 1, end: 4 * FRAME_SIZE - 1 });
        assert_eq!(frames.free_frames(), 2);
        assert_eq!(frames.allocate(0), Some(FRAME_SIZE));
        assert_eq!(frames.allocate(0), Some(2 * FRAME_SIZE));
        assert_eq!(frames.allocate(0), None);
    }

    #[test]
    #[should_panic(expected = "freed or taken twice")]
    fn a_frame_freed_twice_is_caught() {
        let mut chunks = vec![Chunk::USED; 1];
        let mut frames = FrameAllocator::new(&mut chunks);
        frames.add(PhysicalRange::new(0, CHUNK_SIZE));
        let frame = frames.allocate(3).unwrap();
        frames.free(frame, 3);
        frames.free(frame, 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u32),
        Free(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(0..12u32).prop_map(Step::Allocate), any::<prop::sample::Index>().prop_map(Step::Free)]
    }

    proptest! {
        /// Blocks are aligned, disjoint and within the added memory. Allocation succeeds whenever
        /// the model finds a block. Once all blocks are freed, every frame is free.
        #[test]
        fn blocks_are_what_they_should_be(
            start in 0..600_u64,
            len in 0..2000_u64,
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let range = PhysicalRange::new(start * FRAME_SIZE, len * FRAME_SIZE);
            let mut chunks = vec![Chunk::USED; FrameAllocator::chunks_for(&[range])];
            let mut frames = FrameAllocator::new(&mut chunks);
            frames.add(range);
            let mut model: BTreeSet<u64> = (start..start + len).collect();
            let mut blocks: Vec<(u64, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(order) => {
                        let size = 1u64 << order;
                        match frames.allocate(order) {
                            Some(address) => {
                                prop_assert_eq!(address % (size * FRAME_SIZE), 0);
                                for frame in (address / FRAME_SIZE..).take(size as usize) {
                                    prop_assert!(model.remove(&frame), "frame {} was not free", frame);
                                }
                                blocks.push((address, order));
                            }
                            None => {
                                let fits = |first: &u64| first.is_multiple_of(size) && model.range(*first..first + size).count() as u64 == size;
                                prop_assert!(!model.iter().any(fits), "a free block of order {} was not found", order);
                            }
                        }
                    }
                    Step::Free(index) if !blocks.is_empty() => {
                        let (address, order) = blocks.swap_remove(index.index(blocks.len()));
                        frames.free(address, order);
                        model.extend((address / FRAME_SIZE..).take(1 << order));
                    }
                    Step::Free(_) => {}
                }
                prop_assert_eq!(frames.free_frames(), model.len());
            }
            for (address, order) in blocks {
                frames.free(address, order);
            }
            prop_assert_eq!(frames.free_frames() as u64, len);
        }
    }
}
