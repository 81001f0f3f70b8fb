//! What is said about a manifest or an ABI, in C and in JSON.

use std::fmt::Write;

use hvt_abi::manifest::VERSION;
use hvt_abi::note::Target;

use crate::image::{Abi, Device, DeviceKind};

/// The C source of the note that holds a manifest of these devices. It includes Solo5's `mft_abi.h`, whose macros give
/// the note its layout and its section.
#[must_use]
pub fn c_source(devices: &[Device]) -> String {
    let entries: String = (1..)
        .zip(devices)
        .map(|(handle, Device { name, kind })| {
            format!("        [{handle}] = {{ .name = \"{name}\", .type = MFT_DEV_{} }},\n", type_name(*kind))
        })
        .collect();
    format!(
        "/* Made from a manifest in JSON by hvt-elftool {version}: change that one. */

#define MFT_ENTRIES {count}
#include \"mft_abi.h\"

MFT1_NOTE_DECLARE_BEGIN
{{
    .version = MFT_VERSION,
    .entries = MFT_ENTRIES,
    .e = {{
        [0] = {{ .name = \"\", .type = MFT_RESERVED_FIRST }},
{entries}    }},
}}
MFT1_NOTE_DECLARE_END
",
        version = env!("CARGO_PKG_VERSION"),
        count = devices.len() + 1,
    )
}

/// A manifest of these devices in JSON, line by line as `solo5-elftool` prints it.
#[must_use]
pub fn manifest(devices: &[Device]) -> String {
    let mut json = format!("{{\n  \"type\": \"solo5.manifest\",\n  \"version\": {VERSION},\n  \"devices\": [\n");
    for (index, Device { name, kind }) in devices.iter().enumerate() {
        let comma = if index + 1 == devices.len() { "" } else { "," };
        // Writing to a `String` does not fail. A name needs no escapes: it is letters and digits.
        let _ = writeln!(json, "    {{ \"name\": \"{name}\", \"type\": \"{}\" }}{comma}", type_name(*kind));
    }
    json.push_str("  ]\n}\n");
    json
}

/// What a unikernel was built for in JSON, line by line as `solo5-elftool` prints it.
#[must_use]
pub fn abi(Abi { target, version }: Abi) -> String {
    let target = Target::from_u32(target).map_or("unknown", Target::name);
    format!("{{\n  \"type\": \"solo5.abi\",\n  \"target\": \"{target}\",\n  \"version\": {version}\n}}\n")
}

/// Solo5's name of a kind of device: `enum mft_type` without its `MFT_DEV_`.
fn type_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Block => "BLOCK_BASIC",
        DeviceKind::Net => "NET_BASIC",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elftool::devices;

    fn two() -> Vec<Device> {
        vec![
            Device { name: "service".into(), kind: DeviceKind::Net },
            Device { name: "storage0".into(), kind: DeviceKind::Block },
        ]
    }

    #[test]
    fn c_sources() {
        let expected = concat!(
            "/* Made from a manifest in JSON by hvt-elftool ",
            env!("CARGO_PKG_VERSION"),
            r#": change that one. */

#define MFT_ENTRIES 3
#include "mft_abi.h"

MFT1_NOTE_DECLARE_BEGIN
{
    .version = MFT_VERSION,
    .entries = MFT_ENTRIES,
    .e = {
        [0] = { .name = "", .type = MFT_RESERVED_FIRST },
        [1] = { .name = "service", .type = MFT_DEV_NET_BASIC },
        [2] = { .name = "storage0", .type = MFT_DEV_BLOCK_BASIC },
    },
}
MFT1_NOTE_DECLARE_END
"#
        );
        assert_eq!(c_source(&two()), expected);
        assert!(c_source(&[]).contains("#define MFT_ENTRIES 1\n") && !c_source(&[]).contains("[1]"));
    }

    #[test]
    fn a_manifest_is_read_as_it_is_shown() {
        let expected = r#"{
  "type": "solo5.manifest",
  "version": 1,
  "devices": [
    { "name": "service", "type": "NET_BASIC" },
    { "name": "storage0", "type": "BLOCK_BASIC" }
  ]
}
"#;
        assert_eq!(manifest(&two()), expected);
        for shown in [two(), Vec::new()] {
            assert_eq!(devices(manifest(&shown).as_bytes()).unwrap(), shown);
        }
    }

    #[test]
    fn abis() {
        let expected = "{\n  \"type\": \"solo5.abi\",\n  \"target\": \"hvt\",\n  \"version\": 2\n}\n";
        assert_eq!(abi(Abi { target: 1, version: 2 }), expected);
        assert!(abi(Abi { target: 7, version: 2 }).contains("\"target\": \"unknown\""));
    }
}
