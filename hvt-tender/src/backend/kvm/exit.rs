//! Exits of KVM that end a guest, in words.

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};

/// What `KVM_EXIT_INTERNAL_ERROR` says (Linux, Documentation/virt/kvm/api.rst, section 5).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InternalError {
    /// KVM had to emulate an instruction and could not. Its bytes, where KVM tells.
    Emulation(Vec<u8>),
    /// Anything else: a description.
    Other(String),
}

/// The bytes transferred by one element of the port access that `KVM_EXIT_IO` reports: 1, 2 or 4.
///
/// `VcpuExit` has the product of this and the repetitions of a string instruction only.
pub(super) fn port_size(run: &kvm_run) -> u8 {
    // SAFETY: every bit pattern is a valid value of the members of this union that are read here. They mean something
    // only with exit reason `KVM_EXIT_IO`, which the caller has just seen.
    unsafe { run.__bindgen_anon_1.io.size }
}

/// The internal error that `KVM_EXIT_INTERNAL_ERROR` reports.
pub(super) fn internal_error(run: &kvm_run) -> InternalError {
    // SAFETY: as in `port_size`, with exit reason `KVM_EXIT_INTERNAL_ERROR`.
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
