//! What a guest asked for, one line of JSON a hypercall.

use std::io::{self, Write};
use std::time::Instant;

use hvt_abi::Gpa;
use hvt_abi::hypercall::{BlockIo, Halt, NetIo, Number, Poll, Puts, Walltime};
use zerocopy::{FromBytes, IntoBytes};

use crate::hypercall::{Error, Flow};
use crate::memory::GuestSpace;
use crate::monitor::Observer;
use crate::virtual_time::VirtualTime;

/// Writes down every hypercall: its number, name, guest time, arguments and results.
///
/// A line is an object: `{"number":2,"name":"puts","time":1200,"arguments":{"data":1056768,"len":13},"result":{}}`. The
/// time is that at which the call was made, in nanoseconds: virtual time where the guest lives in it, and host time
/// since the guest's first instruction otherwise. Guest addresses are numbers.
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

    /// Writes the line, and nothing any more once that has failed.
    fn end(&mut self, result: &str) {
        self.line.push_str(",\"result\":{");
        self.line.push_str(result);
        self.line.push_str("}}\n");
        if let Err(error) = self.to.write_all(self.line.as_bytes()) {
            log::warn!("hypercalls are not traced any more: {error}");
            self.to = Box::new(io::sink());
        }
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
            format!("\"data\":{},\"len\":{len}", data.0)
        }
        Number::Poll => format!("\"timeout_nsecs\":{}", read::<Poll>(guest, argument)?.timeout_nsecs),
        Number::BlockRead | Number::BlockWrite => {
            let BlockIo { handle, offset, data, len, .. } = read(guest, argument)?;
            format!("\"handle\":{handle},\"offset\":{offset},\"data\":{},\"len\":{len}", data.0)
        }
        Number::NetRead | Number::NetWrite => {
            let NetIo { handle, data, len, .. } = read(guest, argument)?;
            format!("\"handle\":{handle},\"data\":{},\"len\":{len}", data.0)
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
        Number::BlockRead | Number::BlockWrite => format!("\"ret\":{}", read::<BlockIo>(guest, argument)?.ret),
        Number::NetRead | Number::NetWrite => {
            let NetIo { len, ret, .. } = read(guest, argument)?;
            format!("\"len\":{len},\"ret\":{ret}")
        }
        Number::Puts | Number::Halt => String::new(),
    })
}
