//! Command line of network devices: options, help, and the mapping to devices of the manifest.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::ValueHint;

use super::{Mismatch, Names};
use crate::cli::option::{Argument, Form, Group, Row, Systems};
use crate::cli::value::{Expected, file, non_empty, number};
use crate::config::{DeviceOptions, Forward, HostLoopback, Named, NetRing, NetSource};
use crate::image::{DeviceKind, Manifest};

/// Options of network devices.
pub(in crate::cli) static OPTIONS: &[Row] = &[
    Row::new(
        Group::Net,
        "net",
        Argument::Device("[NAME=]SOURCE", |options, net| {
            options.nets.push(net.try_map(source)?);
            Ok(())
        }),
        "Connect a network device to SOURCE",
    )
    .forms(&[
        Form::word(
            "user",
            "user-mode networking through the sockets of this process; DHCP assigns 10.0.2.15, and 10.0.2.2 is 127.0.0.1 of this host",
        )
        .on(Systems::LINUX),
        Form::prefixed("unix:", "PATH", "a second tender with the same PATH, over a Unix socket").on(Systems::LINUX),
        Form::word("none", "no peer; sent frames are dropped").on(Systems::LINUX),
        Form::prefixed("pcap:", "FILE", "no peer; sent frames are recorded in FILE (`tcpdump -r FILE`)")
            .on(Systems::LINUX),
        Form::prefixed("@", "FD", "the open descriptor of a tap, a macvtap or a datagram socket").on(Systems::LINUX),
        Form::prefixed("", "INTERFACE", "a tap or macvtap interface; on Redox the path of a network scheme"),
    ]),
    Row::new(
        Group::Net,
        "forward",
        Argument::Device("[NAME=]tcp:[ADDRESS:]HOSTPORT:GUESTPORT", |options, text| {
            options.forwards.push(text.try_map(forward)?);
            Ok(())
        }),
        "Forward a TCP port of ADDRESS (default: 127.0.0.1) to a port of the guest; needs `--net user`. With \
         HOSTPORT 0 the host chooses a port and the tender logs it",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Net,
        "host-loopback",
        Argument::Device("[NAME=]PORTS", |options, ports| {
            options.loopbacks.push(ports.try_map(host_loopback)?);
            Ok(())
        }),
        "Let the guest connect to these ports of 127.0.0.1 of this host, through 10.0.2.2; needs `--net user`. PORTS is \
         `all` or a list such as `80,443`",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Net,
        "net-allow",
        Argument::Device("[NAME=]ADDRESS", |options, text| {
            options.opened.push(text.try_map(address)?);
            Ok(())
        }),
        "Let the guest reach a link-local or cloud metadata address, such as 169.254.169.254; needs `--net user`",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Net,
        "net-pcap",
        Argument::Device("[NAME=]FILE", |options, path| {
            options.recordings.push(path.try_map(file)?);
            Ok(())
        }),
        "Record the frames of a network device in FILE (`tcpdump -r FILE`)",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::FilePath),
    Row::new(
        Group::Net,
        "net-mac",
        Argument::Device("[NAME=]ADDRESS", |options, text| {
            options.macs.push(text.try_map(mac)?);
            Ok(())
        }),
        "Hardware address of a network device (default: random)",
    ),
    Row::new(
        Group::Net,
        "net-ring",
        Argument::Value("WHEN", |config, text| {
            config.net_ring = ring(text)?;
            Ok(())
        }),
        "Offer the guest a transmit ring in shared memory, which saves one exit per frame (default: `auto`)",
    )
    .forms(&[
        Form::word("auto", "on KVM, if a second CPU can serve the ring"),
        Form::word("on", "on every backend, if the network devices support it"),
        Form::word("off", "never"),
    ])
    .on(Systems::LINUX),
];

/// Parses the source of a device's frames.
fn source(text: &OsStr) -> Result<NetSource, Expected> {
    match text.as_bytes() {
        [] => Err("a network interface"),
        b"none" => Ok(NetSource::None),
        b"user" => Ok(NetSource::User),
        [b'u', b'n', b'i', b'x', b':', path @ ..] => {
            non_empty(OsStr::from_bytes(path)).map(NetSource::Unix).ok_or("unix: and the path of a socket")
        }
        [b'p', b'c', b'a', b'p', b':', path @ ..] => {
            non_empty(OsStr::from_bytes(path)).map(NetSource::Pcap).ok_or("pcap: and the path of a file")
        }
        [b'@', fd @ ..] => number(OsStr::from_bytes(fd))
            .and_then(|fd: u32| i32::try_from(fd).ok())
            .map(NetSource::Descriptor)
            .ok_or("@ and the number of an open descriptor"),
        _ => Ok(NetSource::Interface(text.to_owned())),
    }
}

/// Parses a host port, optionally with a host address (default: 127.0.0.1), and a guest port.
fn forward(text: &OsStr) -> Result<Forward, Expected> {
    const EXPECTED: Expected = "tcp:HOSTPORT:GUESTPORT or tcp:ADDRESS:HOSTPORT:GUESTPORT";
    let rest = text.to_str().and_then(|text| text.strip_prefix("tcp:")).ok_or(EXPECTED)?;
    let (host, guest) = rest.rsplit_once(':').ok_or(EXPECTED)?;
    let guest = number(OsStr::new(guest)).filter(|port| *port != 0).ok_or(EXPECTED)?;
    match number(OsStr::new(host)) {
        Some(port) => Ok(Forward::tcp(port, guest)),
        None => host.parse().map(|host| Forward { host, guest }).map_err(|_| EXPECTED),
    }
}

/// Parses ports of the host's loopback interface.
fn host_loopback(text: &OsStr) -> Result<HostLoopback, Expected> {
    const EXPECTED: Expected = "all, or TCP and UDP ports such as 5432 or 80,443";
    let text = text.to_str().ok_or(EXPECTED)?;
    if text == "all" {
        return Ok(HostLoopback::All);
    }
    let ports = text.split(',').map(|port| number(OsStr::new(port)).filter(|port| *port != 0));
    ports.collect::<Option<_>>().map(HostLoopback::Ports).ok_or(EXPECTED)
}

/// Parses an IPv4 address.
fn address(text: &OsStr) -> Result<Ipv4Addr, Expected> {
    text.to_str().and_then(|text| text.parse().ok()).ok_or("an IPv4 address such as 169.254.169.254")
}

/// Parses a unicast hardware address: six bytes in hexadecimal, separated by colons.
fn mac(text: &OsStr) -> Result<[u8; 6], Expected> {
    const EXPECTED: Expected = "a hardware address such as 02:00:00:00:00:01";
    let mut mac = [0; 6];
    let mut parts = text.to_str().ok_or(EXPECTED)?.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len())).ok_or(EXPECTED)?;
        let digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or(EXPECTED)?;
    }
    match (parts.next(), mac[0] & 1) {
        (Some(_), _) => Err(EXPECTED),
        (None, 1) => Err("the hardware address of one device, whose first byte is even"),
        (None, _) if mac == [0; 6] => Err("a hardware address that is not all zero"),
        (None, _) => Ok(mac),
    }
}

fn ring(text: &OsStr) -> Result<NetRing, Expected> {
    text.to_str().and_then(NetRing::from_name).ok_or("auto, on or off")
}

/// Network device requested by the user.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct NetPlan {
    /// Name in the manifest.
    pub(in crate::cli) name: String,
    pub(in crate::cli) source: NetSource,
    pub(in crate::cli) mac: Option<[u8; 6]>,
    pub(in crate::cli) user: UserOptions,
    /// File that records the device's frames.
    pub(in crate::cli) recording: Option<PathBuf>,
}

/// Options of user-mode networking.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct UserOptions {
    pub(in crate::cli) forwards: Vec<Forward>,
    pub(in crate::cli) loopback: HostLoopback,
    pub(in crate::cli) opened: Vec<Ipv4Addr>,
}

/// Returns the requested network devices, with their names in the manifest.
pub(super) fn devices(options: &DeviceOptions, manifest: &Manifest) -> Result<Vec<NetPlan>, Mismatch> {
    let names = Names { manifest, kind: DeviceKind::Net };
    let plan = |option: &Named<NetSource>| {
        let name = names.of(option, "--net")?;
        let (source, recording) = match option.value.clone() {
            NetSource::Pcap(path) => (NetSource::None, Some(path)),
            source => (source, None),
        };
        Ok(NetPlan { name, source, mac: None, user: UserOptions::default(), recording })
    };
    options.nets.iter().map(plan).collect()
}

/// Applies the options that modify network devices.
pub(super) fn describe(nets: &mut [NetPlan], options: &DeviceOptions, manifest: &Manifest) -> Result<(), Mismatch> {
    let names = Names { manifest, kind: DeviceKind::Net };
    for mac in &options.macs {
        names.find(nets, mac, "--net-mac")?.mac = Some(mac.value);
    }
    for recording in &options.recordings {
        names.find(nets, recording, "--net-pcap")?.recording = Some(recording.value.clone());
    }
    for forward in &options.forwards {
        names.find(nets, forward, "--forward")?.user("--forward")?.forwards.push(forward.value);
    }
    for loopback in &options.loopbacks {
        let user = names.find(nets, loopback, "--host-loopback")?.user("--host-loopback")?;
        user.loopback = std::mem::take(&mut user.loopback).and(loopback.value.clone());
    }
    for address in &options.opened {
        names.find(nets, address, "--net-allow")?.user("--net-allow")?.opened.push(address.value);
    }
    Ok(())
}

impl NetPlan {
    /// Returns the options of the device's user-mode networking. `option` names the option that
    /// needs them.
    fn user(&mut self, option: &'static str) -> Result<&mut UserOptions, Mismatch> {
        match self.source {
            NetSource::User => Ok(&mut self.user),
            _ => Err(Mismatch::NotUser { option, name: self.name.clone() }),
        }
    }
}

impl AsRef<str> for NetPlan {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(text: &str) -> &OsStr {
        OsStr::new(text)
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
        assert_eq!(source(os("tap0")), Ok(NetSource::Interface("tap0".into())));
        assert_eq!(source(os("@3")), Ok(NetSource::Descriptor(3)));
        assert_eq!(source(os("@2147483647")), Ok(NetSource::Descriptor(i32::MAX)));
        assert_eq!(source(os("none")), Ok(NetSource::None));
        assert_eq!(source(os("pcap:a b:c")), Ok(NetSource::Pcap("a b:c".into())));
        assert_eq!(source(os("unix:/run/a b")), Ok(NetSource::Unix("/run/a b".into())));
        for bad in ["", "unix:", "pcap:", "@", "@-1", "@+3", "@2147483648", "@3x", "@ 3"] {
            assert!(source(os(bad)).is_err(), "{bad}");
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

    /// The first form that matches a value decides which operating systems accept the value.
    #[test]
    fn every_source_has_a_form() {
        for (text, pattern) in [
            ("user", "user"),
            ("users", "INTERFACE"),
            ("unix:/x", "unix:PATH"),
            ("none", "none"),
            ("pcap:x", "pcap:FILE"),
            ("@3", "@FD"),
            ("tap0", "INTERFACE"),
        ] {
            let form = OPTIONS[0].form_of(os(text)).expect(text);
            assert_eq!(form.pattern(), pattern);
            assert_eq!(matches!(source(os(text)), Ok(NetSource::Interface(_))), pattern == "INTERFACE", "{text}");
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
}
