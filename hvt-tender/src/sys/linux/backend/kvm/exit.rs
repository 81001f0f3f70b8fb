//! Descriptions of the KVM exits that end a guest.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

use hvt_abi::Gpa;
use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_INTERNAL_ERROR_DELIVERY_EV,
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};

use super::arch;
use crate::exit::Cause;
use crate::memory::Permissions;

/// Contents of `KVM_EXIT_INTERNAL_ERROR` (Linux, Documentation/virt/kvm/api.rst, section 5).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InternalError {
    /// KVM could not emulate an instruction with these bytes, if KVM reports them.
    Emulation(Vec<u8>),
    /// Description of any other error.
    Other(String),
}

/// Returns the cause of an exit that ends the guest, given that `KVM_RUN` returned 0 with an exit
/// reason other than `KVM_EXIT_INTERNAL_ERROR`.
pub(super) fn cause(run: &kvm_run) -> Cause {
    if let Some(cause) = arch::cause(run) {
        return cause;
    }
    let what = &run.__bindgen_anon_1;
    // SAFETY: every bit pattern is a valid value of the union members read here. Each member is
    // meaningful only with the exit reason matched before it.
    unsafe {
        match run.exit_reason {
            KVM_EXIT_MMIO => {
                let access = if what.mmio.is_write != 0 { Permissions::WRITE } else { Permissions::READ };
                Cause::Memory { address: Some(Gpa(what.mmio.phys_addr)), access }
            }
            KVM_EXIT_FAIL_ENTRY => {
                let (reason, cpu) = (what.fail_entry.hardware_entry_failure_reason, what.fail_entry.cpu);
                let what = format!("the hardware refused to enter the guest (reason {reason:#x}, CPU {cpu})");
                Cause::Unknown { what }
            }
            reason => Cause::Unknown { what: format!("KVM exit reason {reason}") },
        }
    }
}

/// Returns the cause of a `KVM_RUN` that failed with EFAULT: the guest accessed memory in a way
/// that this process may not.
pub(super) fn memory_fault(run: &kvm_run) -> Cause {
    // SAFETY: as in `cause`.
    let gpa = unsafe { run.__bindgen_anon_1.memory_fault.gpa };
    // Kernels before 6.11 do not report the address.
    let address = (run.exit_reason == KVM_EXIT_MEMORY_FAULT).then_some(Gpa(gpa));
    // The kind of access is not reported. It was a write, because the host can read all of guest
    // memory.
    Cause::Memory { address, access: Permissions::WRITE }
}

/// Decodes `KVM_EXIT_INTERNAL_ERROR`.
pub(super) fn internal_error(run: &kvm_run) -> InternalError {
    // SAFETY: as in `cause`, with exit reason `KVM_EXIT_INTERNAL_ERROR`.
    let (suberror, data) = unsafe { (run.__bindgen_anon_1.internal.suberror, run.__bindgen_anon_1.internal.data) };
    let name = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => return InternalError::Emulation(instruction(run)),
        KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions that cannot be combined",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while an exception was being delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit unknown to this KVM",
        _ => "unnamed",
    };
    InternalError::Other(format!("KVM internal error {suberror} ({name}), data {:#x} {:#x}", data[0], data[1]))
}

/// Bytes of the instruction that could not be emulated, reported by kernels from 5.14 on.
fn instruction(run: &kvm_run) -> Vec<u8> {
    // SAFETY: as in `internal_error`.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    // `ndata` counts the 8-byte words from `flags` on: `flags` is present if it is not 0, the bytes
    // if it is 3.
    let given =
        failure.ndata >= 3 && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if !given {
        return Vec::new();
    }
    // SAFETY: as above.
    let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    instruction.insn_bytes.into_iter().take(instruction.insn_size.into()).collect()
}

/// Details of a debug exit.
pub(super) fn debug(run: &kvm_run) -> kvm_bindings::kvm_debug_exit_arch {
    // SAFETY: every bit pattern is a valid value of this union member. It is meaningful only with
    // exit reason `KVM_EXIT_DEBUG`, which the caller has checked.
    unsafe { run.__bindgen_anon_1.debug.arch }
}

/// Formats instruction bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulation_failure(ndata: u32, flags: u32, size: u8) -> kvm_run {
        let mut run = kvm_run::default();
        run.__bindgen_anon_1.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
        run.__bindgen_anon_1.emulation_failure.ndata = ndata;
        run.__bindgen_anon_1.emulation_failure.flags = flags.into();
        run.__bindgen_anon_1.emulation_failure.__bindgen_anon_1.__bindgen_anon_1.insn_size = size;
        run.__bindgen_anon_1.emulation_failure.__bindgen_anon_1.__bindgen_anon_1.insn_bytes = [0x0f; 15];
        run
    }

    #[test]
    fn instruction_bytes_are_taken_only_where_kvm_gives_them() {
        let bytes = |run| match internal_error(&run) {
            InternalError::Emulation(bytes) => bytes.len(),
            InternalError::Other(what) => panic!("{what}"),
        };
        assert_eq!(bytes(emulation_failure(3, 1, 4)), 4);
        assert_eq!(bytes(emulation_failure(3, 1, 200)), 15, "a size beyond the longest instruction");
        assert_eq!(bytes(emulation_failure(3, 0, 4)), 0);
        assert_eq!(bytes(emulation_failure(0, 1, 4)), 0, "an older kernel leaves the rest as it was");
    }

    #[test]
    fn other_errors_are_named() {
        let mut run = kvm_run::default();
        run.__bindgen_anon_1.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
        let InternalError::Other(what) = internal_error(&run) else { panic!("not an emulation failure") };
        assert!(what.contains("internal error 3") && what.contains("being delivered"), "{what}");
    }

    #[test]
    fn bytes_are_written_with_two_digits_each() {
        assert_eq!(hex(&[0x0f, 0x01, 0xf8]), "0f 01 f8");
    }
}
