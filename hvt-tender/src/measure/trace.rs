//! Trace of a guest's hypercalls, with one line of JSON per hypercall.

use std::io::{self, Write};
use std::time::Instant;

use hvt_abi::Gpa;
use hvt_abi::hypercall::{BlockIo, Halt, NetIo, Number, Poll, Puts, Status, Walltime};
use serde::{Serialize, Serializer};
use zerocopy::{FromBytes, IntoBytes};

use crate::hypercall::{Flow, HypercallError};
use crate::memory::{GuestSpace, Permissions};
use crate::monitor::Observer;
use crate::virtual_time::VirtualTime;

/// Observer that writes one line of JSON per hypercall.
///
/// A line is an object:
/// `{"number":2,"name":"puts","time":1200,"argument":1052672,"arguments":{"data":1056768,"len":13,"digest":".."},"result":{}}`.
///
/// | field | value |
/// |---|---|
/// | `number`, `name` | the hypercall; the name of an unknown number is `unknown` |
/// | `time` | time of the call in nanoseconds: virtual time, or host time since the guest's first instruction |
/// | `argument` | guest address of the argument structure, even if the guest has no memory there |
/// | `arguments` | input fields of the argument structure; empty if the structure cannot be read |
/// | `result` | output fields of the argument structure, `status` of a halt, `"interrupted":true` or `"invalid":true` |
///
/// Guest addresses are numbers. The `digest` (64-bit FNV-1a) is computed over the bytes that the
/// guest writes or reads, so that traces with equal digests mean equal bytes.
pub(crate) struct Trace {
    to: Box<dyn Write + Send>,
    clock: Time,
    /// Line of the hypercall in progress.
    line: Option<Line>,
    text: Vec<u8>,
}

enum Time {
    Host(Instant),
    Virtual(VirtualTime),
}

impl Trace {
    pub(crate) fn new(to: Box<dyn Write + Send>, time: Option<VirtualTime>) -> Self {
        let clock = time.map_or_else(|| Time::Host(Instant::now()), Time::Virtual);
        Self { to, clock, line: None, text: Vec::new() }
    }

    /// Writes the line with one call, which is one system call if the writer is unbuffered.
    fn end(&mut self, line: &Line) {
        self.text.clear();
        let done = serde_json::to_writer(&mut self.text, line).map_err(io::Error::from);
        self.text.push(b'\n');
        let done = done.and_then(|()| self.to.write_all(&self.text));
        self.check(done);
    }

    /// Stops the trace after the first failed write.
    fn check(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            log::warn!("the trace of hypercalls is not complete: {error}");
            self.to = Box::new(io::sink());
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Report the loss of buffered lines.
        let done = self.to.flush();
        self.check(done);
    }
}

impl Observer for Trace {
    fn called(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>) {
        let time = match &self.clock {
            Time::Host(start) => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Time::Virtual(time) => time.nanos(),
        };
        let name = Number::from_u32(number).map_or("unknown", Number::name);
        let arguments = arguments(number, argument, guest).unwrap_or(Arguments::None {});
        let result = Results::None {};
        self.line = Some(Line { number, name, time, argument: argument.0, arguments, result });
    }

    fn served(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>, result: &Result<Flow, HypercallError>) {
        let Some(mut line) = self.line.take() else { return };
        line.result = match result {
            Ok(Flow::Continue) => results(number, argument, guest).unwrap_or(Results::None {}),
            Ok(Flow::Halt { status, .. }) => Results::Halt { status: *status },
            Ok(Flow::Interrupted) => Results::Interrupted { interrupted: true },
            Err(_) => Results::Invalid { invalid: true },
        };
        self.end(&line);
    }
}

/// Line of the trace. The order of the fields, here and below, is their order in the line.
#[derive(Serialize)]
struct Line {
    number: u32,
    name: &'static str,
    time: u64,
    argument: u64,
    arguments: Arguments,
    result: Results,
}

/// Input fields of the argument structure.
#[derive(Serialize)]
#[serde(untagged)]
enum Arguments {
    None {},
    Puts {
        data: u64,
        len: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<Fnv>,
    },
    Poll {
        timeout_nsecs: u64,
    },
    Block {
        handle: u64,
        offset: u64,
        data: u64,
        len: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<Fnv>,
    },
    Net {
        handle: u64,
        data: u64,
        len: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<Fnv>,
    },
    Halt {
        cookie: u64,
        exit_status: i32,
    },
}

/// Output fields of the argument structure, or the reason for their absence.
#[derive(Serialize)]
#[serde(untagged)]
enum Results {
    None {},
    Walltime {
        nsecs: u64,
    },
    Poll {
        ready_set: u64,
        ret: i32,
    },
    Block {
        ret: i32,
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<Fnv>,
    },
    Net {
        len: u64,
        ret: i32,
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<Fnv>,
    },
    Halt {
        status: i32,
    },
    Interrupted {
        interrupted: bool,
    },
    Invalid {
        invalid: bool,
    },
}

/// Reads the structure at `argument`. Returns `None` if it does not lie in guest memory.
fn read<T: FromBytes + IntoBytes>(guest: &GuestSpace<'_>, argument: Gpa) -> Option<T> {
    guest.read(argument).ok()
}

fn arguments(number: u32, argument: Gpa, guest: &GuestSpace<'_>) -> Option<Arguments> {
    Some(match Number::from_u32(number)? {
        Number::Walltime => Arguments::None {},
        Number::Puts => {
            let Puts { data, len } = read(guest, argument)?;
            Arguments::Puts { data: data.0, len, digest: digest(guest, data, len) }
        }
        Number::Poll => Arguments::Poll { timeout_nsecs: read::<Poll>(guest, argument)?.timeout_nsecs },
        Number::BlockRead | Number::BlockWrite => {
            let BlockIo { handle, offset, data, len, .. } = read(guest, argument)?;
            let goes = number == Number::BlockWrite as u32;
            let digest = goes.then(|| digest(guest, data, len)).flatten();
            Arguments::Block { handle, offset, data: data.0, len, digest }
        }
        Number::NetRead | Number::NetWrite => {
            let NetIo { handle, data, len, .. } = read(guest, argument)?;
            let goes = number == Number::NetWrite as u32;
            let digest = goes.then(|| digest(guest, data, len)).flatten();
            Arguments::Net { handle, data: data.0, len, digest }
        }
        Number::Halt => {
            let Halt { cookie, exit_status, .. } = read(guest, argument)?;
            Arguments::Halt { cookie: cookie.0, exit_status }
        }
    })
}

fn results(number: u32, argument: Gpa, guest: &GuestSpace<'_>) -> Option<Results> {
    Some(match Number::from_u32(number)? {
        Number::Walltime => Results::Walltime { nsecs: read::<Walltime>(guest, argument)?.nsecs },
        Number::Poll => {
            let Poll { ready_set, ret, .. } = read(guest, argument)?;
            Results::Poll { ready_set, ret }
        }
        Number::BlockRead | Number::BlockWrite => {
            let BlockIo { data, len, ret, .. } = read(guest, argument)?;
            let came = number == Number::BlockRead as u32 && ret == Status::Ok as i32;
            Results::Block { ret, digest: came.then(|| digest(guest, data, len)).flatten() }
        }
        Number::NetRead | Number::NetWrite => {
            let NetIo { data, len, ret, .. } = read(guest, argument)?;
            let came = number == Number::NetRead as u32 && ret == Status::Ok as i32;
            Results::Net { len, ret, digest: came.then(|| digest(guest, data, len)).flatten() }
        }
        Number::Puts | Number::Halt => Results::None {},
    })
}

/// Returns the digest of `len` bytes at `data`. Returns `None` if the guest may not read them, or
/// if there are more than 16 MiB.
fn digest(guest: &GuestSpace<'_>, data: Gpa, len: u64) -> Option<Fnv> {
    const MOST: u64 = 16 << 20;
    let bytes = guest.slice(data, len, Permissions::READ).ok().filter(|bytes| bytes.len() <= MOST)?;
    let mut digest = Fnv::default();
    let mut buffer = [0; 4096];
    let mut rest = bytes;
    while !rest.is_empty() {
        let read = rest.read(&mut buffer);
        digest.add(&buffer[..read]);
        rest = rest.skip(read as u64);
    }
    Some(digest)
}

/// 64-bit FNV-1a hash (draft-eastlake-fnv). It is the same on every platform and in every version.
/// Resistance to deliberate collisions is not required.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    const PRIME: u64 = 0x0100_0000_01b3;

    fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(Self::PRIME));
    }
}

/// Serialized as 16 hexadecimal digits.
impl Serialize for Fnv {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_their_order() {
        let line = |arguments, result| {
            let line = Line { number: 7, name: "halt", time: 1, argument: u64::MAX, arguments, result };
            serde_json::to_string(&line).unwrap()
        };
        let start = r#"{"number":7,"name":"halt","time":1,"argument":18446744073709551615,"arguments":"#;
        for (arguments, text) in [
            (Arguments::None {}, "{}"),
            (
                Arguments::Puts { data: 1, len: 2, digest: Some(Fnv(3)) },
                r#"{"data":1,"len":2,"digest":"0000000000000003"}"#,
            ),
            (Arguments::Poll { timeout_nsecs: 1 }, r#"{"timeout_nsecs":1}"#),
            (
                Arguments::Block { handle: 1, offset: 2, data: 3, len: 4, digest: Some(Fnv(5)) },
                r#"{"handle":1,"offset":2,"data":3,"len":4,"digest":"0000000000000005"}"#,
            ),
            (Arguments::Net { handle: 1, data: 2, len: 3, digest: None }, r#"{"handle":1,"data":2,"len":3}"#),
            (Arguments::Halt { cookie: 1, exit_status: -1 }, r#"{"cookie":1,"exit_status":-1}"#),
        ] {
            assert_eq!(line(arguments, Results::None {}), format!("{start}{text},\"result\":{{}}}}"));
        }
        for (result, text) in [
            (Results::Walltime { nsecs: 1 }, r#"{"nsecs":1}"#),
            (Results::Poll { ready_set: 1, ret: 2 }, r#"{"ready_set":1,"ret":2}"#),
            (Results::Block { ret: 0, digest: Some(Fnv(1)) }, r#"{"ret":0,"digest":"0000000000000001"}"#),
            (Results::Net { len: 1, ret: -1, digest: None }, r#"{"len":1,"ret":-1}"#),
            (Results::Halt { status: -1 }, r#"{"status":-1}"#),
            (Results::Interrupted { interrupted: true }, r#"{"interrupted":true}"#),
            (Results::Invalid { invalid: true }, r#"{"invalid":true}"#),
        ] {
            assert_eq!(line(Arguments::None {}, result), format!("{start}{{}},\"result\":{text}}}"));
        }
    }

    #[test]
    fn digests_are_those_of_the_published_vectors() {
        let fnv = |parts: &[&[u8]]| {
            let mut digest = Fnv::default();
            parts.iter().for_each(|part| digest.add(part));
            digest.0
        };
        assert_eq!(fnv(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(&[b"a"]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv(&[b"foo", b"bar"]), 0x8594_4171_f739_67e8);
    }
}
