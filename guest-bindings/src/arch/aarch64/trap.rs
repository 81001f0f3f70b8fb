//! Exception report that terminates the guest.

use core::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::Gpa;

use crate::arch::aarch64_report::{Report, TrapFrame};
use crate::exit::{self, ExitStatus};
use crate::{print, println};

/// Reports the exception and terminates the guest. `vector` is the index of the vector in its
/// table.
pub(super) extern "C" fn report(frame: &TrapFrame, vector: usize) -> ! {
    print!("{}", Report { frame, vector });
    println!("Solo5: ABORT: fatal trap");
    exit::halt(ExitStatus::ABORT, Gpa((&raw const *frame).expose_provenance() as u64))
}

/// Terminates the guest without a report. On the second call it stops the CPU in an endless loop.
pub(super) extern "C" fn give_up() -> ! {
    static GIVING_UP: AtomicBool = AtomicBool::new(false);
    if GIVING_UP.swap(true, Ordering::Relaxed) {
        super::stop();
    }
    exit::halt(ExitStatus::ABORT, Gpa(0))
}
