//! Numbers of KVM requests (`include/uapi/linux/kvm.h`) for the sandbox. The numbers in kvm-ioctls
//! are private.

use kvm_bindings::KVMIO;
use nix::request_code_none;

/// `KVM_RUN`.
pub(super) const RUN: libc::Ioctl = request_code_none!(KVMIO, 0x80);
