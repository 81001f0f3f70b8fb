//! Kernel state that a VM exit loads from the VMCS (SDM volume 3, 25.5), and state that it destroys
//! (28.5).

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::arch::asm;

use hvt_abi::x86_64::msr;
use x86::{
    dtables::{DescriptorTablePointer, ldtr, lgdt, lidt, load_ldtr, sgdt, sidt},
    segmentation::{SegmentSelector, cs, ds, es, fs, gs, ss},
    task::{load_tr, tr},
};

use super::{fields, vmcs::Fields};
use crate::x86_64::{
    cpu::HostMsrs,
    privileged::{cr0, cr4, rdmsr},
};

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Table {
    limit: u16,
    base: u64,
}

impl Table {
    /// Reads GDTR or IDTR with SGDT or SIDT.
    ///
    /// # Safety
    /// As for `store`.
    unsafe fn read(store: unsafe fn(&mut DescriptorTablePointer<u64>)) -> Self {
        let mut pointer = DescriptorTablePointer::default();
        // SAFETY: guaranteed by the caller.
        unsafe { store(&mut pointer) };
        let DescriptorTablePointer { limit, base } = pointer;
        Self { limit, base: base.addr() as u64 }
    }

    /// Returns the operand for LGDT or LIDT.
    fn pointer(self) -> DescriptorTablePointer<u64> {
        DescriptorTablePointer { limit: self.limit, base: core::ptr::with_exposed_provenance(self.base as usize) }
    }
}

/// State of the kernel thread that runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostState {
    cr0: u64,
    cr4: u64,
    es: u16,
    cs: u16,
    ss: u16,
    ds: u16,
    fs: u16,
    gs: u16,
    tr: u16,
    ldtr: u16,
    tr_limit: u32,
    fs_base: u64,
    gs_base: u64,
    tr_base: u64,
    gdtr: Table,
    idtr: Table,
    msrs: HostMsrs,
}

/// Limit that a VM exit sets in TR: the size of a TSS without I/O bitmap, minus one.
const TSS_LIMIT: u32 = 0x67;

impl HostState {
    /// Reads the state of this CPU.
    ///
    /// # Safety
    /// Must run at CPL 0.
    pub(super) unsafe fn capture(msrs: HostMsrs) -> Self {
        // SAFETY: guaranteed by the caller. TR refers to a TSS in the GDT.
        unsafe {
            let (gdtr, idtr) = (Table::read(sgdt), Table::read(sidt));
            let (es, cs, ss, ds, fs, gs) = (es(), cs(), ss(), ds(), fs(), gs());
            let (tr, ldtr) = (tr().bits(), ldtr().bits());
            Self {
                cr0: cr0(),
                cr4: cr4(),
                es: es.bits(),
                cs: cs.bits(),
                ss: ss.bits(),
                ds: ds.bits(),
                fs: fs.bits(),
                gs: gs.bits(),
                tr,
                ldtr,
                tr_limit: segment_limit(tr),
                fs_base: rdmsr(msr::FS_BASE),
                gs_base: rdmsr(msr::GS_BASE),
                tr_base: tss_base(gdtr, tr),
                gdtr,
                idtr,
                msrs,
            }
        }
    }

    /// Returns the first selector that a VM exit cannot load: its RPL is not 0, or its segment is
    /// in the LDT (SDM volume 3, 27.2.3).
    pub(super) fn unloadable_selector(&self) -> Option<(&'static str, u16)> {
        let selectors = [("ES", self.es), ("CS", self.cs), ("SS", self.ss), ("DS", self.ds)];
        let more = [("FS", self.fs), ("GS", self.gs), ("TR", self.tr)];
        selectors.into_iter().chain(more).find(|(_, selector)| selector & 7 != 0)
    }

    /// Writes this state and `rip` to the host-state area of the VMCS.
    pub(super) fn write(&self, vmcs: &mut impl Fields, rip: u64) {
        vmcs.write(fields::HOST_CR0, self.cr0);
        vmcs.write(fields::HOST_CR4, self.cr4);
        vmcs.write(fields::HOST_ES_SELECTOR, self.es);
        vmcs.write(fields::HOST_CS_SELECTOR, self.cs);
        vmcs.write(fields::HOST_SS_SELECTOR, self.ss);
        vmcs.write(fields::HOST_DS_SELECTOR, self.ds);
        vmcs.write(fields::HOST_FS_SELECTOR, self.fs);
        vmcs.write(fields::HOST_GS_SELECTOR, self.gs);
        vmcs.write(fields::HOST_TR_SELECTOR, self.tr);
        vmcs.write(fields::HOST_FS_BASE, self.fs_base);
        vmcs.write(fields::HOST_GS_BASE, self.gs_base);
        vmcs.write(fields::HOST_TR_BASE, self.tr_base);
        vmcs.write(fields::HOST_GDTR_BASE, self.gdtr.base);
        vmcs.write(fields::HOST_IDTR_BASE, self.idtr.base);
        vmcs.write(fields::HOST_RIP, rip);
        vmcs.write(fields::HOST_IA32_EFER, self.msrs.efer);
        vmcs.write(fields::HOST_IA32_PAT, self.msrs.pat);
        vmcs.write(fields::HOST_IA32_SYSENTER_CS, self.msrs.sysenter_cs);
        vmcs.write(fields::HOST_IA32_SYSENTER_ESP, self.msrs.sysenter_esp);
        vmcs.write(fields::HOST_IA32_SYSENTER_EIP, self.msrs.sysenter_eip);
    }

    /// Restores the state that VM exits destroy: the limits of GDTR, IDTR and TR, and LDTR.
    ///
    /// # Safety
    /// Must run at CPL 0 with interrupts disabled, on the CPU of [`capture`](Self::capture), whose
    /// descriptor tables must not have moved.
    pub(super) unsafe fn restore(&self) {
        // SAFETY: guaranteed by the caller; the tables were this CPU's before.
        unsafe {
            lgdt(&self.gdtr.pointer());
            lidt(&self.idtr.pointer());
            if self.tr_limit != TSS_LIMIT {
                mark_tss_available(self.gdtr, self.tr);
                load_tr(SegmentSelector::from_raw(self.tr));
            }
            if self.ldtr != 0 {
                load_ldtr(SegmentSelector::from_raw(self.ldtr));
            }
        }
    }
}

/// Returns the limit of the segment of `selector`, or 0 if there is none.
fn segment_limit(selector: u16) -> u32 {
    let limit: u32;
    // SAFETY: LSL reads a descriptor and changes only ZF.
    unsafe {
        asm!("xor {limit:e}, {limit:e}", "lsl {limit:e}, {selector:e}", limit = out(reg) limit,
            selector = in(reg) u32::from(selector), options(nostack, readonly));
    }
    limit
}

/// Returns the address of the descriptor of `selector` in the GDT.
fn descriptor(gdtr: Table, selector: u16) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut::<u64>(gdtr.base as usize).wrapping_byte_add(usize::from(selector & !7))
}

/// Returns the base address of the TSS of `tr` (SDM volume 3, 8.2.3).
///
/// # Safety
/// `gdtr` and `tr` must be this CPU's.
unsafe fn tss_base(gdtr: Table, tr: u16) -> u64 {
    let descriptor = descriptor(gdtr, tr);
    // SAFETY: guaranteed by the caller: the CPU has loaded a 16-byte descriptor from this address.
    let (low, high) = unsafe { (descriptor.read_unaligned(), descriptor.add(1).read_unaligned()) };
    low >> 16 & 0xff_ffff | low >> 32 & 0xff00_0000 | high << 32
}

/// Clears the busy bit of the TSS. LTR rejects a busy TSS.
///
/// # Safety
/// `gdtr` and `tr` must be this CPU's, and the GDT must be writable.
unsafe fn mark_tss_available(gdtr: Table, tr: u16) {
    const BUSY: u64 = 1 << 41;
    let descriptor = descriptor(gdtr, tr);
    // SAFETY: guaranteed by the caller.
    unsafe { descriptor.write_unaligned(descriptor.read_unaligned() & !BUSY) };
}
