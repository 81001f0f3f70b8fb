//! The current VMCS.

use core::marker::PhantomData;

use super::{
    fields::{Field, Width},
    instructions::{vmread, vmwrite},
};

/// The VMCS that is current on this CPU. As long as a value exists, it stays so.
#[derive(Debug)]
pub(super) struct Vmcs(PhantomData<*mut ()>);

impl Vmcs {
    /// # Safety
    /// CPL 0, in VMX operation, and the VMCS of the virtual CPU in question is and stays current on this CPU.
    #[inline]
    pub(super) unsafe fn current() -> Self {
        Self(PhantomData)
    }
}

/// The fields of a VMCS.
pub(super) trait Fields {
    fn read<W: Width>(&self, field: Field<W>) -> W::Value;

    /// Host-state fields take what is true of this CPU, so that a VM exit leads back to where it should.
    fn write<W: Width>(&mut self, field: Field<W>, value: W::Value);
}

impl Fields for Vmcs {
    #[inline]
    fn read<W: Width>(&self, field: Field<W>) -> W::Value {
        // SAFETY: the promise at `current`; the fields that this crate names exist where its demands on the
        // capabilities are met.
        W::truncate(unsafe { vmread(field.encoding()) })
    }

    #[inline]
    fn write<W: Width>(&mut self, field: Field<W>, value: W::Value) {
        // SAFETY: as for `read`; for host-state fields, the callers'.
        unsafe { vmwrite(field.encoding(), value.into()) };
    }
}
