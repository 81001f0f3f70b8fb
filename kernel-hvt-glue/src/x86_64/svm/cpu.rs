//! SVM on one CPU: switched on and off, and its address space identifiers.

use hvt_abi::x86_64::{Efer, msr};

use crate::{
    host::{Frames, Host, Hpa, OutOfMemory},
    hypervisor::EnableError,
    x86_64::privileged::{rdmsr, wrmsr},
};

/// VM_HSAVE_PA (APM volume 2, 15.30.4): where VMRUN saves the host's state.
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// A CPU on which EFER.SVME is set.
#[derive(Debug)]
pub(crate) struct SvmCpu<H: Host> {
    /// VMRUN's own save area; nobody else looks into it.
    host_save: Frames<H>,
    /// Where VMSAVE puts what VMRUN does not save.
    host_vmcb: Frames<H>,
    /// VM_HSAVE_PA as it was.
    previous_host_save: u64,
    pub(crate) asids: Asids,
}

impl<H: Host> SvmCpu<H> {
    /// Switches SVM on.
    ///
    /// # Safety
    /// CPL 0, SVM is supported, and the caller stays on this CPU.
    pub(crate) unsafe fn enable(host: &H, asids: u32) -> Result<Self, EnableError> {
        let (host_save, host_vmcb) = (Frames::allocate(host, 0)?, Frames::allocate(host, 0)?);
        // SAFETY: the caller's promise; both registers exist where SVM does.
        unsafe {
            let efer = rdmsr(msr::EFER);
            if efer & Efer::SVME.bits() != 0 {
                return Err(EnableError::InUse);
            }
            wrmsr(msr::EFER, efer | Efer::SVME.bits());
            let previous_host_save = rdmsr(VM_HSAVE_PA);
            wrmsr(VM_HSAVE_PA, host_save.base().0);
            Ok(Self { host_save, host_vmcb, previous_host_save, asids: Asids::new(asids) })
        }
    }

    /// Switches SVM off and restores what was there before.
    ///
    /// # Safety
    /// CPL 0 on the CPU that [`enable`](Self::enable) ran on.
    pub(crate) unsafe fn disable(&mut self) {
        // SAFETY: the caller's promise; the values were there before.
        unsafe {
            wrmsr(VM_HSAVE_PA, self.previous_host_save);
            wrmsr(msr::EFER, rdmsr(msr::EFER) & !Efer::SVME.bits());
        }
    }

    /// Where the host's VMSAVE state goes.
    pub(crate) fn host_vmcb(&self) -> Hpa {
        self.host_vmcb.base()
    }

    /// Leaves the frames to the CPU for ever: it may still write to them.
    pub(crate) fn abandon(self) {
        core::mem::forget((self.host_save, self.host_vmcb));
    }
}

/// The address space identifiers of one CPU. Instead of flushing one guest's translations, which not every CPU can do,
/// the guest gets an identifier that was not used since the last flush of them all.
#[derive(Clone, Debug)]
pub(crate) struct Asids {
    count: u32,
    next: u32,
    generation: u64,
}

/// An identifier, and when it was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asid {
    pub(crate) number: u32,
    generation: u64,
}

impl Asids {
    /// Identifiers 1 to `count - 1`; 0 is the host's. The first one given out comes with a flush, since others may
    /// have used the CPU before.
    pub(crate) const fn new(count: u32) -> Self {
        Self { count, next: count, generation: 0 }
    }

    /// An identifier without translations, once the CPU has flushed all of them if the second value says so.
    pub(crate) const fn fresh(&mut self) -> (Asid, bool) {
        let flush = self.next >= self.count;
        if flush {
            self.next = 1;
            self.generation += 1;
        }
        let asid = Asid { number: self.next, generation: self.generation };
        self.next += 1;
        (asid, flush)
    }

    /// Whether the identifier still belongs to who got it.
    pub(crate) const fn is_current(&self, asid: Asid) -> bool {
        asid.generation == self.generation
    }
}

/// No memory for a CPU's areas.
impl From<OutOfMemory> for EnableError {
    fn from(error: OutOfMemory) -> Self {
        Self::OutOfMemory(error)
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_two_guests_share_an_identifier_between_flushes(count in 2..40_u32, guests in 1..200_u32) {
            let mut asids = Asids::new(count);
            let mut used = BTreeSet::new();
            for guest in 0..guests {
                let (asid, flush) = asids.fresh();
                if flush {
                    used.clear();
                }
                prop_assert!(flush || guest > 0, "what was there before is flushed");
                prop_assert!((1..count).contains(&asid.number));
                prop_assert!(used.insert(asid.number));
                prop_assert!(asids.is_current(asid));
            }
        }
    }

    #[test]
    fn a_flush_takes_all_identifiers_back() {
        let mut asids = Asids::new(3);
        let ((first, _), (second, _)) = (asids.fresh(), asids.fresh());
        assert!(asids.is_current(first) && asids.is_current(second));
        let (third, flush) = asids.fresh();
        assert!(flush && third.number == first.number);
        assert!(!asids.is_current(first) && !asids.is_current(second));
    }
}
