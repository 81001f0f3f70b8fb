//! What a guest asked for, one line of JSON a hypercall.

use std::io::{self, Write};
use std::time::Instant;

use hvt_abi::Gpa;
use hvt_abi::hypercall::{BlockIo, Halt, NetIo, Number, Poll, Puts, Status, Walltime};
use zerocopy::{FromBytes, IntoBytes};

use crate::hypercall::{Error, Flow};
use crate::memory::{GuestSpace, Permissions};
use crate::monitor::Observer;
use crate::virtual_time::VirtualTime;

/// Writes one line per hypercall: number, name, time, arguments and results.
///
/// A line is an object:
/// `{"number":2,"name":"puts","time":1200,"argument":1052672,"arguments":{"data":1056768,"len":13,"digest":".."},"result":{}}`.
///
/// | field | value |
/// |---|---|
/// | `number`, `name` | the hypercall; the name of a number that is none is `unknown` |
/// | `time` | nanoseconds when the call was made: virtual time if the guest has it, else since its first instruction |
/// | `argument` | guest address of the argument structure, even if the guest has no memory there |
/// | `arguments` | the fields that the guest filled in; none if the structure cannot be read |
/// | `result` | the fields that the tender filled in, `status` of a halt, or `"interrupted":true`, `"invalid":true` |
///
/// Guest addresses are numbers. The `digest` (FNV-1a, 64 bits) stands for the bytes that a guest writes or reads, so that
/// equal traces mean equal bytes.
pub(crate) struct Trace {
    to: Box<dyn Write + Send>,
    clock: Time,
    line: String,
}

enum Time {
    Host(Instant),
    Virtual(VirtualTime),
}

impl Trace {
    pub(crate) fn new(to: Box<dyn Write + Send>, time: Option<VirtualTime>) -> Self {
        let clock = time.map_or_else(|| Time::Host(Instant::now()), Time::Virtual);
        Self { to, clock, line: String::new() }
    }

    /// Writes the line.
    fn end(&mut self, result: &str) {
        self.line.push_str(",\"result\":{");
        self.line.push_str(result);
        self.line.push_str("}}\n");
        let done = self.to.write_all(self.line.as_bytes());
        self.check(done);
    }

    /// Writes nothing any more once that has failed.
    fn check(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            log::warn!("the trace of hypercalls is not complete: {error}");
            self.to = Box::new(io::sink());
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // What is buffered must not get lost in silence.
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
        let arguments = arguments(number, argument, guest).unwrap_or_default();
        self.line = format!(
            "{{\"number\":{number},\"name\":\"{name}\",\"time\":{time},\"argument\":{},\"arguments\":{{{arguments}}}",
            argument.0
        );
    }

    fn served(&mut self, number: u32, argument: Gpa, guest: &GuestSpace<'_>, result: &Result<Flow, Error>) {
        let results = match result {
            Ok(Flow::Continue) => results(number, argument, guest).unwrap_or_default(),
            Ok(Flow::Halt { status, .. }) => format!("\"status\":{status}"),
            Ok(Flow::Interrupted) => "\"interrupted\":true".into(),
            Err(_) => "\"invalid\":true".into(),
        };
        self.end(&results);
    }
}

/// The structure at `argument`; `None` where the guest has none there.
fn read<T: FromBytes + IntoBytes>(guest: &GuestSpace<'_>, argument: Gpa) -> Option<T> {
    guest.read(argument).ok()
}

fn arguments(number: u32, argument: Gpa, guest: &GuestSpace<'_>) -> Option<String> {
    Some(match Number::from_u32(number)? {
        Number::Walltime => String::new(),
        Number::Puts => {
            let Puts { data, len } = read(guest, argument)?;
            format!("\"data\":{},\"len\":{len}{}", data.0, digest(guest, data, len))
        }
        Number::Poll => format!("\"timeout_nsecs\":{}", read::<Poll>(guest, argument)?.timeout_nsecs),
        Number::BlockRead | Number::BlockWrite => {
            let BlockIo { handle, offset, data, len, .. } = read(guest, argument)?;
            let digest = if number == Number::BlockWrite as u32 { digest(guest, data, len) } else { String::new() };
            format!("\"handle\":{handle},\"offset\":{offset},\"data\":{},\"len\":{len}{digest}", data.0)
        }
        Number::NetRead | Number::NetWrite => {
            let NetIo { handle, data, len, .. } = read(guest, argument)?;
            let digest = if number == Number::NetWrite as u32 { digest(guest, data, len) } else { String::new() };
            format!("\"handle\":{handle},\"data\":{},\"len\":{len}{digest}", data.0)
        }
        Number::Halt => {
            let Halt { cookie, exit_status, .. } = read(guest, argument)?;
            format!("\"cookie\":{},\"exit_status\":{exit_status}", cookie.0)
        }
    })
}

fn results(number: u32, argument: Gpa, guest: &GuestSpace<'_>) -> Option<String> {
    Some(match Number::from_u32(number)? {
        Number::Walltime => format!("\"nsecs\":{}", read::<Walltime>(guest, argument)?.nsecs),
        Number::Poll => {
            let Poll { ready_set, ret, .. } = read(guest, argument)?;
            format!("\"ready_set\":{ready_set},\"ret\":{ret}")
        }
        Number::BlockRead | Number::BlockWrite => {
            let BlockIo { data, len, ret, .. } = read(guest, argument)?;
            let came = number == Number::BlockRead as u32 && ret == Status::Ok as i32;
            let digest = if came { digest(guest, data, len) } else { String::new() };
            format!("\"ret\":{ret}{digest}")
        }
        Number::NetRead | Number::NetWrite => {
            let NetIo { data, len, ret, .. } = read(guest, argument)?;
            let came = number == Number::NetRead as u32 && ret == Status::Ok as i32;
            let digest = if came { digest(guest, data, len) } else { String::new() };
            format!("\"len\":{len},\"ret\":{ret}{digest}")
        }
        Number::Puts | Number::Halt => String::new(),
    })
}

/// A further field with the digest of `len` bytes at `data`; none where they are not the guest's, or more than any
/// device of a fixture is given at once.
fn digest(guest: &GuestSpace<'_>, data: Gpa, len: u64) -> String {
    const MOST: u64 = 16 << 20;
    let Some(bytes) = guest.slice(data, len, Permissions::READ).ok().filter(|bytes| bytes.len() <= MOST) else {
        return String::new();
    };
    let mut digest = Fnv::default();
    let mut buffer = [0; 4096];
    let mut rest = bytes;
    while !rest.is_empty() {
        let read = rest.read(&mut buffer);
        digest.add(&buffer[..read]);
        rest = rest.skip(read as u64);
    }
    format!(",\"digest\":\"{:016x}\"", digest.0)
}

/// FNV-1a of 64 bits (draft-eastlake-fnv): the same everywhere and for good, and nobody attacks it here.
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

#[cfg(test)]
mod tests {
    use super::*;

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
