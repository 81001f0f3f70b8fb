//! Manifests in JSON.

use std::fmt;

use hvt_abi::manifest::{MAX_ENTRIES, NAME_MAX, VERSION};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::image::{Device, DeviceKind, is_device_name};

/// Maximum number of devices: the first entry of a manifest is reserved.
const MAX_DEVICES: usize = MAX_ENTRIES - 1;

/// Parses a manifest in JSON. Returns its devices in the order of their handles.
///
/// # Errors
/// Returns [`SourceError`] if `json` is not valid JSON or not a manifest.
pub fn devices(json: &[u8]) -> Result<Vec<Device>, SourceError> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let Source { devices: Devices(devices), .. } = json.deserialize_map(Root)?;
    json.end()?;
    Ok(devices)
}

/// Error in a manifest's JSON, with its position. The message is one line: `LINE:COLUMN: ..`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {problem}")]
pub struct SourceError {
    /// Line number, starting at 1.
    pub line: usize,
    /// Byte in the line, starting at 1. The parser has read up to this byte; for a wrong value it
    /// is the last byte of the value.
    pub column: usize,
    /// Description of the error.
    pub problem: String,
}

impl From<serde_json::Error> for SourceError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let place = format!(" at line {line} column {column}");
        // Serde reports column 0 for an error at the start of a line.
        Self { line, column: column.max(1), problem: text.strip_suffix(&place).unwrap_or(&text).to_owned() }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    #[serde(rename = "type")]
    _kind: SourceKind,
    #[serde(rename = "version")]
    _version: SourceVersion,
    devices: Devices,
}

/// Whole manifest. A derived `Deserialize` alone would accept an array in place of the object.
struct Root;

impl<'de> Visitor<'de> for Root {
    type Value = Source;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest: { \"type\": \"solo5.manifest\", .. }")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Source, A::Error> {
        Source::deserialize(MapAccessDeserializer::new(object))
    }
}

#[derive(serde::Deserialize)]
enum SourceKind {
    #[serde(rename = "solo5.manifest")]
    Manifest,
}

/// Version field, which must be [`VERSION`].
struct SourceVersion;

impl<'de> Deserialize<'de> for SourceVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(Self)
    }
}

impl Visitor<'_> for SourceVersion {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}")
    }

    fn visit_u64<E: serde::de::Error>(self, version: u64) -> Result<Self, E> {
        match version == u64::from(VERSION) {
            true => Ok(self),
            false => Err(E::custom(format_args!("unsupported manifest version {version}: expected {VERSION}"))),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceDevice {
    name: Name,
    #[serde(rename = "type")]
    kind: Kind,
}

/// Valid device name.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
        match is_device_name(name.as_bytes()) {
            true => Ok(Name(name.into())),
            false => Err(E::custom(format_args!(
                "invalid device name '{name}': expected 1 to {NAME_MAX} letters and digits"
            ))),
        }
    }
}

#[derive(serde::Deserialize)]
enum Kind {
    #[serde(rename = "BLOCK_BASIC")]
    Block,
    #[serde(rename = "NET_BASIC")]
    Net,
}

/// Devices with distinct names, at most [`MAX_DEVICES`].
struct Devices(Vec<Device>);

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Array)
    }
}

/// Visitor for the array of devices.
struct Array;

impl<'de> Visitor<'de> for Array {
    type Value = Devices;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of devices")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Devices, A::Error> {
        let mut devices = Vec::new();
        while array.next_element_seed(Element(&mut devices))?.is_some() {}
        Ok(Devices(devices))
    }
}

/// Seed for the next element of the array of devices. It has access to the previous devices, so
/// that an error of the array is reported at the first device that causes it.
struct Element<'d>(&'d mut Vec<Device>);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a device: { \"name\": .., \"type\": .. }")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        let SourceDevice { name: Name(name), kind } = SourceDevice::deserialize(MapAccessDeserializer::new(object))?;
        if self.0.len() == MAX_DEVICES {
            // The same words as in Solo5, which users may search for.
            return Err(A::Error::custom(format_args!("too many entries, maximum {MAX_DEVICES}")));
        }
        if self.0.iter().any(|device| device.name == name) {
            return Err(A::Error::custom(format_args!("duplicate device name '{name}'")));
        }
        let kind = match kind {
            Kind::Block => DeviceKind::Block,
            Kind::Net => DeviceKind::Net,
        };
        self.0.push(Device { name, kind });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_devices(devices: &str) -> String {
        format!("{{\"type\":\"solo5.manifest\",\"version\":1,\"devices\":[\n{devices}\n]}}")
    }

    fn error(json: &str) -> String {
        devices(json.as_bytes()).expect_err(json).to_string()
    }

    #[test]
    fn reads_devices_in_order() {
        let json = with_devices(r#"{"name":"b","type":"NET_BASIC"}, {"type":"BLOCK_BASIC","name":"a1"}"#);
        let device = |name: &str, kind| Device { name: name.into(), kind };
        let expected = [device("b", DeviceKind::Net), device("a1", DeviceKind::Block)];
        assert_eq!(devices(json.as_bytes()).unwrap(), expected);
        assert_eq!(devices(with_devices("").as_bytes()).unwrap(), []);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let long = "x".repeat(NAME_MAX + 1);
        for (json, message) in [
            ("", "1:1: EOF while parsing a value"),
            ("{", "1:1: EOF while parsing an object"),
            ("{\"type\":\n  \"solo5.manifest\",\n}", "3:1: trailing comma"),
            ("[]", "1:1: invalid type: sequence, expected a manifest"),
            ("{}", "1:2: missing field `type`"),
            (r#"{"type":"solo5.abi"}"#, "1:19: unknown variant `solo5.abi`, expected `solo5.manifest`"),
            ("{\"type\":\"solo5.manifest\",\"version\":2\n}", "1:36: unsupported manifest version 2: expected 1"),
            (r#"{"type":"solo5.manifest","version":"1"}"#, "1:38: invalid type: string \"1\", expected 1"),
            (r#"{"type":"solo5.manifest","version":1}"#, "1:37: missing field `devices`"),
            (
                "{\"type\":\"solo5.manifest\",\"version\":1,\n\"devices\":{}}",
                "2:10: invalid type: map, expected an array of devices",
            ),
            ("{\"type\":\"solo5.manifest\",\n\"color\":1}", "2:7: unknown field `color`"),
            ("{\"type\":\"solo5.manifest\",\n\"type\":1}", "2:6: duplicate field `type`"),
            (&format!("{} x", with_devices("")), "3:4: trailing characters"),
            (&with_devices("[\"a\",\"NET_BASIC\"]"), "2:1: invalid type: sequence, expected a device"),
            (&with_devices("7"), "2:1: invalid type: integer `7`, expected a device"),
            (&with_devices(r#"{"name":"a"}"#), "2:12: missing field `type`"),
            (&with_devices(r#"{"type":"NET_BASIC"}"#), "2:20: missing field `name`"),
            (
                &with_devices(r#"{"name":"a","type":"NET"}"#),
                "2:24: unknown variant `NET`, expected `BLOCK_BASIC` or `NET_BASIC`",
            ),
            (&with_devices(r#"{"name":"","type":"NET_BASIC"}"#), "2:10: invalid device name ''"),
            (&with_devices(r#"{"name":"a_b","type":"NET_BASIC"}"#), "2:13: invalid device name 'a_b'"),
            (&with_devices(r#"{"name":"é","type":"NET_BASIC"}"#), "2:12: invalid device name 'é'"),
            (&with_devices(&format!(r#"{{"name":"{long}","type":"NET_BASIC"}}"#)), "1 to 67 letters and digits"),
            (
                &with_devices("{\"name\":\"a\",\"type\":\"NET_BASIC\"},\n{\"name\":\"a\",\"type\":\"BLOCK_BASIC\"}"),
                "3:33: duplicate device name 'a'",
            ),
        ] {
            let error = error(json);
            assert!(error.contains(message) && !error.contains(" at line "), "{json}: {error}");
        }
        assert!(devices(b"\"\xff\"").is_err());
    }

    #[test]
    fn there_are_63_devices_at_most() {
        let many = |count| {
            let devices: Vec<_> = (0..count).map(|n| format!("{{\"name\":\"d{n}\",\"type\":\"NET_BASIC\"}}")).collect();
            with_devices(&devices.join(",\n"))
        };
        assert_eq!(devices(many(63).as_bytes()).unwrap().len(), 63);
        assert_eq!(error(&many(64)), "65:33: too many entries, maximum 63");
        assert_eq!(error(&many(500)), error(&many(64)));
    }

    proptest! {
        #[test]
        fn never_panics(json in "[\\[\\]{}\":,a-z0-9 \\n\u{e9}]{0,60}") {
            let _ = devices(json.as_bytes());
        }

        #[test]
        fn what_it_accepts_is_a_manifest(names in prop::collection::vec("[a-zA-Z0-9_]{0,3}", 0..70)) {
            let list: Vec<_> = names.iter().map(|name| format!("{{\"name\":\"{name}\",\"type\":\"NET_BASIC\"}}")).collect();
            let distinct: std::collections::HashSet<_> = names.iter().collect();
            let good = names.len() <= 63 && distinct.len() == names.len()
                && names.iter().all(|name| !name.is_empty() && !name.contains('_'));
            prop_assert_eq!(devices(with_devices(&list.join(",")).as_bytes()).is_ok(), good);
        }
    }
}
