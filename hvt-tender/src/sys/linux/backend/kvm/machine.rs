//! Guest on a KVM vCPU.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

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

/// Guest that runs on KVM.
pub(crate) struct KvmMachine {
    pub(super) vcpu: VcpuFd,
    /// Memory of the virtual machine's only memory slot.
    pub(super) memory: MappedMemory,
    pub(super) debugging: Debugging,
    pub(super) stop: CancelToken,
    /// Makes the type not `Send`: the kick signals the thread that started the guest, so no other
    /// thread may run it.
    _thread: PhantomData<*const ()>,
}

impl KvmMachine {
    pub(super) fn new(vcpu: VcpuFd, memory: MappedMemory, capacity: Capacity, stop: CancelToken) -> Self {
        Self { vcpu, memory, debugging: Debugging::new(capacity), stop, _thread: PhantomData }
    }

    /// Enters the guest with `KVM_RUN` until it exits, and returns the result of the system call.
    ///
    /// Does not use `VcpuFd::run`, which converts every exit to a value with references into the
    /// run page: building and matching that value costs 70 instructions a hypercall.
    #[inline]
    fn enter(&self) -> usize {
        // SAFETY: the descriptor is a vCPU, and the call has no argument. It writes the run page,
        // to which no reference exists now, and guest memory, which is accessed only through
        // chunks.
        unsafe { syscall3(Sysno::ioctl as usize, self.vcpu.as_raw_fd() as usize, request::RUN as usize, 0) }
    }

    /// Returns the hypercall or kick for which the guest exited, or `None` for any other exit.
    #[inline]
    fn hypercall(&mut self, entered: usize) -> Option<Exit> {
        let run = self.vcpu.get_kvm_run();
        if entered != 0 || run.exit_reason != arch::HYPERCALL {
            return None;
        }
        // SAFETY: `run` is the start of the vCPU's mapping, and the exit reason has just been
        // checked.
        unsafe { arch::hypercall(run) }
    }

    /// Handles any exit other than a hypercall and continues the guest if possible.
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

    /// Converts the exit in the run page, which ends the guest.
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

    /// Descriptor of the vCPU.
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the vCPU owns the descriptor and is borrowed for as long.
        unsafe { BorrowedFd::borrow_raw(self.vcpu.as_raw_fd()) }
    }

    /// Allows these ioctl requests to the vCPU.
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

    // Hot path: every hypercall executes exactly this code.
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
