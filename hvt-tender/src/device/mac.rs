//! Hardware addresses of network devices.

#![expect(unsafe_code, reason = "the system call getrandom")]

use std::io;

/// Returns a random hardware address: locally administered, unicast (IEEE 802, bits 1 and 0 of the
/// first byte).
pub(crate) fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    // SAFETY: the call writes at most `mac.len()` bytes to `mac`.
    let got = unsafe { libc::getrandom(mac.as_mut_ptr().cast(), mac.len(), 0) };
    if usize::try_from(got) != Ok(mac.len()) {
        return Err(io::Error::last_os_error());
    }
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_are_local_and_unicast() {
        let (first, second) = (random_mac().unwrap(), random_mac().unwrap());
        assert_eq!((first[0] & 3, second[0] & 3), (2, 2));
        assert_ne!(first, second);
    }
}
