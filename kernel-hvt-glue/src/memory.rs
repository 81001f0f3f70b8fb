//! Copies to and from guest memory. The guest may write the memory at the same time, so every
//! access is volatile, and no reference to guest memory ever exists.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use hvt_abi::Gpa;

/// Error: an address in the monitor's request is not mapped in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory at {0} is not mapped")]
pub struct AccessError(pub Gpa);

/// Readable guest memory.
pub trait ReadMemory {
    /// Copies guest memory at `gpa` to `to`, regardless of the guest's permissions.
    ///
    /// # Errors
    /// Returns [`AccessError`] with the first address that is not mapped. The bytes before it have
    /// been copied.
    fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), AccessError>;
}

/// Largest unit of one access.
type Word = [u8; 8];

/// Copies `to.len()` bytes out of guest memory.
///
/// # Safety
/// `from` must be valid for reads of `to.len()` bytes.
#[inline]
pub(crate) unsafe fn copy_out(from: *const u8, to: &mut [u8]) {
    let mut words = to.chunks_exact_mut(size_of::<Word>());
    let mut at = from;
    for word in &mut words {
        // SAFETY: within the bytes that the caller guarantees; `Word` has alignment 1.
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
/// `to` must be valid for writes of `from.len()` bytes.
#[inline]
pub(crate) unsafe fn copy_in(from: &[u8], to: *mut u8) {
    let (words, bytes) = from.as_chunks::<{ size_of::<Word>() }>();
    let mut at = to;
    for word in words {
        // SAFETY: within the bytes that the caller guarantees; `Word` has alignment 1.
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
/// `start` must be valid for writes of `len` bytes.
pub(crate) unsafe fn zero(start: *mut u8, len: usize) {
    let words = len / size_of::<Word>();
    for word in 0..words {
        // SAFETY: within the bytes that the caller guarantees; `Word` has alignment 1.
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
