//! The instructions of VMX (SDM volume 3, chapter 31), one function each. Those of the crate `x86` read RFLAGS in a second
//! piece of assembly, before which the compiler may change the flags, and pay for that at every VMREAD and VMWRITE.

use core::arch::asm;

/// The instruction failed: VMfailInvalid or VMfailValid (SDM volume 3, 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VmFail;

const fn outcome(failed: u8) -> Result<(), VmFail> {
    if failed == 0 { Ok(()) } else { Err(VmFail) }
}

macro_rules! on_region {
    ($($(#[$doc:meta])* $name:ident = $mnemonic:literal;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// CPL 0, CR4.VMXE is set, `region` is the physical address of a frame that belongs to the caller and holds
            /// what the instruction expects.
            pub(super) unsafe fn $name(region: u64) -> Result<(), VmFail> {
                let failed: u8;
                // SAFETY: the caller's promise. CF or ZF tells of a failure.
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
    /// Writes a VMCS back to its region and ties it to no CPU.
    vmclear = "vmclear";
    /// Makes a VMCS current.
    vmptrld = "vmptrld";
}

/// Leaves VMX operation.
///
/// # Safety
/// CPL 0, in VMX operation, and no VMCS is tied to this CPU.
pub(super) unsafe fn vmxoff() {
    // SAFETY: the caller's promise; outside of a guest the instruction cannot fail.
    unsafe { asm!("vmxoff", options(nostack)) };
}

/// Reads a field of the current VMCS.
///
/// # Safety
/// CPL 0, in VMX operation, a VMCS is current and the CPU has the field.
#[inline]
pub(super) unsafe fn vmread(encoding: u32) -> u64 {
    let value;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("vmread {}, {}", out(reg) value, in(reg) u64::from(encoding), options(nomem, nostack));
    }
    value
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// CPL 0, in VMX operation, a VMCS is current, the CPU has the field, and the value does not make a VM exit lead
/// elsewhere than this crate's own code.
#[inline]
pub(super) unsafe fn vmwrite(encoding: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("vmwrite {}, {}", in(reg) u64::from(encoding), in(reg) value, options(nomem, nostack));
    }
}

/// What INVEPT and INVVPID read: an EPT pointer or VPID, and a linear address.
#[repr(C, align(16))]
struct Descriptor(u64, u64);

/// INVEPT types.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(super) enum InvEpt {
    /// Mappings of one EPT pointer.
    SingleContext = 1,
    /// Mappings of all.
    Global = 2,
}

/// Invalidates what the CPU has cached of extended page tables.
///
/// # Safety
/// CPL 0, in VMX operation, the CPU has this type of the instruction.
pub(super) unsafe fn invept(kind: InvEpt, eptp: u64) {
    let descriptor = Descriptor(eptp, 0);
    // SAFETY: the caller's promise.
    unsafe { asm!("invept {}, [{}]", in(reg) kind as u64, in(reg) &descriptor, options(nostack)) };
}

/// Invalidates what the CPU has cached under every VPID but 0.
///
/// # Safety
/// CPL 0, in VMX operation, the CPU has INVVPID of all contexts.
pub(super) unsafe fn invvpid_all() {
    const ALL_CONTEXTS: u64 = 2;
    let descriptor = Descriptor(0, 0);
    // SAFETY: the caller's promise.
    unsafe { asm!("invvpid {}, [{}]", in(reg) ALL_CONTEXTS, in(reg) &descriptor, options(nostack)) };
}
