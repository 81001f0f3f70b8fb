//! A guest on a KVM vCPU.

use std::marker::PhantomData;

use hvt_abi::Gpa;
use hvt_abi::native::Registers;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::exit::{InternalError, hex, internal_error, port_size};
use super::{arch, kvm_error};
#[cfg(target_arch = "x86_64")]
use crate::backend::debug::DebugTarget;
use crate::backend::{Error, Machine, Stop};
use crate::exit::{Cause, Exit, Fault};
use crate::memory::{Access, GuestMemory, MappedMemory};

/// A guest that runs on KVM.
pub struct KvmMachine {
    pub(super) vcpu: VcpuFd,
    /// What the virtual machine's only memory slot points to.
    memory: MappedMemory,
    stop: Stop,
    /// The kick signals the thread that started the guest, so no other may run it: not `Send`.
    _thread: PhantomData<*const ()>,
}

impl KvmMachine {
    pub(super) fn new(vcpu: VcpuFd, memory: MappedMemory, stop: Stop) -> Self {
        Self { vcpu, memory, stop, _thread: PhantomData }
    }

    /// The guest is over.
    #[cold]
    fn over(&mut self, reason: Reason) -> Exit {
        let cause = match reason {
            Reason::Port { port, write } => Cause::Port { port, size: port_size(self.vcpu.get_kvm_run()), write },
            Reason::Memory(address, access) => Cause::Memory { address: address.map(Gpa), access },
            Reason::Shutdown => Cause::TripleFault,
            Reason::InternalError => match internal_error(self.vcpu.get_kvm_run()) {
                InternalError::Emulation(bytes) => self.not_emulated(bytes),
                InternalError::Other(what) => Cause::Unknown { what },
            },
            Reason::EntryFailed(what) => Cause::Unknown { what },
            Reason::Other(name) => {
                let number = self.vcpu.get_kvm_run().exit_reason;
                Cause::Unknown { what: format!("KVM exit reason {number}: {name}") }
            }
        };
        Exit::Fault(Fault { cause, registers: self.registers().ok() })
    }

    /// KVM gave up on an instruction: one that it cannot emulate, or one that lies where there is no memory.
    fn not_emulated(&self, mut bytes: Vec<u8>) -> Cause {
        let rip = self.registers().ok().and_then(|registers| self.vcpu.translate_gva(registers.rip).ok());
        if let Some(rip) = rip.filter(|translation| translation.valid != 0) {
            let address = rip.physical_address;
            if address >= self.memory.size() {
                return Cause::Memory { address: Some(Gpa(address)), access: Access::EXECUTE };
            }
            if bytes.is_empty() {
                // The longest instruction has 15 bytes (SDM volume 2, 2.3.11); past the end of memory there are none.
                bytes.resize(15, 0);
                let _ = self.memory.read(Gpa(address), &mut bytes);
            }
        }
        let what = match bytes.as_slice() {
            [] => "an instruction".to_owned(),
            bytes => format!("the instruction at the start of these bytes: {}", hex(bytes)),
        };
        Cause::Instruction { what }
    }
}

/// Why a guest is over, in KVM's terms.
enum Reason {
    Port { port: u16, write: bool },
    Memory(Option<u64>, Access),
    Shutdown,
    InternalError,
    EntryFailed(String),
    Other(String),
}

impl Reason {
    #[cold]
    fn new(exit: &VcpuExit<'_>) -> Self {
        match exit {
            VcpuExit::IoIn(port, _) => Self::Port { port: *port, write: false },
            VcpuExit::MmioRead(address, _) => Self::Memory(Some(*address), Access::READ),
            VcpuExit::MmioWrite(address, _) => Self::Memory(Some(*address), Access::WRITE),
            // Which access it was is not told. The host can read all of guest memory: it was a write.
            VcpuExit::MemoryFault { gpa, .. } => Self::Memory(Some(*gpa), Access::WRITE),
            VcpuExit::Shutdown => Self::Shutdown,
            VcpuExit::InternalError => Self::InternalError,
            VcpuExit::FailEntry(reason, cpu) => {
                Self::EntryFailed(format!("the hardware refused to enter the guest (reason {reason:#x}, CPU {cpu})"))
            }
            other => Self::Other(format!("{other:?}")),
        }
    }
}

impl Machine for KvmMachine {
    fn run(&mut self) -> Result<Exit, Error> {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    let value = data.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                    let len = data.len();
                    let size = port_size(self.vcpu.get_kvm_run());
                    return match Exit::from_port_write(port, size, value) {
                        // Several elements of a string instruction may come at once. A hypercall comes alone.
                        Some(exit) if len == usize::from(size) => Ok(exit),
                        _ => Ok(self.over(Reason::Port { port, write: true })),
                    };
                }
                Ok(VcpuExit::Hlt) => return Ok(Exit::Halted),
                Ok(VcpuExit::Intr) if self.stop.requested() => return Ok(Exit::Interrupted),
                Ok(VcpuExit::Intr) => {}
                Ok(exit) => {
                    let reason = Reason::new(&exit);
                    return Ok(self.over(reason));
                }
                Err(error) => match error.errno() {
                    libc::EINTR if self.stop.requested() => return Ok(Exit::Interrupted),
                    libc::EINTR => {}
                    // As with `MemoryFault`; kernels before 6.11 do not tell the address.
                    libc::EFAULT => return Ok(self.over(Reason::Memory(None, Access::WRITE))),
                    _ => return Err(kvm_error("running the vCPU", error)),
                },
            }
        }
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn registers(&self) -> Result<Registers, Error> {
        arch::registers(&self.vcpu)
    }

    #[cfg(target_arch = "x86_64")]
    fn debug(&mut self) -> Option<&mut dyn DebugTarget> {
        Some(self)
    }
}
