//! Contents of block devices.

/// Contents of a device as a function of the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Zeros.
    Zeros,
    /// Bytes that differ from block to block and from seed to seed.
    Pattern(u64),
}

impl Contents {
    /// Returns the eight bytes at offset `index` times 8.
    const fn word(self, index: u64) -> [u8; 8] {
        match self {
            Self::Zeros => [0; 8],
            // Constants of the generator of MMIX (Knuth, The Art of Computer Programming, volume 2,
            // 3.3.4).
            Self::Pattern(seed) => index
                .wrapping_add(seed << 48)
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
                .to_le_bytes(),
        }
    }

    /// Fills `buffer` with the contents at `offset`. Length and offset must be multiples of 8
    /// bytes.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        for (index, bytes) in (offset / 8..).zip(buffer.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&self.word(index));
        }
    }

    /// Returns `true` if `buffer` equals the contents at `offset`. Length and offset must be
    /// multiples of 8 bytes.
    #[must_use]
    pub fn matches(self, offset: u64, buffer: &[u8]) -> bool {
        (offset / 8..).zip(buffer.chunks_exact(8)).all(|(index, bytes)| bytes == self.word(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filled_contents_match() {
        let mut block = [0; 512];
        assert!(Contents::Zeros.matches(4096, &block));
        Contents::Pattern(3).fill(4096, &mut block);
        assert!(Contents::Pattern(3).matches(4096, &block));
        assert!(!Contents::Pattern(3).matches(4608, &block));
        assert!(!Contents::Pattern(4).matches(4096, &block));
        block[511] ^= 1;
        assert!(!Contents::Pattern(3).matches(4096, &block));
    }
}
