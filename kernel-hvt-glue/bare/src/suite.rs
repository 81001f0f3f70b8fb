//! The conformance table: every case that applies here, on this hypervisor.

use alloc::{boxed::Box, format, string::String, vec, vec::Vec};

use hvt_bare::{
    devices::{RamDisk, Wire, WireNet},
    peer::Peer,
};
use hvt_tender::{
    device::Slot,
    exit::Cause,
    hypercall,
    image::{Device, Manifest},
};
use raw_cpuid::{CpuId, Hypervisor};
use test_suite::{Ability, Case, DeviceKind, Disk, Reason, SUITE, When};
use x86_64::registers::model_specific::Msr;

use crate::{
    console::println,
    interrupts::{self, TIMER_HZ},
    memory::Usage,
    pack::Pack,
    probes::{Answer, Context, Verdict},
    sleep::{Peers, Sleeper},
    unikernel::{self, Config, End, Stop, Unikernel},
};

/// Timer ticks after which a guest that should end is given up: a minute.
const LIMIT: u64 = 60 * TIMER_HZ as u64;
/// The same for one that should not end: a second.
const ENDLESS: u64 = TIMER_HZ as u64;
/// Guest memory in bytes that only a machine with [`Ability::FourGib`] has.
const FOUR_GIB: u64 = 4 << 30;

/// Runs every case that applies, and calls `done` with the name and result of each.
pub(crate) fn run(context: &mut Context<'_>, pack: &Pack<'_>, mut done: impl FnMut(&str, Answer)) {
    let elsewhere: Vec<_> = SUITE.iter().filter(|case| !applies(case)).map(|case| case.name).collect();
    println!("bare: cases for other machines: {}", elsewhere.join(", "));
    for case in SUITE.iter().filter(|case| applies(case)) {
        let answer = match pack.suite(case.guest) {
            Some(file) => check(context, case, file).map(|()| Verdict::Passed),
            None => Err(format!("there is no guest {} in the pack", case.guest)),
        };
        done(case.name, answer);
    }
}

fn applies(case: &Case) -> bool {
    match case.when {
        When::Always => true,
        When::Can(ability) => can(ability),
        When::Cannot(ability) => !can(ability),
    }
}

fn can(ability: Ability) -> bool {
    /// IA32_VMX_EPT_VPID_CAP, of which bit 0 says whether memory can be executed, but not read (SDM A.10).
    const VMX_EPT_VPID_CAP: u32 = 0x48c;
    let cpuid = CpuId::new();
    match ability {
        Ability::ExecuteOnly => {
            let vmx = cpuid.get_feature_info().is_some_and(|features| features.has_vmx());
            // SAFETY: every CPU that has VMX and runs guests here has EPT, and then this MSR.
            vmx && unsafe { Msr::new(VMX_EPT_VPID_CAP).read() } & 1 != 0
        }
        Ability::FourGib => Usage::now().free_frames as u64 * hvt_bare::frames::FRAME_SIZE > FOUR_GIB + (64 << 20),
        Ability::ExactExceptions => {
            !cpuid.get_hypervisor_info().is_some_and(|info| info.identify() == Hypervisor::QEMU)
        }
    }
}

/// Runs one case and compares everything with what it must be.
fn check(context: &mut Context<'_>, case: &Case, file: &[u8]) -> Result<(), String> {
    let setup = Setup::new(case, &unikernel::manifest(file)?);
    let ticks = if case.ends == [test_suite::End::Never] { ENDLESS } else { LIMIT };
    let config = Config {
        memory: u64::from(case.memory) << 20,
        arguments: case.arguments,
        slots: setup.slots,
        sleeper: Sleeper::new(setup.wires, setup.peers.clone()),
        ticks,
    };
    let before = interrupts::ticks();
    let mut guest = Unikernel::load(context.hypervisor, file, config)?;
    let end = guest.run(context.cpu);
    let passed = interrupts::ticks() - before;
    println!("bare: guest {}: {end}, {}, {passed} timer interrupts", case.name, guest.counts());
    judge(case, &end, &guest.transcript())
        .and_then(|()| setup.peers.borrow_mut().iter_mut().try_for_each(finished))
        .and_then(|()| setup.disks.iter().try_for_each(|(name, disk, ram)| compare(name, disk, ram)))
        .map_err(|error| format!("{error}\n--- console\n{}\n---", String::from_utf8_lossy(&guest.transcript())))
}

/// The devices of a case, and what is kept of them.
#[derive(Default)]
struct Setup {
    slots: Vec<(String, Slot)>,
    wires: Vec<(u32, Wire)>,
    peers: Peers,
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
                    setup.peers.borrow_mut().push(Peer::new(far, link.exchanges));
                    // Handles begin at 1. A device that is not declared is refused later.
                    let handle = manifest.devices().iter().position(declared).map_or(0, |index| index as u32 + 1);
                    setup.wires.push((handle, near.clone()));
                    Slot::Net(Box::new(WireNet::new(near, link.mac, link.mtu)))
                }
            };
            setup.slots.push((device.name.into(), slot));
        }
        setup
    }
}

fn judge(case: &Case, end: &End, console: &[u8]) -> Result<(), String> {
    if let Some(complaint) = case.console.complaint(console) {
        return Err(format!("console: {complaint:?}"));
    }
    let fits = |expected: &test_suite::End| match (*expected, end) {
        // The status of a process: 8 bits.
        (test_suite::End::Status(expected), End::Halted(status)) => *status as u8 == expected,
        (test_suite::End::Stopped(reason), End::Stopped(stop)) => is(stop, reason),
        (test_suite::End::Never, End::TimedOut) => true,
        _ => false,
    };
    if case.ends.iter().any(fits) { Ok(()) } else { Err(format!("{end}, expected one of {:?}", case.ends)) }
}

/// Whether a guest was stopped for this reason.
fn is(stop: &Stop, reason: Reason) -> bool {
    match reason {
        Reason::Pointer => matches!(stop, Stop::Hypercall(hypercall::Error::Pointer { .. })),
        Reason::Hypercall => matches!(stop, Stop::Hypercall(hypercall::Error::Unknown(_))),
        Reason::Port => matches!(stop, Stop::Fault(Cause::Port { .. })),
        Reason::Halted => matches!(stop, Stop::Halted),
        Reason::TripleFault => matches!(stop, Stop::Fault(Cause::TripleFault)),
        Reason::Memory => matches!(stop, Stop::Fault(Cause::Memory { .. })),
        Reason::Unsupported => matches!(stop, Stop::Fault(Cause::Instruction { .. } | Cause::Unknown { .. })),
    }
}

fn finished(peer: &mut Peer) -> Result<(), String> {
    peer.poll();
    peer.waiting_for().map_or(Ok(()), |index| Err(format!("exchange {index}: no answer")))
}

fn compare(name: &str, disk: &Disk, ram: &RamDisk) -> Result<(), String> {
    let matches = ram.inspect(|bytes| disk.after.matches(0, bytes));
    if matches { Ok(()) } else { Err(format!("block device {name} does not hold {:?}", disk.after)) }
}
