//! Exceptions: the report that ends the guest.

use core::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::Gpa;

use super::report::{Report, TrapFrame};
use crate::exit::{self, ExitStatus};
use crate::{print, println};

/// Says what happened and ends the guest. Vectors are numbered from the start of their table.
pub(super) extern "C" fn report(frame: &TrapFrame, vector: usize) -> ! {
    print!("{}", Report { frame, vector });
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
