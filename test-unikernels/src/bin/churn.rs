//! Keeps a block device busy with transfers of as many bytes as the second argument specifies. The
//! first argument selects the operation: `write` writes the whole device as many times as the third
//! argument specifies, or forever; `fill` writes it once regardless of errors; `look` reads it
//! forever.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec;

use guest_bindings::{Block, DeviceError, ExitStatus, StartInfo, println};
use test_suite::Contents;
use test_unikernels::{argument, check, failure, number, success};

guest_bindings::manifest! { block "storage" }
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let storage = Block::open("storage").unwrap_or_else(|error| failure(error));
    let mut device = Device { len: number(argument(start, 1)) as usize, storage };
    match argument(start, 0) {
        "write" => {
            // The default is more rounds than fit in any test.
            let rounds = start.arguments().nth(2).map_or(u64::MAX, number);
            (1..=rounds).for_each(|round| device.write(round));
        }
        "fill" => device.fill(),
        "look" => device.look(),
        other => failure(format_args!("unknown operation '{other}'")),
    }
    success()
}

struct Device {
    storage: Block,
    /// Size of a transfer in bytes.
    len: usize,
}

impl Device {
    fn offsets(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.storage.info().capacity).step_by(self.len)
    }

    /// Writes the whole device, and reads each piece back.
    fn write(&mut self, round: u64) {
        let contents = Contents::Pattern(round);
        let mut buffer = vec![0; self.len];
        for offset in self.offsets() {
            contents.fill(offset, &mut buffer);
            check(self.storage.write(offset, &buffer) == Ok(()), format_args!("write at {offset}"));
            if (round, offset) == (1, 0) {
                println!("churning");
            }
            buffer.fill(0);
            check(self.storage.read(offset, &mut buffer) == Ok(()), format_args!("read at {offset}"));
            check(contents.matches(offset, &buffer), format_args!("another block in round {round} at {offset}"));
        }
    }

    /// Writes the whole device once. Pieces that were written must be readable; rejected pieces are
    /// counted.
    fn fill(&mut self) {
        let contents = Contents::Pattern(1);
        let mut buffer = vec![0; self.len];
        let (mut written, mut refused) = (0, 0);
        for offset in self.offsets() {
            contents.fill(offset, &mut buffer);
            match self.storage.write(offset, &buffer) {
                Ok(()) => {
                    written += 1;
                    buffer.fill(0);
                    check(self.storage.read(offset, &mut buffer) == Ok(()), format_args!("read at {offset}"));
                    check(contents.matches(offset, &buffer), format_args!("something else at {offset}"));
                }
                Err(DeviceError::Failed) => refused += 1,
                Err(error) => failure(format_args!("write at {offset}: {error}")),
            }
        }
        println!("{written} written, {refused} refused");
    }

    /// Prints the number of unreadable pieces whenever it changes.
    fn look(&mut self) {
        let mut buffer = vec![0; self.len];
        let mut before = None;
        loop {
            let mut refused = 0;
            for offset in self.offsets() {
                match self.storage.read(offset, &mut buffer) {
                    Ok(()) => {}
                    Err(DeviceError::Failed) => refused += 1,
                    Err(error) => failure(format_args!("read at {offset}: {error}")),
                }
            }
            if before != Some(refused) {
                println!("{refused} refused");
                before = Some(refused);
            }
        }
    }
}
