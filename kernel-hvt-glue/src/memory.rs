//! Copies to and from guest memory, which the guest may be writing at the same time: every access is volatile, and no
//! reference to such memory ever exists.

use hvt_abi::Gpa;

/// The monitor named guest memory that the guest does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory at {0} is not mapped")]
pub struct AccessError(pub Gpa);

/// Guest memory that can be read.
pub trait ReadMemory {
    /// Copies guest memory at `gpa` out, whatever the guest's permissions there.
    ///
    /// # Errors
    /// The first address that is not mapped; the bytes before it have been copied.
    fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), AccessError>;
}

/// Bytes moved by one access where it can be.
type Word = [u8; 8];

/// Copies `to.len()` bytes out of guest memory.
///
/// # Safety
/// That many bytes at `from` are valid for reads.
#[inline]
pub(crate) unsafe fn copy_out(from: *const u8, to: &mut [u8]) {
    let mut words = to.chunks_exact_mut(size_of::<Word>());
    let mut at = from;
    for word in &mut words {
        // SAFETY: within the bytes that the caller vouches for; `Word` has alignment 1.
        word.copy_from_slice(&unsafe { at.cast::<Word>().read_volatile() });
        at = at.wrapping_add(size_of::<Word>());
    }
    for byte in words.into_remainder() {
        // SAFETY: as above.
        *byte = unsafe { at.read_volatile() };
        at = at.wrapping_add(1);
    }
}

/// Copies `from` into guest memory.
///
/// # Safety
/// `from.len()` bytes at `to` are valid for writes.
#[inline]
pub(crate) unsafe fn copy_in(from: &[u8], to: *mut u8) {
    let (words, bytes) = from.as_chunks::<{ size_of::<Word>() }>();
    let mut at = to;
    for word in words {
        // SAFETY: within the bytes that the caller vouches for; `Word` has alignment 1.
        unsafe { at.cast::<Word>().write_volatile(*word) };
        at = at.wrapping_add(size_of::<Word>());
    }
    for byte in bytes {
        // SAFETY: as above.
        unsafe { at.write_volatile(*byte) };
        at = at.wrapping_add(1);
    }
}

/// Zeroes guest memory.
///
/// # Safety
/// `len` bytes at `start` are valid for writes.
pub(crate) unsafe fn zero(start: *mut u8, len: usize) {
    let words = len / size_of::<Word>();
    for word in 0..words {
        // SAFETY: within the bytes that the caller vouches for; `Word` has alignment 1.
        unsafe { start.cast::<Word>().add(word).write_volatile([0; size_of::<Word>()]) };
    }
    for byte in words * size_of::<Word>()..len {
        // SAFETY: as above.
        unsafe { start.add(byte).write_volatile(0) };
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn exactly_the_bytes_asked_for_are_touched() {
        let pattern: Vec<u8> = (1..=64).collect();
        for offset in 0..9 {
            for len in 0..40 {
                let mut memory = [0xff_u8; 64];
                let mut back = [0; 40];
                let start = memory[offset..].as_mut_ptr();
                // SAFETY: `offset + len` is below 64.
                unsafe { copy_in(&pattern[..len], start) };
                // SAFETY: as above.
                unsafe { copy_out(start, &mut back[..len]) };
                assert_eq!(back[..len], pattern[..len]);
                assert!(memory[..offset].iter().chain(&memory[offset + len..]).all(|&byte| byte == 0xff));
                // SAFETY: as above.
                unsafe { zero(memory[offset..].as_mut_ptr(), len) };
                assert_eq!(memory.iter().filter(|&&byte| byte == 0).count(), len);
                assert!(memory[..offset].iter().chain(&memory[offset + len..]).all(|&byte| byte == 0xff));
            }
        }
    }
}
