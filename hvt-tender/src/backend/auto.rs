//! Selection of one of the backends of this host.

use std::env::consts::{ARCH, OS};

use super::kind::Opened;
use super::{Unavailable, UnavailableReason};
use crate::config::BackendChoice;
use crate::error_chain::ErrorChain;
use crate::sys::backend::KINDS;

/// Opens the backend that the user selected. `Auto` opens the best one available.
///
/// `Auto` selects KVM only if the CPU itself can run guests: without hardware support, `/dev/kvm` is
/// an emulation that is a thousand times slower than a sandboxed process. If the process backend is
/// unavailable, `Auto` selects KVM.
///
/// # Errors
/// Returns [`Unavailable`] if the backend is unavailable on this machine.
pub(crate) fn open(choice: BackendChoice) -> Result<Box<dyn Opened>, Unavailable> {
    if choice != BackendChoice::Auto {
        let kind = KINDS.iter().find(|kind| kind.choice == choice);
        return kind.map_or_else(|| Err(absent(choice)), |kind| (kind.open)());
    }
    let Some((last, better)) = KINDS.split_last() else { return Err(absent(choice)) };
    for kind in better {
        if !(kind.is_fast)() {
            log::info!("the CPU offers neither VMX nor SVM: the guest runs in a sandboxed process");
            continue;
        }
        match (kind.open)() {
            Ok(backend) => return Ok(backend),
            Err(unavailable) => {
                log::info!("{}; the guest runs in a sandboxed process", ErrorChain::of(&unavailable));
            }
        }
    }
    (last.open)()
}

/// Returns the backend that replaces the guest's cycle counter, or `Auto` if there is none.
pub(crate) fn with_cycle_counter() -> BackendChoice {
    KINDS.iter().find(|kind| kind.counts_cycles).map_or(BackendChoice::Auto, |kind| kind.choice)
}

/// Returns whether a backend is available and runs guests at full speed.
pub(crate) fn is_fast(choice: BackendChoice) -> bool {
    KINDS.iter().any(|kind| kind.choice == choice && (kind.is_fast)() && (kind.open)().is_ok())
}

/// Error of a backend that is not compiled in.
fn absent(choice: BackendChoice) -> Unavailable {
    let backend = choice.name();
    let reason = match (choice, OS, ARCH) {
        (BackendChoice::Redox, "linux", _) => UnavailableReason::NotRedox,
        (_, "redox", _) => UnavailableReason::NotLinux,
        (BackendChoice::Process, _, "aarch64") => UnavailableReason::Architecture,
        (BackendChoice::Auto, ..) => UnavailableReason::NoBackend,
        _ => UnavailableReason::NotBuilt { feature: backend },
    };
    Unavailable { backend, reason }
}

/// Backend for tests of other modules: the process backend where it exists, because it needs
/// nothing of the machine.
#[cfg(test)]
pub(crate) const FOR_TESTS: BackendChoice = KINDS[KINDS.len() - 1].choice;
