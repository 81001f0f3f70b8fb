//! A guest on a KVM vCPU.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use hvt_abi::native::Registers;
#[cfg(target_arch = "x86_64")]
use kvm_bindings::KVM_EXIT_DEBUG;
use kvm_bindings::{KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR};
use kvm_ioctls::VcpuFd;

use super::exit::{InternalError, internal_error};
use super::{arch, exit, request};
#[cfg(target_arch = "x86_64")]
use crate::backend::debug::DebugTarget;
use crate::backend::{Error, Machine, Stop};
use crate::exit::{Cause, Exit, Fault};
use crate::memory::{GuestMemory, MappedMemory, Usage};
use crate::sandbox::Calls;

/// A guest that runs on KVM.
pub struct KvmMachine {
    pub(super) vcpu: VcpuFd,
    /// What the virtual machine's only memory slot points to.
    pub(super) memory: MappedMemory,
    #[cfg(target_arch = "x86_64")]
    pub(super) debugging: super::debug::Debugging,
    stop: Stop,
    /// The kick signals the thread that started the guest, so no other may run it: not `Send`.
    _thread: PhantomData<*const ()>,
}

impl KvmMachine {
    pub(super) fn new(vcpu: VcpuFd, memory: MappedMemory, stop: Stop) -> Self {
        Self {
            vcpu,
            memory,
            #[cfg(target_arch = "x86_64")]
            debugging: super::debug::Debugging::default(),
            stop,
            _thread: PhantomData,
        }
    }

    /// The guest is over, for the reason that stands in the run page.
    #[cold]
    fn over(&mut self) -> Exit {
        let run = self.vcpu.get_kvm_run();
        let cause = match run.exit_reason {
            KVM_EXIT_INTERNAL_ERROR => match internal_error(run) {
                InternalError::Emulation(bytes) => arch::not_emulated(&self.vcpu, &self.memory, bytes),
                InternalError::Other(what) => Cause::Unknown { what },
            },
            _ => exit::cause(run),
        };
        self.fault(cause)
    }

    fn fault(&self, cause: Cause) -> Exit {
        Exit::Fault(Fault { cause, registers: self.registers().ok().map(Box::new) })
    }

    /// `KVM_RUN` has failed. `None` where the guest is to be entered again.
    #[cold]
    fn failed(&mut self, error: io::Error) -> Option<Result<Exit, Error>> {
        match error.raw_os_error() {
            Some(libc::EINTR) => self.stop.interrupts().then_some(Ok(Exit::Interrupted)),
            Some(libc::EFAULT) => {
                let cause = exit::memory_fault(self.vcpu.get_kvm_run());
                Some(Ok(self.fault(cause)))
            }
            _ => Some(Err(Error { what: "running the vCPU", source: error })),
        }
    }
}

/// [`KVM_RUN`](request::RUN) is called without `VcpuFd::run`, which makes of every exit a value with references into the run page: that
/// and taking it apart again cost 70 instructions a hypercall. Not by `libc::ioctl` either, which collects its arguments
/// from a list.
const KVM_RUN: libc::Ioctl = request::RUN;

impl Machine for KvmMachine {
    fn run(&mut self) -> Result<Exit, Error> {
        loop {
            // SAFETY: the descriptor is that of a vCPU, and the call has no argument. What it writes is the run page, to
            // which no reference exists now, and guest memory, which is reached through chunks alone.
            if unsafe { libc::syscall(libc::SYS_ioctl, self.vcpu.as_raw_fd(), KVM_RUN, 0) } != 0 {
                match self.failed(io::Error::last_os_error()) {
                    Some(result) => return result,
                    None => continue,
                }
            }
            let run = self.vcpu.get_kvm_run();
            match run.exit_reason {
                // SAFETY: `run` is the start of the vCPU's mapping, and that is why it came back.
                arch::HYPERCALL => match unsafe { arch::hypercall(run) } {
                    Some(exit) => return Ok(exit),
                    None => return Ok(self.over()),
                },
                KVM_EXIT_HLT => return Ok(Exit::Halted),
                KVM_EXIT_INTR if self.stop.interrupts() => return Ok(Exit::Interrupted),
                KVM_EXIT_INTR => {}
                #[cfg(target_arch = "x86_64")]
                KVM_EXIT_DEBUG => {
                    self.debugging.trap = Some(exit::debug(run));
                    return Ok(Exit::Interrupted);
                }
                _ => return Ok(self.over()),
            }
        }
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn registers(&self) -> Result<Registers, Error> {
        arch::registers(&self.vcpu)
    }

    fn memory_usage(&self) -> std::io::Result<Usage> {
        self.memory.usage()
    }

    #[cfg(target_arch = "x86_64")]
    fn debug(&mut self) -> Option<&mut dyn DebugTarget> {
        Some(self)
    }

    fn system_calls(&self, calls: &mut Calls) {
        // SAFETY: the vCPU owns the descriptor, and is borrowed for as long.
        let vcpu = unsafe { BorrowedFd::borrow_raw(self.vcpu.as_raw_fd()) };
        for request in [request::RUN].into_iter().chain(arch::WHILE_RUNNING) {
            calls.allow_ioctl(vcpu, request);
        }
    }
}
