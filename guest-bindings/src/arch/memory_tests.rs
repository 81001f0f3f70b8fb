//! Tests of the memory functions of the host's architecture.

#![expect(unsafe_code, reason = "instructions and tables of the CPU")]

use super::memory::{bcmp, memcmp, memcpy, memmove, memset, strlen};

/// Lengths around every threshold of the code, and several iterations of each loop.
fn lengths() -> impl Iterator<Item = usize> {
    (0..140).chain(1024 - 40..1024 + 40).chain([4096, 5003])
}

/// Pattern in which neighbouring bytes differ.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 167 + index / 251) as u8).collect()
}

#[test]
fn memmove_moves_in_every_overlap() {
    for len in lengths() {
        for distance in
            [-600, -64, -33, -32, -31, -17, -16, -15, -8, -3, -1, 0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 64, 600]
        {
            let source = 700_usize;
            let target = source.checked_add_signed(distance).unwrap();
            let mut bytes = pattern(source + len + 700);
            let mut expected = bytes.clone();
            expected.copy_within(source..source + len, target);
            let base = bytes.as_mut_ptr();
            // SAFETY: Both ranges lie inside `bytes`.
            let returned = unsafe { memmove(base.add(target), base.add(source), len) };
            assert_eq!(returned, base.wrapping_add(target));
            assert!(bytes == expected, "{len} bytes by {distance}");
        }
    }
}

#[test]
fn memcpy_copies_at_every_alignment() {
    let source = pattern(6000);
    for len in lengths() {
        for (from, to) in [(0, 0), (1, 0), (0, 1), (3, 7), (8, 15), (15, 8)] {
            let mut bytes = vec![0xaa; len + 64];
            // SAFETY: Both ranges lie inside their vectors.
            unsafe { memcpy(bytes.as_mut_ptr().add(to), source.as_ptr().add(from), len) };
            assert!(bytes[..to].iter().all(|&byte| byte == 0xaa));
            assert!(bytes[to..to + len] == source[from..from + len], "{len} bytes from {from} to {to}");
            assert!(bytes[to + len..].iter().all(|&byte| byte == 0xaa));
        }
    }
}

#[test]
fn memset_sets_the_range_and_no_more() {
    for len in lengths() {
        for start in [0, 1, 7, 15] {
            let mut bytes = vec![0xaa; len + 64];
            // SAFETY: The range lies inside `bytes`. C converts the value to a byte.
            let returned = unsafe { memset(bytes.as_mut_ptr().add(start), 0x15b, len) };
            assert_eq!(returned, bytes.as_mut_ptr().wrapping_add(start));
            assert!(bytes[start..start + len].iter().all(|&byte| byte == 0x5b), "{len} bytes at {start}");
            assert!(bytes[..start].iter().chain(&bytes[start + len..]).all(|&byte| byte == 0xaa));
        }
    }
}

#[test]
fn memcmp_finds_the_first_difference() {
    let left = pattern(6000);
    for len in lengths() {
        let mut right = left.clone();
        // SAFETY: Both ranges lie inside their vectors, here and below.
        let compare = |right: &[u8]| unsafe { memcmp(left.as_ptr(), right.as_ptr(), len) };
        // A difference after the range does not count.
        right[len] ^= 0xff;
        assert_eq!(compare(&right), 0, "{len} equal bytes");
        for at in (0..len).step_by(1 + len / 40).chain(len.checked_sub(1)) {
            let mut right = left.clone();
            right[at] ^= 0x80;
            if let Some(later) = right[at + 1..].first_mut() {
                *later ^= 0x80;
            }
            let sign = (i32::from(left[at]) - i32::from(right[at])).signum();
            assert_eq!(compare(&right).signum(), sign, "difference at {at} of {len}");
            // SAFETY: As above.
            assert_ne!(unsafe { bcmp(left.as_ptr(), right.as_ptr(), len) }, 0);
        }
    }
}

#[test]
fn strlen_counts_from_every_alignment() {
    for start in 0..32 {
        for len in (0..70).chain([1000]) {
            // A NUL directly before the string must not terminate it.
            let mut bytes = vec![0; start];
            bytes.resize(start + len, b'x');
            bytes.extend([0, b'y']);
            // SAFETY: The string ends with a NUL.
            assert_eq!(unsafe { strlen(bytes.as_ptr().add(start)) }, len);
        }
    }
}
