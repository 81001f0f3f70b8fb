//! The values of options.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{BackendChoice, Forward, HostLoopback, NetRing, NetSource, User};
use crate::image::is_device_name;

/// Reads a value; what it should have been, where it is not that.
pub(super) type Read<T> = fn(&OsStr) -> Result<T, &'static str>;

/// `NAME=rest` and `rest`.
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

/// The name of a device.
pub(super) fn name(text: &OsStr) -> Result<String, &'static str> {
    text.to_str()
        .filter(|name| is_device_name(name.as_bytes()))
        .map(str::to_owned)
        .ok_or("the name of a device: those are letters and digits")
}

/// Bytes of memory, given in MB of 2^20 bytes.
pub(super) fn memory(text: &OsStr) -> Result<u64, &'static str> {
    Ok(amount(text).ok_or("a number of MB")?.saturating_mul(1 << 20))
}

/// A TCP port.
pub(super) fn port(text: &OsStr) -> Result<u16, &'static str> {
    number(text).ok_or("a TCP port")
}

/// The name of a backend.
pub(super) fn backend(text: &OsStr) -> Result<BackendChoice, &'static str> {
    text.to_str().and_then(BackendChoice::from_name).ok_or("a backend: those are auto, kvm, process and redox")
}

/// Whether there is a ring.
pub(super) fn net_ring(text: &OsStr) -> Result<NetRing, &'static str> {
    text.to_str().and_then(NetRing::from_name).ok_or("'auto', 'on' or 'off'")
}

/// An interface, `@` and the number of a descriptor, or a network of another kind.
pub(super) fn net_source(text: &OsStr) -> Result<NetSource, &'static str> {
    match text.as_bytes() {
        [] => Err("a network interface"),
        b"none" => Ok(NetSource::None),
        b"user" => Ok(NetSource::User),
        [b'u', b'n', b'i', b'x', b':', path @ ..] => {
            file(path).map(NetSource::Unix).ok_or("unix: and the path of a socket")
        }
        [b'p', b'c', b'a', b'p', b':', path @ ..] => {
            file(path).map(NetSource::Pcap).ok_or("pcap: and the path of a file")
        }
        [b'@', fd @ ..] => number(OsStr::from_bytes(fd))
            .and_then(|fd: u32| i32::try_from(fd).ok())
            .map(NetSource::Descriptor)
            .ok_or("@ and the number of an open descriptor"),
        _ => Ok(NetSource::Interface(text.to_owned())),
    }
}

/// A port of the host, of its loopback unless an address stands before it, and one of the guest.
pub(super) fn forward(text: &OsStr) -> Result<Forward, &'static str> {
    const EXPECTED: &str = "a way to the guest such as tcp:8080:80, from port to port, or tcp:192.0.2.1:8080:80";
    let rest = text.to_str().and_then(|text| text.strip_prefix("tcp:")).ok_or(EXPECTED)?;
    let (host, guest) = rest.rsplit_once(':').ok_or(EXPECTED)?;
    let guest = number(OsStr::new(guest)).filter(|port| *port != 0).ok_or(EXPECTED)?;
    match number(OsStr::new(host)) {
        Some(port) => Ok(Forward::tcp(port, guest)),
        None => host.parse().map(|host| Forward { host, guest }).map_err(|_| EXPECTED),
    }
}

/// Ports of the host's loopback.
pub(super) fn host_loopback(text: &OsStr) -> Result<HostLoopback, &'static str> {
    const EXPECTED: &str = "all, or TCP and UDP ports such as 5432 or 80,443";
    let text = text.to_str().ok_or(EXPECTED)?;
    if text == "all" {
        return Ok(HostLoopback::All);
    }
    let ports = text.split(',').map(|port| number(OsStr::new(port)).filter(|port| *port != 0));
    ports.collect::<Option<_>>().map(HostLoopback::Ports).ok_or(EXPECTED)
}

/// An IPv4 address.
pub(super) fn address(text: &OsStr) -> Result<Ipv4Addr, &'static str> {
    text.to_str().and_then(|text| text.parse().ok()).ok_or("an IPv4 address such as 169.254.169.254")
}

/// A hardware address of one device: six bytes in hexadecimal, colons between.
pub(super) fn mac(text: &OsStr) -> Result<[u8; 6], &'static str> {
    const EXPECTED: &str = "a hardware address such as 02:00:00:00:00:01";
    let mut mac = [0; 6];
    let mut parts = text.to_str().ok_or(EXPECTED)?.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or(EXPECTED)?;
        let digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or(EXPECTED)?;
    }
    match (parts.next(), mac[0] & 1) {
        (Some(_), _) => Err(EXPECTED),
        (None, 1) => Err("the hardware address of one device: it is a group's (its first byte is odd)"),
        (None, _) if mac == [0; 6] => Err("the hardware address of a device: it is all zero"),
        (None, _) => Ok(mac),
    }
}

/// Where a file or block device lies.
pub(super) fn path(text: &OsStr) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("the path of a file or block device") } else { Ok(PathBuf::from(text)) }
}

/// Where a recording goes.
pub(super) fn recording(text: &OsStr) -> Result<PathBuf, &'static str> {
    file(text.as_bytes()).ok_or("the path of a file")
}

/// Where a directory lies.
pub(super) fn directory(text: &OsStr) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("the path of a directory") } else { Ok(PathBuf::from(text)) }
}

/// A user and a group, by number.
pub(super) fn user(text: &OsStr) -> Result<User, &'static str> {
    // The largest number means none to the calls that change users.
    let id = |text: &str| number(OsStr::new(text)).filter(|id| *id != u32::MAX);
    let ids = text.to_str().and_then(|text| text.split_once(':'));
    ids.and_then(|(uid, gid)| Some(User { uid: id(uid)?, gid: id(gid)? })).ok_or("UID:GID, two numbers")
}

/// A block size in bytes. Which ones there are is not looked at here.
pub(super) fn block_size(text: &OsStr) -> Result<u64, &'static str> {
    amount(text).ok_or("a number of bytes")
}

/// A time: seconds, or a number with its unit.
pub(super) fn duration(text: &OsStr) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "a time such as 30, 500ms, 10s, 5m or 1h";
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

/// Where a file lies.
fn file(path: &[u8]) -> Option<PathBuf> {
    (!path.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(path)))
}

/// Decimal digits and nothing else.
fn number<T: std::str::FromStr>(text: &OsStr) -> Option<T> {
    digits(text)?.parse().ok()
}

/// Likewise. What does not fit in 64 bits is too much in any case, and so is the largest number that does.
fn amount(text: &OsStr) -> Option<u64> {
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
    fn hardware_addresses() {
        assert_eq!(mac(os("02:00:5e:10:Ff:0a")), Ok([2, 0, 0x5e, 0x10, 0xff, 0xa]));
        assert_eq!(mac(os("2:0:0:0:0:1")), Ok([2, 0, 0, 0, 0, 1]));
        for bad in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:01:",
            "02:00:00:00:00:01:02",
            "02:00:00:00:00:001",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:+1",
            "02-00-00-00-00-01",
            "020000000001",
            "02:00::00:00:01",
            "00:00:00:00:00:00",
            "01:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "02:00:00:00:00:é",
        ] {
            assert!(mac(os(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_of_frames() {
        assert_eq!(net_source(os("tap0")), Ok(NetSource::Interface("tap0".into())));
        assert_eq!(net_source(os("@3")), Ok(NetSource::Descriptor(3)));
        assert_eq!(net_source(os("@2147483647")), Ok(NetSource::Descriptor(i32::MAX)));
        assert_eq!(net_source(os("none")), Ok(NetSource::None));
        assert_eq!(net_source(os("pcap:a b:c")), Ok(NetSource::Pcap("a b:c".into())));
        assert_eq!(net_source(os("unix:/run/a b")), Ok(NetSource::Unix("/run/a b".into())));
        for bad in ["", "unix:", "pcap:", "@", "@-1", "@+3", "@2147483648", "@3x", "@ 3"] {
            assert!(net_source(os(bad)).is_err(), "{bad}");
        }
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
    fn ways_to_the_guest() {
        for (text, host, guest) in [
            ("tcp:8080:80", "127.0.0.1:8080", 80),
            ("tcp:0:65535", "127.0.0.1:0", 65535),
            ("tcp:0.0.0.0:8080:80", "0.0.0.0:8080", 80),
            ("tcp:[::1]:8080:80", "[::1]:8080", 80),
        ] {
            assert_eq!(forward(os(text)), Ok(Forward { host: host.parse().unwrap(), guest }), "{text}");
        }
        for bad in [
            "",
            "tcp",
            "tcp:",
            "tcp:80",
            "8080:80",
            "udp:53:53",
            "tcp:8080:0",
            "tcp:65536:80",
            "tcp:8080:65536",
            "tcp:localhost:8080:80",
            "tcp:::1:8080:80",
            "tcp::80:80",
            "tcp:+1:80",
        ] {
            assert!(forward(os(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_of_the_loopback() {
        let ports = |ports: &[u16]| HostLoopback::Ports(ports.iter().copied().collect());
        for (text, loopback) in
            [("all", HostLoopback::All), ("80", ports(&[80])), ("443,80,65535", ports(&[80, 443, 65535]))]
        {
            assert_eq!(host_loopback(os(text)), Ok(loopback), "{text}");
        }
        for bad in ["", "none", "0", "80,", ",80", "80,,443", "65536", "80 ", "80-90", "all,80", "+80", "tcp:80"] {
            assert!(host_loopback(os(bad)).is_err(), "{bad}");
        }
        assert!(host_loopback(OsStr::from_bytes(b"\xff")).is_err());
    }

    #[test]
    fn addresses_have_four_numbers() {
        assert_eq!(address(os("169.254.169.254")), Ok(Ipv4Addr::new(169, 254, 169, 254)));
        for bad in ["", "169.254.169", "169.254.169.254/16", "localhost", "::1", "169.254.169.256"] {
            assert!(address(os(bad)).is_err(), "{bad}");
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
            assert_eq!((memory(os(too_much)), block_size(os(too_much))), (Ok(u64::MAX), Ok(u64::MAX)));
        }
        assert_eq!(block_size(os("00512")), Ok(512));
        for bad in ["", "-1", "+1", "1 ", "0x10", "1k", "١"] {
            assert!(memory(os(bad)).is_err() && block_size(os(bad)).is_err(), "{bad}");
        }
    }
}
