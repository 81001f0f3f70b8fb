//! The numbers of KVM's requests (`include/uapi/linux/kvm.h`), as a sandbox must know them; kvm-ioctls keeps its own to
//! itself.

use kvm_bindings::KVMIO;
use nix::request_code_none;

/// `KVM_RUN`.
pub(super) const RUN: libc::Ioctl = request_code_none!(KVMIO, 0x80);
