//! Start, console, arguments, exit; clocks, FPU, thread-local storage, heap.

use super::pointer;
use crate::{Ability, Case, Console, End, When};

/// Number of bytes of `output`: all byte values, repeated to 64 KiB.
const BYTES: usize = 64 << 10;

/// Expected output of `output`.
static OUTPUT: [u8; BYTES + 8] = {
    let mut text = [0; BYTES + 8];
    let mut index = 0;
    while index < BYTES {
        text[index] = index as u8;
        index += 1;
    }
    let mut tail = 0;
    while tail < 8 {
        text[BYTES + tail] = b"SUCCESS\n"[tail];
        tail += 1;
    }
    text
};

/// The longest possible argument: with the preceding option and the NUL, 8192 bytes.
const LONG: &str = {
    const LETTERS: [u8; 8192 - "--solo5:quiet ".len() - 1] = [b'x'; _];
    match str::from_utf8(&LETTERS) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    }
};

const fn exit(name: &'static str, argument: &'static [&'static str], status: &'static [End]) -> Case {
    Case { name, guest: "exit", arguments: argument, ends: status, console: Console::holds(&[]), ..Case::ORDINARY }
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "hello",
        guest: "hello",
        arguments: &["one", "two"],
        memory: 512,
        console: Console::holds(&["Hello, World\n", "Command line is: 'one two'\n", "SUCCESS\n"]),
        ..Case::ORDINARY
    },
    Case { name: "hello-in-2-mib", guest: "hello", memory: 2, ..Case::ORDINARY },
    Case { name: "hello-in-4-gib", guest: "hello", memory: 4096, when: When::Can(Ability::FourGib), ..Case::ORDINARY },
    Case {
        name: "arguments",
        guest: "args",
        arguments: &["--solo5:quiet", "one", "--two=2", "x y", "ü"],
        console: Console::exact("5\n[one]\n[--two=2]\n[x]\n[y]\n[ü]\nSUCCESS\n".as_bytes()),
        ..Case::ORDINARY
    },
    Case {
        name: "arguments-none",
        guest: "args",
        arguments: &["--solo5:quiet"],
        console: Console::exact(b"0\nSUCCESS\n"),
        ..Case::ORDINARY
    },
    Case {
        name: "arguments-long",
        guest: "args",
        arguments: &["--solo5:quiet", LONG],
        console: Console::holds(&["1\n[", LONG, "]\nSUCCESS\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "boot-info",
        guest: "boot-info",
        arguments: &["some", "words"],
        devices: pointer::DEVICES,
        ..Case::ORDINARY
    },
    Case {
        name: "quiet",
        guest: "quiet",
        arguments: &["--solo5:quiet"],
        console: Console::exact(b"SUCCESS\n"),
        ..Case::ORDINARY
    },
    Case {
        name: "quiet-not",
        guest: "quiet",
        console: Console::holds(&["hvt guest: 32768 KiB of memory", "\nSUCCESS\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "output",
        guest: "output",
        arguments: &["--solo5:quiet"],
        console: Console::exact(&OUTPUT),
        ..Case::ORDINARY
    },
    exit("exit-0", &["0"], &[End::Status(0)]),
    exit("exit-1", &["1"], &[End::Status(1)]),
    exit("exit-7", &["7"], &[End::Status(7)]),
    exit("exit-255", &["255"], &[End::Status(255)]),
    Case {
        name: "abort",
        guest: "abort",
        ends: &[End::Status(255)],
        console: Console::cut_short(&["Solo5: ABORT: enough is enough\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "panic",
        guest: "panic",
        ends: &[End::Status(255)],
        console: Console::cut_short(&["Solo5: ABORT: ", "panic.rs:", ": the answer is 42\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "spin",
        guest: "spin",
        ends: &[End::Never],
        console: Console::cut_short(&["spinning\n"]),
        ..Case::ORDINARY
    },
    Case {
        name: "sleep",
        guest: "sleep",
        ends: &[End::Never],
        console: Console::cut_short(&["sleeping\n"]),
        ..Case::ORDINARY
    },
    Case { name: "time", guest: "time", ..Case::ORDINARY },
    Case { name: "fpu", guest: "fpu", ..Case::ORDINARY },
    Case { name: "tls", guest: "tls", ..Case::ORDINARY },
    Case { name: "heap", guest: "heap", ..Case::ORDINARY },
    Case { name: "heap-in-2-mib", guest: "heap", memory: 2, ..Case::ORDINARY },
];
