//! Probes of memory isolation: a guest reaches only its own memory, with the permissions granted.

use alloc::{boxed::Box, string::String};

use hvt_abi::{
    Gpa, GuestRange,
    kernel::{Exit, MemoryViolation},
};
use hvt_bare::frames::FRAME_SIZE;
use kernel_hvt_glue::Permissions;

use super::{
    Answer, Context, Probe, Verdict, code, expect_eq, expect_matches,
    machine::{CODE, DATA, MEMORY, Machine},
};

pub(super) const PROBES: &[Probe] = &[
    Probe { name: "beyond-memory", run: beyond_memory },
    Probe { name: "every-address", run: every_address },
    Probe { name: "permissions", run: permissions },
    Probe { name: "other-vm", run: other_vm },
    Probe { name: "memory-is-zeroed", run: memory_is_zeroed },
];

/// Number that does not occur by accident.
const SECRET: u64 = 0x5ec2_e700_dead_10cc;

/// Runs `code::touch` on `at`. Returns the exits of reading, writing and executing there.
fn touch(context: &mut Context<'_>, machine: &mut Machine, at: Gpa) -> Result<[Exit; 3], String> {
    machine.set(|registers| {
        registers.rip = CODE.0;
        registers.rdi = at.0;
        registers.rsp = DATA.0;
    });
    let mut exits = [Exit::Halt; 3];
    // Length of the accessing instruction; a hypercall follows it.
    for (exit, len) in exits.iter_mut().zip([3, 3, 2]) {
        *exit = machine.run(context.cpu)?;
        match *exit {
            // The access succeeded: this exit is the hypercall.
            Exit::Io(_) => {}
            // A call that cannot fetch its target has pushed its return address, and RIP is at the
            // target.
            Exit::MemoryViolation(MemoryViolation { access, .. }) if access.contains(Permissions::EXECUTE) => {}
            Exit::MemoryViolation(_) => {
                machine.set(|registers| registers.rip += len);
                let hypercall = machine.run(context.cpu)?;
                expect_matches!(hypercall, Exit::Io(_));
            }
            exit => return Err(alloc::format!("{exit}")),
        }
    }
    Ok(exits)
}

fn violation(exit: Exit) -> Option<(Gpa, Permissions)> {
    match exit {
        Exit::MemoryViolation(MemoryViolation { gpa, access, .. }) => Some((gpa, access)),
        _ => None,
    }
}

/// Reading, writing and executing the first byte after a guest's memory causes violations.
fn beyond_memory(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::touch())?;
    for at in [Gpa(MEMORY), Gpa(0xfee0_0000), Gpa(0xffff_fff8)] {
        let [read, write, execute] = touch(context, &mut machine, at)?;
        expect_eq!(violation(read), Some((at, Permissions::READ)));
        expect_matches!(violation(write), Some((gpa, access)) if gpa == at && access.contains(Permissions::WRITE));
        expect_matches!(violation(execute), Some((gpa, access)) if gpa == at && access.contains(Permissions::EXECUTE));
    }
    Ok(Verdict::Passed)
}

/// Every 2 MiB of the first 4 GiB of guest addresses, which include the host's memory: only the
/// guest's own memory is mapped.
fn every_address(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::scan())?;
    machine.set(|registers| {
        registers.rdi = 0;
        registers.rsi = MEMORY;
        registers.rcx = 1 << 32;
    });
    let mut at = MEMORY;
    loop {
        match machine.run(context.cpu)? {
            Exit::MemoryViolation(violation) => {
                expect_eq!((violation.gpa, violation.access), (Gpa(at), Permissions::READ));
                at += MEMORY;
                // Skip the two bytes of `mov al, [rdi]`.
                machine.set(|registers| registers.rip += 2);
            }
            exit => {
                expect_eq!(exit, Exit::Halt);
                expect_eq!(at, 1 << 32);
                return Ok(Verdict::Passed);
            }
        }
    }
}

/// Every withheld permission causes a violation, and every granted permission works.
fn permissions(context: &mut Context<'_>) -> Answer {
    let page = GuestRange::new(DATA, FRAME_SIZE).ok_or("wraps around")?;
    let behind = Gpa(DATA.0 + FRAME_SIZE);
    let mut machine = Machine::new(context.hypervisor, code::touch())?;
    // `ret`, so that the call returns.
    let ret = u64::from_le_bytes([0xc3; 8]);
    for given in [
        Permissions::READ,
        Permissions::READ | Permissions::WRITE,
        Permissions::READ | Permissions::EXECUTE,
        Permissions::all(),
    ] {
        machine.put(DATA, &[ret])?;
        machine.put(behind, &[ret])?;
        machine.vm.protect(page, given).map_err(|error| alloc::format!("{error}"))?;
        let exits = touch(context, &mut machine, DATA)?;
        for (exit, needed) in exits.into_iter().zip([Permissions::READ, Permissions::WRITE, Permissions::EXECUTE]) {
            expect_eq!((given, needed, violation(exit).is_none()), (given, needed, given.contains(needed)));
        }
        // The next page has kept its permissions.
        let exits = touch(context, &mut machine, behind)?;
        expect_matches!(exits, [Exit::Io(_), Exit::Io(_), Exit::Io(_)]);
    }
    machine.vm.unmap(page).map_err(|error| alloc::format!("{error}"))?;
    let exits = touch(context, &mut machine, DATA)?;
    expect_eq!(exits.map(|exit| violation(exit).map(|(gpa, _)| gpa)), [Some(DATA); 3]);
    Ok(Verdict::Passed)
}

/// Counts the occurrences of `word` in the memory of a VM.
fn search(context: &mut Context<'_>, word: u64) -> Result<u64, String> {
    let mut machine = Machine::new(context.hypervisor, code::search())?;
    machine.set(|registers| {
        registers.rax = word;
        registers.rdi = 0;
        registers.rcx = MEMORY / 8;
    });
    expect_eq!(machine.run(context.cpu)?, Exit::Halt);
    Ok(machine.vcpu.registers().rbx)
}

/// Memory of the host and of another VM is not visible to a guest, even at the guest address that
/// equals the physical address.
fn other_vm(context: &mut Context<'_>) -> Answer {
    let secret = Box::new(core::hint::black_box(SECRET));
    let other = Machine::new(context.hypervisor, code::touch())?;
    other.put(DATA, &[SECRET])?;
    expect_eq!(search(context, SECRET)?, 0);
    let theirs = other.vm.translate(DATA).ok_or("the other's memory is not mapped")?.hpa;
    let hosts = (&raw const *secret).addr() as u64;
    let mut machine = Machine::new(context.hypervisor, code::touch())?;
    for at in [theirs.0, hosts] {
        // Both addresses are beyond the guest's own memory, so a guest access there cannot succeed.
        expect_matches!(at, MEMORY..);
        let exits = touch(context, &mut machine, Gpa(at))?;
        for exit in exits {
            expect_eq!(violation(exit).map(|(gpa, _)| gpa), Some(Gpa(at)));
        }
    }
    expect_eq!(*core::hint::black_box(secret), SECRET);
    expect_eq!(other.words(DATA, 1)?, [SECRET]);
    Ok(Verdict::Passed)
}

/// Data that one VM leaves behind is not visible to the next VM.
fn memory_is_zeroed(context: &mut Context<'_>) -> Answer {
    for _ in 0..4 {
        let machine = Machine::new(context.hypervisor, code::touch())?;
        for page in (DATA.0..MEMORY).step_by(FRAME_SIZE as usize) {
            machine.put(Gpa(page), &[SECRET])?;
        }
        drop(machine);
        expect_eq!(search(context, SECRET)?, 0);
    }
    Ok(Verdict::Passed)
}
