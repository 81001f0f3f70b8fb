//! The conformance table, independent of the machine that runs the unikernels.

use alloc::{boxed::Box, format, rc::Rc, string::String, vec, vec::Vec};
use core::cell::RefCell;

use hvt_core::{
    device::{
        Slot,
        in_memory::{RamDisk, Wire, WireNet},
    },
    exit::Cause,
    hypercall,
    image::{Device, DeviceKind as Declared, Manifest},
    monitor::{Failure, Outcome, Reason},
};
use test_suite::{Ability, Case, DeviceKind, Disk, End, SUITE, When};

use crate::{
    monitor::{self, Counts},
    pack::Pack,
    peer::Peer,
    tally::Tally,
};

/// Environment that runs unikernels.
pub trait Machine {
    /// Returns `true` if the machine has this ability.
    fn can(&self, ability: Ability) -> bool;

    /// Runs the unikernel in `file` until it exits or times out. With [`Patience::Short`] the
    /// timeout is short.
    ///
    /// # Errors
    /// Returns a message if the unikernel cannot run.
    fn run(&mut self, file: &[u8], guest: Guest<'_>) -> Result<Ran, String>;
}

/// Configuration of a unikernel.
pub struct Guest<'a> {
    /// Guest memory in bytes.
    pub memory: u64,
    /// Command line arguments.
    pub arguments: &'a [&'a str],
    /// Devices for the names in the manifest.
    pub slots: Vec<(String, Slot)>,
    /// Wires that wake the unikernel.
    pub wires: Wires,
    /// Timeout.
    pub patience: Patience,
}

/// Timeout of a unikernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Timeout for a unikernel that exits.
    Long,
    /// Timeout for a unikernel that does not exit.
    Short,
}

/// Result of a unikernel.
pub struct Ran {
    /// Reason of the end.
    pub outcome: Outcome,
    /// Console output.
    pub transcript: Vec<u8>,
    /// Number of exits of the virtual CPU.
    pub counts: Counts,
}

/// Wires that wake a unikernel, with the peers at their far ends, which run while the unikernel
/// sleeps.
#[derive(Clone, Default)]
pub struct Wires {
    /// The unikernel's ends, by handle.
    near: Vec<(u32, Wire)>,
    peers: Rc<RefCell<Vec<Peer>>>,
}

impl Wires {
    /// Creates the set for one wire, which is the unikernel's device `handle`. The far end belongs
    /// to another unikernel and has no peer.
    #[must_use]
    pub fn of(handle: u32, near: Wire) -> Self {
        Self { near: vec![(handle, near)], ..Self::default() }
    }

    /// Returns the devices with a frame waiting, as a bit per handle. The peers run first.
    #[must_use]
    pub fn ready(&self) -> u64 {
        self.peers.borrow_mut().iter_mut().for_each(Peer::poll);
        self.near.iter().filter(|(_, wire)| wire.is_ready()).fold(0, |set, (handle, _)| set | 1 << handle)
    }

    /// Returns an error for the first peer that still waits for a reply.
    fn unfinished(&self) -> Result<(), String> {
        let finished = |peer: &mut Peer| {
            peer.poll();
            peer.waiting_for().map_or(Ok(()), |index| Err(format!("exchange {index}: no answer")))
        };
        self.peers.borrow_mut().iter_mut().try_for_each(finished)
    }
}

/// Creates a zero-filled disk for each block device in the manifest of the unikernel in `file`, and
/// a loopback wire for each network device.
///
/// # Errors
/// Returns a message if the file is invalid.
pub fn plain_devices(file: &[u8]) -> Result<(Vec<(String, Slot)>, Wires), String> {
    /// Size of a disk in bytes.
    const DISK: usize = 1 << 20;
    let (mut slots, mut wires) = (Vec::new(), Wires::default());
    for (device, handle) in monitor::manifest(file)?.devices().iter().zip(1u8..) {
        let slot = match device.kind {
            Declared::Block => Slot::Block(Box::new(RamDisk::new(vec![0; DISK], 512))),
            Declared::Net => {
                let wire = Wire::loopback();
                wires.near.push((handle.into(), wire.clone()));
                Slot::Net(Box::new(WireNet::new(wire, [0x02, 0, 0, 0, 0, handle], 1500)))
            }
        };
        slots.push((device.name.clone(), slot));
    }
    Ok((slots, wires))
}

/// Runs every case that applies to the machine.
pub fn run(machine: &mut dyn Machine, pack: &Pack<'_>, tally: &mut Tally) {
    let (here, elsewhere): (Vec<&Case>, Vec<&Case>) = SUITE.iter().partition(|case| applies(machine, case));
    let names: Vec<_> = elsewhere.iter().map(|case| case.name).collect();
    tally.say(format_args!("cases skipped on this machine: {}", names.join(", ")));
    let mut exits = 0;
    for case in here {
        let result = pack.suite(case.guest).and_then(|file| check(machine, case, file, tally, &mut exits));
        tally.add_result("case", case.name, result);
    }
    tally.say(format_args!("the conformance table took {exits} exits"));
}

/// Runs one case and compares all results with the expected ones.
///
/// # Errors
/// Returns a message with the first difference.
pub fn run_case(machine: &mut dyn Machine, name: &str, pack: &Pack<'_>, tally: &mut Tally) -> Result<(), String> {
    let case = SUITE.iter().find(|case| case.name == name).ok_or("no such case")?;
    check(machine, case, pack.suite(case.guest)?, tally, &mut 0)
}

fn applies(machine: &dyn Machine, case: &Case) -> bool {
    match case.when {
        When::Always => true,
        When::Can(ability) => machine.can(ability),
        When::Cannot(ability) => !machine.can(ability),
    }
}

/// Checks a case, and adds the number of its exits to `exits`.
fn check(
    machine: &mut dyn Machine,
    case: &Case,
    file: &[u8],
    tally: &mut Tally,
    exits: &mut u64,
) -> Result<(), String> {
    let setup = Setup::new(case, &monitor::manifest(file)?);
    let patience = if case.ends == [End::Never] { Patience::Short } else { Patience::Long };
    let guest = Guest {
        memory: u64::from(case.memory) << 20,
        arguments: case.arguments,
        slots: setup.slots,
        wires: setup.wires.clone(),
        patience,
    };
    let ran = machine.run(file, guest)?;
    *exits += ran.counts.total();
    tally.say(format_args!("guest {}: {}, {}", case.name, ran.outcome, ran.counts));
    judge(case, &ran.outcome, &ran.transcript)
        .and_then(|()| setup.wires.unfinished())
        .and_then(|()| setup.disks.iter().try_for_each(|(name, disk, ram)| compare(name, disk, ram)))
        .map_err(|error| format!("{error}\n--- console\n{}\n---", String::from_utf8_lossy(&ran.transcript)))
}

/// Devices of a case, with the state kept for the comparison.
#[derive(Default)]
struct Setup {
    slots: Vec<(String, Slot)>,
    wires: Wires,
    disks: Vec<(&'static str, Disk, RamDisk)>,
}

impl Setup {
    fn new(case: &Case, manifest: &Manifest) -> Self {
        let mut setup = Self::default();
        for device in case.devices {
            let declared = |found: &Device| found.name == device.name;
            let slot = match device.kind {
                DeviceKind::Block(disk) => {
                    let mut bytes = vec![0; disk.capacity as usize];
                    disk.before.fill(0, &mut bytes);
                    let ram = RamDisk::new(bytes, disk.block_size);
                    setup.disks.push((device.name, disk, ram.clone()));
                    Slot::Block(Box::new(ram))
                }
                DeviceKind::Net(link) => {
                    let (near, far) = Wire::pair();
                    setup.wires.peers.borrow_mut().push(Peer::new(far, link.exchanges));
                    // Handles start at 1. An undeclared device is rejected later.
                    let handle = manifest.devices().iter().position(declared).map_or(0, |index| index as u32 + 1);
                    setup.wires.near.push((handle, near.clone()));
                    Slot::Net(Box::new(WireNet::new(near, link.mac, link.mtu)))
                }
            };
            setup.slots.push((device.name.into(), slot));
        }
        setup
    }
}

fn judge(case: &Case, outcome: &Outcome, console: &[u8]) -> Result<(), String> {
    if let Some(complaint) = case.console.complaint(console) {
        return Err(format!("console: {complaint:?}"));
    }
    let fits = |expected: &End| match (*expected, outcome) {
        // The exit status of a process has 8 bits.
        (End::Status(expected), Outcome::Exited { status, .. }) => *status as u8 == expected,
        (End::Stopped(expected), Outcome::Failed(Failure { reason, .. })) => is(reason, expected),
        (End::Never, Outcome::Interrupted) => true,
        _ => false,
    };
    if case.ends.iter().any(fits) { Ok(()) } else { Err(format!("{outcome}, expected one of {:?}", case.ends)) }
}

/// Returns `true` if a guest was stopped for this reason.
fn is(reason: &Reason, expected: test_suite::Reason) -> bool {
    use test_suite::Reason as Expected;
    match expected {
        Expected::Pointer => matches!(reason, Reason::Hypercall(hypercall::HypercallError::Pointer { .. })),
        Expected::Hypercall => matches!(reason, Reason::Hypercall(hypercall::HypercallError::Unknown(_))),
        Expected::Port => matches!(reason, Reason::Fault(Cause::Port { .. })),
        // No machine here has device memory.
        Expected::Device => false,
        Expected::RingKick => matches!(reason, Reason::RingKick(_)),
        Expected::Halted => matches!(reason, Reason::Halted),
        Expected::NoHandler => matches!(reason, Reason::Fault(Cause::TripleFault)),
        Expected::Memory => matches!(reason, Reason::Fault(Cause::Memory { .. })),
        Expected::Unsupported => matches!(reason, Reason::Fault(Cause::Instruction { .. } | Cause::Unknown { .. })),
    }
}

fn compare(name: &str, disk: &Disk, ram: &RamDisk) -> Result<(), String> {
    let matches = disk.after.matches(0, &ram.contents());
    if matches { Ok(()) } else { Err(format!("block device {name} does not hold {:?}", disk.after)) }
}
