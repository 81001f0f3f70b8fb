//! Assembles unikernels from a list of hypercalls, for tests of devices and networks that need no
//! real unikernel.
//!
//! ```
//! use hvt_tender::device::Disk;
//! use hvt_tender::Script;
//!
//! let disk = Disk::from_bytes(*b"Hello, World\n");
//! let script = Script::new().block_read("storage", 0, 512).puts_read(13).halt(0);
//! let output = script.unikernel()?.block("storage", disk).output()?;
//! assert_eq!((output.status(), output.text().as_str()), (Some(0), "Hello, World\n"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::time::Duration;

use goblin::elf::program_header::{PF_R, PF_W, PF_X};
use hvt_abi::hypercall::{BlockIo, Halt, NetIo, Number, Poll, Puts};
use hvt_abi::manifest::Kind;
use hvt_abi::{Gpa, MEM_GRANULE, MEM_MAX};
use zerocopy::IntoBytes;

use crate::image::ImageError;
use crate::image::write::{Elf, Part, TEXT};
use crate::unikernel::Unikernel;
#[cfg(target_arch = "aarch64")]
use aarch64 as native;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

/// List of hypercalls that a unikernel makes in order.
///
/// The unikernel ignores the results of its hypercalls: after a failed read, the buffer is
/// unchanged. Results are visible in the devices, on the console and in the
/// [trace](Unikernel::trace). After the last step, the unikernel spins unless the step is a
/// [`halt`](Self::halt).
#[derive(Clone, Debug, Default)]
pub struct Script {
    devices: Vec<(String, Kind)>,
    steps: Vec<ScriptStep>,
}

#[derive(Clone, Debug)]
enum ScriptStep {
    Call(Call),
    Repeat(u32, Vec<Self>),
}

/// Hypercall. Handles are indices into `Script::devices`, plus 1.
#[derive(Clone, Debug)]
enum Call {
    /// Any hypercall, with the bytes of its argument.
    #[cfg(test)]
    Raw(Number, Vec<u8>),
    Puts(Vec<u8>),
    PutsRead(u64),
    Sleep(Duration),
    BlockWrite {
        handle: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    BlockRead {
        handle: u64,
        offset: u64,
        len: u64,
    },
    NetWrite {
        handle: u64,
        frame: Vec<u8>,
    },
    NetRead {
        handle: u64,
        len: u64,
    },
    Halt(i32),
}

/// Alignment of the segments in bytes.
const PAGE: u64 = hvt_abi::PAGE_SIZE;

impl Script {
    /// Creates a script without steps, whose unikernel only spins.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Prints `text`.
    #[must_use]
    pub fn puts(self, text: impl Into<Vec<u8>>) -> Self {
        self.call(Call::Puts(text.into()))
    }

    /// Prints the first `len` bytes of the last read.
    #[must_use]
    pub fn puts_read(self, len: u64) -> Self {
        self.call(Call::PutsRead(len))
    }

    /// Polls with the timeout `time`: waits until it has passed or a frame arrives.
    #[must_use]
    pub fn sleep(self, time: Duration) -> Self {
        self.call(Call::Sleep(time))
    }

    /// Writes `bytes`, a multiple of the block size, at byte `offset` of the block device `name`.
    #[must_use]
    pub fn block_write(mut self, name: &str, offset: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let handle = self.handle(name, Kind::Block);
        self.call(Call::BlockWrite { handle, offset, bytes: bytes.into() })
    }

    /// Reads `len` bytes, a multiple of the block size, at byte `offset` of the block device
    /// `name`.
    #[must_use]
    pub fn block_read(mut self, name: &str, offset: u64, len: u64) -> Self {
        let handle = self.handle(name, Kind::Block);
        self.call(Call::BlockRead { handle, offset, len })
    }

    /// Sends an Ethernet frame, header included, through the network device `name`.
    #[must_use]
    pub fn net_write(mut self, name: &str, frame: impl Into<Vec<u8>>) -> Self {
        let handle = self.handle(name, Kind::Net);
        self.call(Call::NetWrite { handle, frame: frame.into() })
    }

    /// Receives a frame of at most `len` bytes from the network device `name`, if one has arrived.
    #[must_use]
    pub fn net_read(mut self, name: &str, len: u64) -> Self {
        let handle = self.handle(name, Kind::Net);
        self.call(Call::NetRead { handle, len })
    }

    /// Repeats the steps that `steps` adds. With `times` 0, the steps are left out, but their
    /// devices stay in the manifest.
    #[must_use]
    pub fn repeat(mut self, times: u32, steps: impl FnOnce(Self) -> Self) -> Self {
        let Self { devices, steps } = steps(Self { devices: self.devices, steps: Vec::new() });
        self.devices = devices;
        if times > 0 {
            self.steps.push(ScriptStep::Repeat(times, steps));
        }
        self
    }

    /// Halts with the exit status `status`.
    #[must_use]
    pub fn halt(self, status: i32) -> Self {
        self.call(Call::Halt(status))
    }

    /// Makes hypercall `number` with the bytes `argument` as its argument structure.
    #[cfg(test)]
    pub(crate) fn raw(self, number: Number, argument: &[u8]) -> Self {
        self.call(Call::Raw(number, argument.into()))
    }

    /// Declares a device in the manifest without using it. The device gets the next handle.
    #[cfg(test)]
    pub(crate) fn declare(mut self, name: &str, kind: Kind) -> Self {
        self.handle(name, kind);
        self
    }

    fn call(mut self, call: Call) -> Self {
        self.steps.push(ScriptStep::Call(call));
        self
    }

    /// Returns the handle of a device. Declares the device in the manifest if necessary.
    fn handle(&mut self, name: &str, kind: Kind) -> u64 {
        let known = self.devices.iter().position(|(device, _)| device == name);
        let index = known.unwrap_or_else(|| {
            self.devices.push((name.into(), kind));
            self.devices.len() - 1
        });
        index as u64 + 1
    }

    /// Returns the unikernel, with 4 MiB of memory or as much as its reads need.
    ///
    /// # Errors
    /// Returns [`ImageError`] if the manifest is invalid: a device name that is too long or
    /// contains other characters than letters and digits, or more than 63 devices.
    pub fn unikernel(&self) -> Result<Unikernel, ImageError> {
        let end = self.places().buffer.0 + self.longest_read();
        // The last page is the stack.
        let memory = (end + PAGE).next_multiple_of(MEM_GRANULE).max(2 * MEM_GRANULE);
        Ok(Unikernel::from_bytes(self.build())?.mem(memory))
    }

    /// Returns the bytes of the unikernel's ELF file.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let places = self.places();
        let Assembler { text, arguments, payload, .. } = Assembler::run(&self.steps, places);
        let mut data = vec![0; (places.buffer.0 - places.arguments.0) as usize];
        data[..arguments.len()].copy_from_slice(&arguments);
        let at = (places.payload.0 - places.arguments.0) as usize;
        data[at..at + payload.len()].copy_from_slice(&payload);
        let memory = places.buffer.0 - places.arguments.0 + self.longest_read();
        let devices: Vec<_> = self.devices.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        let segments = [
            Part::load(PF_R | PF_X, TEXT, places.arguments.0 - TEXT, text),
            Part::load(PF_R | PF_W, places.arguments.0, memory, data),
        ];
        Elf::with_devices(segments, &devices).build()
    }

    /// Returns the addresses of the script's data. The lengths of the instructions do not depend on
    /// the addresses, so a first assembly with dummy addresses gives the lengths.
    fn places(&self) -> Places {
        let nowhere = Places { arguments: Gpa(0), payload: Gpa(0), buffer: Gpa(0) };
        let Assembler { text, arguments, payload, .. } = Assembler::run(&self.steps, nowhere);
        let behind = |at: Gpa, bytes: &[u8]| Gpa((at.0 + bytes.len() as u64).next_multiple_of(PAGE));
        let first = behind(Gpa(TEXT), &text);
        let second = behind(first, &arguments);
        Places { arguments: first, payload: second, buffer: behind(second, &payload) }
    }

    /// Returns the size of the read buffer in bytes, at least a page.
    fn longest_read(&self) -> u64 {
        fn longest(steps: &[ScriptStep]) -> u64 {
            let each = steps.iter().map(|step| match step {
                ScriptStep::Repeat(_, steps) => longest(steps),
                ScriptStep::Call(Call::BlockRead { len, .. } | Call::NetRead { len, .. } | Call::PutsRead(len)) => *len,
                ScriptStep::Call(_) => 0,
            });
            each.max().unwrap_or(0)
        }
        // A larger size is refused later: no guest has so much memory.
        longest(&self.steps).clamp(1, MEM_MAX).next_multiple_of(PAGE)
    }
}

/// Page-aligned guest addresses of a script's data, which lies behind the text.
#[derive(Clone, Copy)]
struct Places {
    /// Argument structures of the hypercalls, one every [`STRIDE`] bytes.
    arguments: Gpa,
    /// Data to print, write and send.
    payload: Gpa,
    /// Buffer for reads.
    buffer: Gpa,
}

struct Assembler {
    places: Places,
    text: Vec<u8>,
    arguments: Vec<u8>,
    payload: Vec<u8>,
}

/// Distance between the argument structures of two hypercalls in bytes.
const STRIDE: usize = 256;

impl Assembler {
    fn run(steps: &[ScriptStep], places: Places) -> Self {
        let mut this = Self { places, text: Vec::new(), arguments: Vec::new(), payload: Vec::new() };
        this.steps(steps);
        native::spin(&mut this.text);
        this
    }

    fn steps(&mut self, steps: &[ScriptStep]) {
        for step in steps {
            match step {
                ScriptStep::Call(call) => self.call(call),
                ScriptStep::Repeat(times, steps) => {
                    let start = native::begin_loop(&mut self.text, *times);
                    self.steps(steps);
                    native::end_loop(&mut self.text, start);
                }
            }
        }
    }

    fn call(&mut self, call: &Call) {
        let buffer = self.places.buffer;
        match call {
            #[cfg(test)]
            Call::Raw(number, argument) => self.out(*number, argument),
            Call::Puts(text) => {
                let puts = Puts { data: self.keep(text), len: text.len() as u64 };
                self.out(Number::Puts, puts.as_bytes());
            }
            Call::PutsRead(len) => self.out(Number::Puts, Puts { data: buffer, len: *len }.as_bytes()),
            Call::Sleep(time) => {
                let timeout_nsecs = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                self.out(Number::Poll, Poll { timeout_nsecs, ..Poll::default() }.as_bytes());
            }
            Call::BlockWrite { handle, offset, bytes } => {
                let (data, len) = (self.keep(bytes), bytes.len() as u64);
                let io = BlockIo { handle: *handle, offset: *offset, data, len, ..BlockIo::default() };
                self.out(Number::BlockWrite, io.as_bytes());
            }
            Call::BlockRead { handle, offset, len } => {
                let io = BlockIo { handle: *handle, offset: *offset, data: buffer, len: *len, ..BlockIo::default() };
                self.out(Number::BlockRead, io.as_bytes());
            }
            Call::NetWrite { handle, frame } => {
                let io = NetIo { handle: *handle, data: self.keep(frame), len: frame.len() as u64, ..NetIo::default() };
                self.out(Number::NetWrite, io.as_bytes());
            }
            Call::NetRead { handle, len } => {
                let io = NetIo { handle: *handle, data: buffer, len: *len, ..NetIo::default() };
                self.out(Number::NetRead, io.as_bytes());
            }
            Call::Halt(status) => {
                self.out(Number::Halt, Halt { exit_status: *status, ..Halt::default() }.as_bytes());
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Gpa {
        let at = Gpa(self.places.payload.0 + self.payload.len() as u64);
        self.payload.extend(bytes);
        at
    }

    /// Appends a hypercall and its argument. The ABI passes the argument's address in 32 bits.
    fn out(&mut self, number: Number, argument: &[u8]) {
        let at = self.places.arguments.0 as u32 + self.arguments.len() as u32;
        self.arguments.extend(argument);
        self.arguments.resize(self.arguments.len().next_multiple_of(STRIDE), 0);
        native::hypercall(&mut self.text, number as u32, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::auto::FOR_TESTS;
    use crate::device::Disk;
    use crate::network::Link;

    #[test]
    fn does_what_it_says() {
        let (port, peer) = Link::new().ports().unwrap();
        let disk = Disk::empty(2048);
        peer.send(&[b'5'; 20]).unwrap();
        let script = Script::new()
            .puts("begin;")
            .net_read("service", 1514)
            .puts_read(1)
            .block_write("storage", 512, [[b'x'; 512], [b'y'; 512]].concat())
            .repeat(3, |script| {
                script.repeat(2, |script| script.puts("tick")).puts("tock;").sleep(Duration::from_millis(1))
            })
            .block_read("storage", 1023, 512)
            .block_read("storage", 512, 1024)
            .puts_read(1)
            .net_write("service", vec![6; 1514])
            .repeat(0, |script| script.puts("never"))
            .halt(-3);
        let unikernel = script.unikernel().unwrap().backend(FOR_TESTS).block("storage", disk.clone());
        let output = unikernel.net("service", port).output().unwrap();
        assert_eq!(output.text(), "begin;5tickticktock;tickticktock;tickticktock;x");
        assert_eq!(output.status(), Some(-3));
        assert!(output.wall_time >= Duration::from_millis(3), "{output:?}");
        assert_eq!(disk.contents().unwrap(), [[0; 512], [b'x'; 512], [b'y'; 512], [0; 512]].concat());
        assert_eq!(peer.try_receive(), Some(vec![6; 1514]));
    }

    #[test]
    fn large_ones_have_room() {
        let text = vec![b'a'; 100_000];
        let script = (0..200).fold(Script::new(), |script, _| script.puts(text.clone())).block_read("a", 0, 8 << 20);
        let unikernel = script.halt(0).unikernel().unwrap().backend(FOR_TESTS);
        let output = unikernel.block("a", Disk::empty(8 << 20)).output().unwrap();
        assert_eq!((output.status(), output.console.len()), (Some(0), 20_000_000));
    }

    #[test]
    fn what_cannot_be_a_unikernel_is_an_error() {
        assert!(Script::new().net_read("no name", 60).unikernel().is_err());
        let many = (0..64).fold(Script::new(), |script, number| script.net_read(&format!("a{number}"), 60));
        assert!(many.unikernel().is_err());
        assert!(Script::new().net_read(&"x".repeat(1000), 60).unikernel().is_err());
        let large = Script::new()
            .block_read("a", 0, u64::MAX)
            .unikernel()
            .map(|unikernel| unikernel.block("a", Disk::empty(512)));
        assert!(large.map_err(drop).and_then(|unikernel| unikernel.run().map_err(drop)).is_err());
    }
}
