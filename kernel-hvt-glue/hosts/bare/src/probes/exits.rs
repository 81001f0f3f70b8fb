//! Probes of exit reports.

use hvt_abi::{
    Gpa,
    kernel::{Direction, EntryFailure, EntryField, Exit, Io},
    x86_64::{Cr0, Cr4, Efer, EntryState, Registers},
};

use super::{
    Answer, Context, Probe, Verdict, code, expect_eq, expect_matches,
    machine::{CODE, INTERRUPT_FLAG, MEMORY, Machine},
};
use crate::{host, interrupts};

pub(super) const PROBES: &[Probe] = &[
    Probe { name: "hypercall", run: hypercall },
    Probe { name: "ports", run: ports },
    Probe { name: "registers", run: registers },
    Probe { name: "timer", run: timer },
    Probe { name: "triple-fault", run: triple_fault },
    Probe { name: "entry-checks", run: entry_checks },
];

const fn out(port: u16, size: u8, value: u32) -> Exit {
    Exit::Io(Io { port, size, direction: Direction::Out, string: false, value })
}

/// The exit of an `out` to the hypercall port has port, size and value; the guest resumes after the
/// instruction.
fn hypercall(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::hypercall())?;
    machine.set(|registers| {
        registers.rax = 0xdead_beef_0018_0000;
        registers.rdx = 0x0505;
    });
    for _ in 0..3 {
        expect_eq!(machine.run(context.cpu)?, out(0x505, 4, 0x18_0000));
    }
    machine.set(|registers| registers.rdx = 0xffff_ffff_ffff_0501);
    expect_eq!(machine.run(context.cpu)?, out(0x501, 4, 0x18_0000));
    Ok(Verdict::Passed)
}

/// Exits distinguish width, direction and string forms; an `in` returns the RAX set by the monitor.
fn ports(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::ports())?;
    expect_eq!(machine.run(context.cpu)?, out(0x501, 4, 0x1122_3344));
    expect_eq!(machine.run(context.cpu)?, out(0x501, 2, 0x3344));
    expect_eq!(machine.run(context.cpu)?, out(0x501, 1, 0x44));
    expect_eq!(machine.run(context.cpu)?, out(0x80, 4, 0x1122_3344));
    let input = |port, size| Exit::Io(Io { port, size, direction: Direction::In, string: false, value: 0 });
    expect_eq!(machine.run(context.cpu)?, input(0x501, 4));
    machine.set(|registers| registers.rax = 0x5566_7788);
    expect_eq!(machine.run(context.cpu)?, input(0x70, 1));
    expect_eq!(machine.vcpu.registers().rax, 0x5566_7788);
    let string = |direction, size| Exit::Io(Io { port: 0x501, size, direction, string: true, value: 0 });
    expect_eq!(machine.run(context.cpu)?, string(Direction::Out, 4));
    expect_eq!(machine.run(context.cpu)?, string(Direction::In, 1));
    expect_eq!(machine.run(context.cpu)?, Exit::Halt);
    Ok(Verdict::Passed)
}

/// All general registers reach the guest and come back unchanged.
fn registers(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::hypercall())?;
    let word = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let given = Registers {
        rax: word(1),
        rbx: word(2),
        rcx: word(3),
        rdx: 0x501,
        rsi: word(4),
        rdi: word(5),
        rbp: word(6),
        rsp: word(7),
        r8: word(8),
        r9: word(9),
        r10: word(10),
        r11: word(11),
        r12: word(12),
        r13: word(13),
        r14: word(14),
        r15: word(15),
        rip: CODE.0,
        rflags: 0x8d7,
    };
    machine.vcpu.set_registers(&given);
    expect_eq!(machine.vcpu.registers(), given);
    for _ in 0..2 {
        expect_eq!(machine.run(context.cpu)?, out(0x501, 4, word(1) as u32));
        // RIP is after the one-byte `out`.
        expect_eq!(machine.vcpu.registers(), Registers { rip: CODE.0 + 1, ..given });
    }
    Ok(Verdict::Passed)
}

/// The timer interrupts a guest that spins, regardless of the guest's own interrupt flag. The guest
/// is not affected.
fn timer(context: &mut Context<'_>) -> Answer {
    for flag in [INTERRUPT_FLAG, 0] {
        let mut machine = Machine::new(context.hypervisor, code::spin())?;
        machine.set(|registers| registers.rflags |= flag);
        // A time slice may end before it begins, but not every one does.
        let mut rounds = 0;
        for _ in 0..10 {
            let ticks = interrupts::ticks();
            host::set_time_slice(2);
            expect_eq!(machine.run_slice(context.cpu)?, Exit::Interrupted);
            let passed = interrupts::ticks() - ticks;
            expect_matches!(passed, 2..);
            let rax = machine.vcpu.registers().rax;
            expect_matches!(rax, _ if rax >= rounds);
            rounds = rax;
        }
        expect_matches!(rounds, 1..);
    }
    Ok(Verdict::Passed)
}

/// An exception that cannot be delivered ends the guest.
fn triple_fault(context: &mut Context<'_>) -> Answer {
    let mut machine = Machine::new(context.hypervisor, code::triple_fault())?;
    expect_eq!(machine.run(context.cpu)?, Exit::TripleFault);
    Ok(Verdict::Passed)
}

/// An entry state that the CPU would reject is rejected with the name of the field.
fn entry_checks(context: &mut Context<'_>) -> Answer {
    let good = EntryState::new(MEMORY, CODE);
    let cases = [
        (EntryField::Cr0, EntryState { cr0: good.cr0.difference(Cr0::PE), ..good }),
        (EntryField::Cr4, EntryState { cr4: good.cr4.difference(Cr4::PAE), ..good }),
        (EntryField::Efer, EntryState { efer: good.efer.difference(Efer::LMA), ..good }),
        (EntryField::Rip, EntryState { rip: Gpa(1 << 63), ..good }),
        (EntryField::Cr3, EntryState { cr3: Gpa(1 << 60), ..good }),
    ];
    for (field, entry) in cases {
        let mut machine = Machine::with_entry(context.hypervisor, code::spin(), &entry)?;
        let exit = machine.run(context.cpu)?;
        expect_matches!(exit, Exit::EntryFailure(EntryFailure { field: found, .. }) if found == field);
    }
    Ok(Verdict::Passed)
}
