//! The numbers of KVM's requests (`include/uapi/linux/kvm.h`), as a sandbox must know them; kvm-ioctls keeps its own to
//! itself.

use kvm_bindings::{KVMIO, kvm_regs, kvm_sregs, kvm_translation, kvm_xsave};
use nix::{request_code_none, request_code_read, request_code_readwrite};

/// `KVM_RUN`.
pub(super) const RUN: libc::Ioctl = request_code_none!(KVMIO, 0x80);

/// What is asked of a vCPU once its guest runs: to run, its state, and where an address lies.
pub(super) const WHILE_RUNNING: [libc::Ioctl; 5] = [
    RUN,
    request_code_read!(KVMIO, 0x81, size_of::<kvm_regs>()),
    request_code_read!(KVMIO, 0x83, size_of::<kvm_sregs>()),
    request_code_read!(KVMIO, 0xa4, size_of::<kvm_xsave>()),
    request_code_readwrite!(KVMIO, 0x85, size_of::<kvm_translation>()),
];
