//! Exceptions: the report that ends the guest, in the words of Solo5's on this architecture.

use core::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::Gpa;

use crate::exit::{self, ExitStatus};
use crate::println;

/// What lies on the stack when [`report`] runs. A tender that dumps core knows this layout by the halt cookie: up to
/// `esr` it is Solo5's.
#[repr(C)]
pub(super) struct TrapFrame {
    /// X0 to X30.
    pub(super) x: [u64; 31],
    /// ELR_EL1: PC.
    pub(super) elr: u64,
    /// SPSR_EL1: PSTATE.
    pub(super) spsr: u64,
    /// ESR_EL1: what happened.
    pub(super) esr: u64,
    /// FAR_EL1: the address that could not be accessed.
    pub(super) far: u64,
    /// SP_EL1.
    pub(super) sp: u64,
}

/// What the four vectors of a group are for (Arm ARM, table D1-5).
const KINDS: [&str; 4] = ["Synchronous Abort", "IRQ", "FIQ", "Error"];

/// ESR_EL1.EC of data aborts: from EL0, and from EL1 (Arm ARM, D17.2.37).
const DATA_ABORTS: [u64; 2] = [0x24, 0x25];

/// Says what happened and ends the guest. Vectors are numbered from the start of their table.
pub(super) extern "C" fn report(frame: &TrapFrame, vector: usize) -> ! {
    // The groups: from EL1 on SP_EL0, from EL1 on SP_EL1, from EL0 in either of its states. But one, nobody expects.
    let (group, kind) = (vector / KINDS.len(), KINDS[vector % KINDS.len()]);
    let (level, unexpected) = (u8::from(group < 2), if group == 1 { "" } else { "Invalid " });
    println!("Solo5: Trap: EL{level} {unexpected}{kind} caught");
    let TrapFrame { x, elr, spsr, esr, far, sp } = frame;
    if DATA_ABORTS.contains(&(esr >> 26 & 0x3f)) {
        println!("Data Abort Address: {far:#018x}");
    }
    println!("Solo5: Dump registers:");
    for (name, value) in [("ESR", esr), ("PC", elr), ("LR", &x[30]), ("SP", sp), ("PSTATE", spsr)] {
        println!("\t {name:<7}: {value:#018x}");
    }
    for (row, values) in x[..30].chunks(4).enumerate() {
        let (first, last) = (4 * row, 4 * row + values.len() - 1);
        match *values {
            [a, b, c, d] => println!("\t x{first:02} ~ x{last:02}: {a:#018x} {b:#018x} {c:#018x} {d:#018x}"),
            _ => println!("\t x{first:02} ~ x{last:02}: {:#018x} {:#018x}", values[0], values[1]),
        }
    }
    println!("Solo5: ABORT: fatal trap");
    exit::halt(ExitStatus::ABORT, Gpa((&raw const *frame).expose_provenance() as u64))
}

/// Ends the guest without a word, once; where that cannot be done either, does nothing for good.
pub(super) extern "C" fn give_up() -> ! {
    static GIVING_UP: AtomicBool = AtomicBool::new(false);
    if GIVING_UP.swap(true, Ordering::Relaxed) {
        super::stop();
    }
    exit::halt(ExitStatus::ABORT, Gpa(0))
}
