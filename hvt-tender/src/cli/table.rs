//! Table of the options. The parser, `--help`, the man page, the completions, the Markdown table of
//! options and the errors for options of another operating system are generated from its rows.
//!
//! The rows of devices are in modules under [`devices`](super::devices).

use clap::ValueHint;

use super::devices::{block, net};
use super::option::{Argument, Form, Group, Row, Systems};
use super::value;

/// Returns all rows, in the order of `--help`.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    [GUEST, net::OPTIONS, block::OPTIONS, OTHERS].into_iter().flatten()
}

/// Returns the row with this name.
pub(super) fn by_long(long: &[u8]) -> Option<&'static Row> {
    rows().find(|row| row.long.as_bytes() == long)
}

/// Returns the row with this letter.
pub(super) fn by_short(letter: u8) -> Option<&'static Row> {
    rows().find(|row| row.short == Some(char::from(letter)))
}

static GUEST: &[Row] = &[
    Row::new(
        Group::Guest,
        "mem",
        Argument::Value("MB", |config, text| {
            config.memory = value::memory(text)?;
            Ok(())
        }),
        "Size of guest memory in MB, 2 to 4096 (default: 512)",
    ),
    Row::new(
        Group::Guest,
        "backend",
        Argument::Value("BACKEND", |config, text| {
            config.backend = value::backend(text)?;
            Ok(())
        }),
        "Backend that runs the guest (default: `auto`)",
    )
    .forms(&[
        Form::word("auto", "the first of `redox`, `kvm` and `process` that is available"),
        Form::word("kvm", "Linux KVM (`/dev/kvm`)").on(Systems::LINUX),
        Form::word("process", "a sandboxed process").on(Systems::LINUX),
        Form::word("redox", "the hypervisor of the Redox kernel"),
    ]),
    Row::new(
        Group::Guest,
        "timeout",
        Argument::Value("TIME", |config, text| {
            config.timeout = Some(value::duration(text)?);
            Ok(())
        }),
        "Stop the guest after TIME, with status 124: `30` (seconds), `500ms`, `10s`, `5m`, `1h`",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Guest,
        "virtual-time",
        Argument::Switch(|config| config.virtual_time = true),
        "Advance the clock only while the guest sleeps: a sleep takes no time, two runs are identical, and a guest that nothing can wake is stopped",
    )
    .on(Systems::LINUX),
];

static OTHERS: &[Row] = &[
    Row::new(
        Group::Debugging,
        "gdb",
        Argument::Optional("PATH", |config, path| {
            config.gdb = true;
            config.gdb_socket = path.map(value::file).transpose()?;
            Ok(())
        }),
        "Wait for a debugger before the first instruction, on a TCP port of 127.0.0.1 or on the Unix socket PATH, which only this \
         user can connect to",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::FilePath),
    Row::new(
        Group::Debugging,
        "gdb-port",
        Argument::Value("PORT", |config, text| {
            config.gdb_port = value::port(text)?;
            Ok(())
        }),
        "TCP port for the debugger, 0 for a free one (default: 1234)",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Debugging,
        "dumpcore",
        Argument::Value("DIR", |config, text| {
            config.core_directory = Some(value::directory(text)?);
            Ok(())
        }),
        "Write `DIR/core.solo5-hvt.PID` if the guest crashes, for `gdb GUEST CORE`",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::DirPath),
    Row::new(
        Group::Debugging,
        "trace",
        Argument::Value("FILE", |config, text| {
            config.trace = Some(value::file(text)?);
            Ok(())
        }),
        "Write one line of JSON per hypercall to FILE",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::FilePath),
    Row::new(
        Group::Isolation,
        "user",
        Argument::Value("UID:GID", |config, text| {
            config.identity.user = Some(value::user(text)?);
            Ok(())
        }),
        "Change to this user and group once all files are open",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Isolation,
        "chroot",
        Argument::Value("DIR", |config, text| {
            config.identity.root = Some(value::directory(text)?);
            Ok(())
        }),
        "Change the root directory to DIR once all files are open",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::DirPath),
    Row::new(
        Group::Isolation,
        "no-sandbox",
        Argument::Switch(|config| config.sandbox = false),
        "Leave the tender unconfined while the guest runs",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Other,
        "verbose",
        Argument::Count(|config, times| config.verbosity = times),
        "Log the actions of the tender; `-vv` logs details",
    )
    .short('v'),
    Row::new(Group::Other, "help", Argument::Help, "Print this help").short('h'),
    Row::new(Group::Other, "version", Argument::Version, "Print the version of the tender and of the ABI").short('V'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_letters_are_unique() {
        for (index, row) in rows().enumerate() {
            for other in rows().skip(index + 1) {
                assert_ne!(row.long, other.long);
                assert!(row.short.is_none() || row.short != other.short, "{} {}", row.long, other.long);
            }
        }
    }

    /// clap lists options by heading, the Markdown table in the order of the rows: both orders must
    /// agree.
    #[test]
    fn the_rows_of_a_group_are_neighbours() {
        let mut groups: Vec<Group> = rows().map(|row| row.group).collect();
        groups.dedup();
        let distinct: Vec<Group> =
            groups.iter().copied().filter(|group| groups.iter().filter(|other| *other == group).count() == 1).collect();
        assert_eq!(groups, distinct);
    }
}
