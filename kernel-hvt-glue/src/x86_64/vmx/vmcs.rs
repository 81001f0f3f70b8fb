//! The current VMCS.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::marker::PhantomData;

use super::{
    fields::{Field, Width},
    instructions::{vmread, vmwrite},
};

/// VMCS that is current on this CPU. The VMCS stays current while a value exists.
#[derive(Debug)]
pub(super) struct Vmcs(PhantomData<*mut ()>);

impl Vmcs {
    /// # Safety
    /// Must run at CPL 0 in VMX operation. The VMCS of the virtual CPU must be current on this CPU
    /// and stay current.
    #[inline]
    pub(super) unsafe fn current() -> Self {
        Self(PhantomData)
    }
}

/// Fields of a VMCS.
pub(super) trait Fields {
    fn read<W: Width>(&self, field: Field<W>) -> W::Value;

    /// Writes a field. The values of host-state fields must match this CPU, so that a VM exit
    /// returns correctly.
    fn write<W: Width>(&mut self, field: Field<W>, value: W::Value);
}

impl Fields for Vmcs {
    #[inline]
    fn read<W: Width>(&self, field: Field<W>) -> W::Value {
        // SAFETY: guaranteed by the caller of `current`; the fields that this crate uses exist on
        // CPUs with the required capabilities.
        W::truncate(unsafe { vmread(field.encoding()) })
    }

    #[inline]
    fn write<W: Width>(&mut self, field: Field<W>, value: W::Value) {
        // SAFETY: as for `read`; for host-state fields, guaranteed by the callers.
        unsafe { vmwrite(field.encoding(), value.into()) };
    }
}
