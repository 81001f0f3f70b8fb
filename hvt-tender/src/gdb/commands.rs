//! `monitor` commands, for requests that gdb itself has no commands for.

use std::fmt::Write;

use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, output};
use hvt_abi::hypercall::Number;

use super::inferior::Inferior;
use crate::backend::BackendError;
use crate::memory::Permissions;

const HELP: &str = "\
help        print this help
hypercalls  print the number of calls of each hypercall
memory      print the guest's permissions for each region of its memory
cpu         print the system registers
";

impl MonitorCmd for Inferior<'_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), BackendError> {
        let text = match command {
            b"" | b"help" => HELP.to_owned(),
            b"hypercalls" => self.hypercalls(),
            b"memory" => self.memory_map_text(),
            b"cpu" => self.system_registers(),
            _ => format!("unknown command '{}'\n{HELP}", command.escape_ascii()),
        };
        output!(out, "{text}");
        Ok(())
    }
}

impl Inferior<'_> {
    fn hypercalls(&self) -> String {
        let mut text = String::new();
        for (number, count) in self.calls() {
            let name = Number::from_u32(*number).map_or("unknown", Number::name);
            // Writing to a `String` does not fail.
            let _ = writeln!(text, "{count:>12} {name} ({number})");
        }
        if text.is_empty() { "none yet\n".into() } else { text }
    }

    fn memory_map_text(&self) -> String {
        let mut text = String::new();
        for region in self.memory_map().regions() {
            let letter = |access, letter| if region.access.contains(access) { letter } else { '-' };
            let access =
                [letter(Permissions::READ, 'r'), letter(Permissions::WRITE, 'w'), letter(Permissions::EXECUTE, 'x')];
            let (start, end) = (region.range.start().0, region.range.end().0);
            let _ = writeln!(text, "{start:#010x}-{end:#010x} {}", String::from_iter(access));
        }
        text
    }

    fn system_registers(&mut self) -> String {
        match self.target().map(|target| target.describe()) {
            Some(Ok(text)) => text,
            Some(Err(error)) => format!("{error}\n"),
            None => String::new(),
        }
    }
}
