//! Instructions of VMX (SDM volume 3, chapter 31), one function each.
//!
//! The functions of the crate `x86` are not used: they read RFLAGS in a second `asm!` block, and
//! the compiler may change the flags before it. That also costs time at every VMREAD and VMWRITE.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::arch::asm;

/// Error: the instruction failed with VMfailInvalid or VMfailValid (SDM volume 3, 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VmFail;

const fn outcome(failed: u8) -> Result<(), VmFail> {
    if failed == 0 { Ok(()) } else { Err(VmFail) }
}

macro_rules! on_region {
    ($($(#[$doc:meta])* $name:ident = $mnemonic:literal;)*) => {
        $(
            $(#[$doc])*
            /// # Safety
            /// Must run at CPL 0 with CR4.VMXE set. `region` must be the physical address of a
            /// frame that belongs to the caller and has the contents that the instruction expects.
            pub(super) unsafe fn $name(region: u64) -> Result<(), VmFail> {
                let failed: u8;
                // SAFETY: guaranteed by the caller. CF or ZF reports a failure.
                unsafe {
                    asm!(concat!($mnemonic, " [{}]"), "setbe {}", in(reg) &region, out(reg_byte) failed, options(nostack));
                }
                outcome(failed)
            }
        )*
    };
}

on_region! {
    /// Enters VMX operation.
    vmxon = "vmxon";
    /// Writes a VMCS back to its region and makes it inactive.
    vmclear = "vmclear";
    /// Makes a VMCS current.
    vmptrld = "vmptrld";
}

/// Leaves VMX operation.
///
/// # Safety
/// Must run at CPL 0 in VMX operation, with no VMCS active on this CPU.
pub(super) unsafe fn vmxoff() {
    // SAFETY: guaranteed by the caller; outside of a guest the instruction cannot fail.
    unsafe { asm!("vmxoff", options(nostack)) };
}

/// Reads a field of the current VMCS.
///
/// # Safety
/// Must run at CPL 0 in VMX operation, with a current VMCS, on a CPU that has the field.
#[inline]
pub(super) unsafe fn vmread(encoding: u32) -> u64 {
    let value;
    // SAFETY: guaranteed by the caller.
    unsafe {
        asm!("vmread {}, {}", out(reg) value, in(reg) u64::from(encoding), options(nomem, nostack));
    }
    value
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// Must run at CPL 0 in VMX operation, with a current VMCS, on a CPU that has the field. The value
/// must not make a VM exit continue outside of this crate's code.
#[inline]
pub(super) unsafe fn vmwrite(encoding: u32, value: u64) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        asm!("vmwrite {}, {}", in(reg) u64::from(encoding), in(reg) value, options(nomem, nostack));
    }
}

/// Operand of INVEPT and INVVPID: an EPT pointer or VPID, and a linear address.
#[repr(C, align(16))]
struct Descriptor(u64, u64);

/// INVEPT types.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(super) enum InvEpt {
    /// Mappings of one EPT pointer.
    SingleContext = 1,
    /// Mappings of all EPT pointers.
    Global = 2,
}

/// Invalidates cached translations of extended page tables.
///
/// # Safety
/// Must run at CPL 0 in VMX operation, on a CPU that has this type of the instruction.
pub(super) unsafe fn invept(kind: InvEpt, eptp: u64) {
    let descriptor = Descriptor(eptp, 0);
    // SAFETY: guaranteed by the caller.
    unsafe { asm!("invept {}, [{}]", in(reg) kind as u64, in(reg) &descriptor, options(nostack)) };
}

/// Invalidates the translations cached under every VPID except 0.
///
/// # Safety
/// Must run at CPL 0 in VMX operation, on a CPU that has INVVPID of all contexts.
pub(super) unsafe fn invvpid_all() {
    const ALL_CONTEXTS: u64 = 2;
    let descriptor = Descriptor(0, 0);
    // SAFETY: guaranteed by the caller.
    unsafe { asm!("invvpid {}, [{}]", in(reg) ALL_CONTEXTS, in(reg) &descriptor, options(nostack)) };
}
