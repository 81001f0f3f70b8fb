//! Parses the values of options.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{BackendChoice, User};
use crate::image::is_device_name;

/// Description of a valid value, for the error about an invalid value: "expected ..".
pub(super) type Expected = &'static str;

/// Description of a valid device name.
pub(super) const NAME: Expected = "1 to 67 letters and digits";

/// Splits `NAME=rest`. A text without a device name stays whole.
pub(super) fn split_name(text: &OsStr) -> (Option<&str>, &OsStr) {
    let bytes = text.as_bytes();
    let split = bytes.iter().position(|byte| *byte == b'=').map(|at| bytes.split_at(at));
    match split {
        Some((name, rest)) if is_device_name(name) => {
            (std::str::from_utf8(name).ok(), OsStr::from_bytes(rest.strip_prefix(b"=").unwrap_or(rest)))
        }
        _ => (None, text),
    }
}

/// Parses the name of a device.
pub(super) fn name(text: &OsStr) -> Result<String, Expected> {
    text.to_str().filter(|name| is_device_name(name.as_bytes())).map(str::to_owned).ok_or(NAME)
}

/// Parses a number of MB (2^20 bytes). Returns bytes.
pub(super) fn memory(text: &OsStr) -> Result<u64, Expected> {
    Ok(amount(text).ok_or("a number of MB")?.saturating_mul(1 << 20))
}

/// Parses a TCP port.
pub(super) fn port(text: &OsStr) -> Result<u16, Expected> {
    number(text).ok_or("a TCP port")
}

/// Parses the name of a backend.
pub(super) fn backend(text: &OsStr) -> Result<BackendChoice, Expected> {
    text.to_str().and_then(BackendChoice::from_name).ok_or("auto, kvm, process or redox")
}

/// Parses the path of a file.
pub(super) fn file(text: &OsStr) -> Result<PathBuf, Expected> {
    non_empty(text).ok_or("the path of a file")
}

/// Parses the path of a directory.
pub(super) fn directory(text: &OsStr) -> Result<PathBuf, Expected> {
    non_empty(text).ok_or("the path of a directory")
}

/// Parses the numbers of a user and a group.
pub(super) fn user(text: &OsStr) -> Result<User, Expected> {
    // The system calls that change users take the largest number as "no change".
    let id = |text: &str| number(OsStr::new(text)).filter(|id| *id != u32::MAX);
    let ids = text.to_str().and_then(|text| text.split_once(':'));
    ids.and_then(|(uid, gid)| Some(User { uid: id(uid)?, gid: id(gid)? })).ok_or("UID:GID, two numbers")
}

/// Parses a time: seconds, or a number with a unit.
pub(super) fn duration(text: &OsStr) -> Result<Duration, Expected> {
    const EXPECTED: Expected = "a time such as 30, 500ms, 10s, 5m or 1h";
    let text = text.to_str().ok_or(EXPECTED)?;
    let (digits, unit) = text.split_at(text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len()));
    let count: u64 = number(OsStr::new(digits)).ok_or(EXPECTED)?;
    let seconds = |each| count.checked_mul(each).map(Duration::from_secs);
    let time = match unit {
        "ms" => Some(Duration::from_millis(count)),
        "" | "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => None,
    };
    time.filter(|time| !time.is_zero()).ok_or(EXPECTED)
}

/// Parses a non-empty path.
pub(super) fn non_empty(path: &OsStr) -> Option<PathBuf> {
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// Parses decimal digits without a sign.
pub(super) fn number<T: std::str::FromStr>(text: &OsStr) -> Option<T> {
    digits(text)?.parse().ok()
}

/// Parses decimal digits. A number above 64 bits becomes `u64::MAX`: both are too large for every
/// option.
pub(super) fn amount(text: &OsStr) -> Option<u64> {
    digits(text).map(|digits| digits.parse().unwrap_or(u64::MAX))
}

fn digits(text: &OsStr) -> Option<&str> {
    text.to_str().filter(|text| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use hvt_abi::manifest::NAME_MAX;

    fn os(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn the_description_of_names_is_right() {
        assert_eq!(NAME, format!("1 to {NAME_MAX} letters and digits"));
    }

    #[test]
    fn names_stand_before_an_equals_sign() {
        let long = "x".repeat(NAME_MAX);
        for (text, name, rest) in [
            ("storage=disk.img", Some("storage"), "disk.img"),
            ("a=b=c", Some("a"), "b=c"),
            ("a=", Some("a"), ""),
            ("disk.img", None, "disk.img"),
            ("./a=b", None, "./a=b"),
            ("/a=b", None, "/a=b"),
            ("a_b=c", None, "a_b=c"),
            ("=c", None, "=c"),
            ("", None, ""),
            (&format!("{long}=y"), Some(&long), "y"),
            (&format!("{long}x=y"), None, &format!("{long}x=y")),
        ] {
            assert_eq!(split_name(os(text)), (name, os(rest)), "{text}");
        }
        let path = OsStr::from_bytes(b"a=\xff\xfe");
        assert_eq!(split_name(path), (Some("a"), OsStr::from_bytes(b"\xff\xfe")));
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in [("30", 30_000), ("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(duration(os(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in
            ["", "0", "0ms", "s", "-1", "1.5s", "1 s", "1d", "1hs", "18446744073709551615h", "99999999999999999999"]
        {
            assert!(duration(os(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn users_are_two_numbers() {
        assert_eq!(user(os("65534:0")), Ok(User { uid: 65534, gid: 0 }));
        for bad in ["", "1", "1:", ":1", "1:2:3", "root:root", "-1:1", "1:4294967295", "4294967296:1"] {
            assert!(user(os(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(memory(os("512")), Ok(512 << 20));
        for too_much in ["18446744073709551615", "18446744073709551616", "99999999999999999999999"] {
            assert_eq!((memory(os(too_much)), amount(os(too_much))), (Ok(u64::MAX), Some(u64::MAX)));
        }
        assert_eq!(amount(os("00512")), Some(512));
        for bad in ["", "-1", "+1", "1 ", "0x10", "1k", "١"] {
            assert!(memory(os(bad)).is_err() && amount(os(bad)).is_none(), "{bad}");
        }
    }
}
