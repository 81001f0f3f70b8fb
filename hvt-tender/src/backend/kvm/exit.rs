//! Exits of KVM that end a guest, in words.

use hvt_abi::Gpa;
use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_INTERNAL_ERROR_DELIVERY_EV,
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};

use super::arch;
use crate::exit::Cause;
use crate::memory::Permissions;

/// What `KVM_EXIT_INTERNAL_ERROR` says (Linux, Documentation/virt/kvm/api.rst, section 5).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InternalError {
    /// KVM had to emulate an instruction and could not. Its bytes, where KVM tells.
    Emulation(Vec<u8>),
    /// Anything else: a description.
    Other(String),
}

/// What a guest did that makes `KVM_RUN` return 0 with any exit reason but `KVM_EXIT_INTERNAL_ERROR`, and that ends it.
pub(super) fn cause(run: &kvm_run) -> Cause {
    if let Some(cause) = arch::cause(run) {
        return cause;
    }
    let what = &run.__bindgen_anon_1;
    // SAFETY: every bit pattern is a valid value of the members of this union that are read here. They mean something
    // only with the exit reason that stands before each.
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

/// What a guest did that makes `KVM_RUN` fail with EFAULT: it accessed memory in a way that this process may not.
pub(super) fn memory_fault(run: &kvm_run) -> Cause {
    // SAFETY: as in `cause`.
    let gpa = unsafe { run.__bindgen_anon_1.memory_fault.gpa };
    // Kernels before 6.11 do not tell the address.
    let address = (run.exit_reason == KVM_EXIT_MEMORY_FAULT).then_some(Gpa(gpa));
    // Which access it was is not told. The host can read all of guest memory: it was a write.
    Cause::Memory { address, access: Permissions::WRITE }
}

/// The internal error that `KVM_EXIT_INTERNAL_ERROR` reports.
pub(super) fn internal_error(run: &kvm_run) -> InternalError {
    // SAFETY: as in `cause`, with exit reason `KVM_EXIT_INTERNAL_ERROR`.
    let (suberror, data) = unsafe { (run.__bindgen_anon_1.internal.suberror, run.__bindgen_anon_1.internal.data) };
    let name = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => return InternalError::Emulation(instruction(run)),
        KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions that cannot be combined",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while an exception was being delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit that this KVM does not know",
        _ => "unnamed",
    };
    InternalError::Other(format!("KVM internal error {suberror} ({name}), data {:#x} {:#x}", data[0], data[1]))
}

/// The bytes of the instruction that could not be emulated: kernels from 5.14 on have them.
fn instruction(run: &kvm_run) -> Vec<u8> {
    // SAFETY: as in `internal_error`.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    // `ndata` counts the 8-byte words from `flags` on; `flags` is there when it is not 0, the bytes when it is 3.
    let given =
        failure.ndata >= 3 && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if !given {
        return Vec::new();
    }
    // SAFETY: as above.
    let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    instruction.insn_bytes.into_iter().take(instruction.insn_size.into()).collect()
}

/// Why a guest under a debugger came back.
pub(super) fn debug(run: &kvm_run) -> kvm_bindings::kvm_debug_exit_arch {
    // SAFETY: every bit pattern is a valid value of this member of the union. It means something only with exit reason
    // `KVM_EXIT_DEBUG`, which the caller has just seen.
    unsafe { run.__bindgen_anon_1.debug.arch }
}

/// Instruction bytes as people write them.
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
