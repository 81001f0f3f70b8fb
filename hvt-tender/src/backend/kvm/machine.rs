//! A guest on a KVM vCPU.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use hvt_abi::native::Registers;
use kvm_bindings::{KVM_EXIT_DEBUG, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR};
use kvm_ioctls::VcpuFd;
use syscalls::raw::syscall3;
use syscalls::{Errno, Sysno};

use super::debug::{Capacity, Debugging};
use super::exit::{InternalError, internal_error};
use super::{arch, exit, request};
use crate::Vcpu;
use crate::backend::debug::DebugTarget;
use crate::backend::{BackendError, CancelToken, Machine};
use crate::exit::{Cause, Exit, Fault};
use crate::memory::{GuestMemory, MappedMemory, Usage};
use crate::sandbox::Calls;

/// A guest that runs on KVM.
pub struct KvmMachine {
    pub(super) vcpu: VcpuFd,
    /// What the virtual machine's only memory slot points to.
    pub(super) memory: MappedMemory,
    pub(super) debugging: Debugging,
    pub(super) stop: CancelToken,
    /// The kick signals the thread that started the guest, so no other may run it: not `Send`.
    _thread: PhantomData<*const ()>,
}

impl KvmMachine {
    pub(super) fn new(vcpu: VcpuFd, memory: MappedMemory, capacity: Capacity, stop: CancelToken) -> Self {
        Self { vcpu, memory, debugging: Debugging::new(capacity), stop, _thread: PhantomData }
    }

    /// Enters the guest, by `KVM_RUN`, until something happens to it; returns what the kernel does.
    ///
    /// Without `VcpuFd::run`, which makes of every exit a value with references into the run page: that and taking it apart
    /// again cost 70 instructions a hypercall.
    #[inline]
    fn enter(&self) -> usize {
        // SAFETY: the descriptor is that of a vCPU, and the call has no argument. What it writes is the run page, to
        // which no reference exists now, and guest memory, which is reached through chunks alone.
        unsafe { syscall3(Sysno::ioctl as usize, self.vcpu.as_raw_fd() as usize, request::RUN as usize, 0) }
    }

    /// The hypercall or kick for which the guest came back; `None` where it came for another reason.
    #[inline]
    fn hypercall(&mut self, entered: usize) -> Option<Exit> {
        let run = self.vcpu.get_kvm_run();
        if entered != 0 || run.exit_reason != arch::HYPERCALL {
            return None;
        }
        // SAFETY: `run` is the start of the vCPU's mapping, and that is why it came back.
        unsafe { arch::hypercall(run) }
    }

    /// Goes on after the guest came back for another reason than a hypercall.
    #[cold]
    fn run_on(&mut self, mut entered: usize) -> Result<Exit, BackendError> {
        loop {
            match Errno::from_ret(entered) {
                Ok(_) => match self.vcpu.get_kvm_run().exit_reason {
                    KVM_EXIT_HLT => return Ok(Exit::Halted),
                    KVM_EXIT_INTR if self.stop.interrupts() => return Ok(Exit::Interrupted),
                    KVM_EXIT_INTR => {}
                    KVM_EXIT_DEBUG => {
                        self.debugging.trap = Some(exit::debug(self.vcpu.get_kvm_run()));
                        return Ok(Exit::Interrupted);
                    }
                    _ => return Ok(self.over()),
                },
                Err(Errno::EINTR) if self.stop.interrupts() => return Ok(Exit::Interrupted),
                Err(Errno::EINTR) => {}
                Err(Errno::EFAULT) => {
                    let cause = exit::memory_fault(self.vcpu.get_kvm_run());
                    return Ok(self.fault(cause));
                }
                Err(error) => {
                    let source = io::Error::from_raw_os_error(error.into_raw());
                    return Err(BackendError { what: "running the vCPU", source });
                }
            }
            entered = self.enter();
            if let Some(exit) = self.hypercall(entered) {
                return Ok(exit);
            }
        }
    }

    /// The guest is over, for the reason that stands in the run page.
    fn over(&mut self) -> Exit {
        let run = self.vcpu.get_kvm_run();
        let cause = match run.exit_reason {
            KVM_EXIT_INTERNAL_ERROR => match internal_error(run) {
                InternalError::Emulation(bytes) => arch::not_emulated(&self.vcpu, &self.memory, bytes),
                InternalError::Other(what) => Cause::Unknown { what },
            },
            _ => {
                let cause = exit::cause(run);
                arch::behind(&self.vcpu, cause)
            }
        };
        self.fault(cause)
    }

    /// The vCPU's descriptor.
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the vCPU owns it, and is borrowed for as long.
        unsafe { BorrowedFd::borrow_raw(self.vcpu.as_raw_fd()) }
    }

    /// Allows these requests of the vCPU.
    pub(super) fn allow(&self, calls: &mut Calls, requests: &[libc::Ioctl]) {
        requests.iter().for_each(|request| calls.allow_ioctl(self.descriptor(), *request));
    }

    fn fault(&self, cause: Cause) -> Exit {
        let registers = self.registers().ok().filter(|registers| arch::are_the_guests(registers, &cause));
        Exit::Fault(Fault { cause, registers: registers.map(Box::new) })
    }
}

impl Vcpu for KvmMachine {
    type Error = BackendError;

    // Every hypercall comes through here, and through no more than this.
    #[inline]
    fn run(&mut self) -> Result<Exit, BackendError> {
        let entered = self.enter();
        match self.hypercall(entered) {
            Some(exit) => Ok(exit),
            None => self.run_on(entered),
        }
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn registers(&self) -> Result<Registers, BackendError> {
        arch::registers(&self.vcpu)
    }
}

impl Machine for KvmMachine {
    fn memory_usage(&self) -> std::io::Result<Usage> {
        self.memory.usage()
    }

    fn debug(&mut self) -> Option<&mut dyn DebugTarget> {
        Some(self)
    }

    fn system_calls(&self, calls: &mut Calls) {
        calls.allow_frequent_ioctl(self.descriptor(), request::RUN);
        self.allow(calls, &arch::WHILE_RUNNING);
    }
}
