//! A guest on a KVM vCPU.

use std::marker::PhantomData;

use hvt_abi::Gpa;
use hvt_abi::native::Registers;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::exit::{InternalError, hex, internal_error, port_size};
use super::{arch, kvm_error};
use crate::backend::{Error, Machine, Stop};
use crate::exit::{Cause, Exit, Fault};
use crate::memory::{Access, GuestMemory, MappedMemory};

/// A guest that runs on KVM.
pub struct KvmMachine {
    vcpu: VcpuFd,
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

    fn fault(&self, cause: Cause) -> Exit {
        Exit::Fault(Fault { cause, registers: self.registers().ok() })
    }

    fn unknown(&self, what: String) -> Exit {
        self.fault(Cause::Unknown { what })
    }

    /// A port was written to: `len` bytes in all, `value` being the first four.
    fn port_write(&mut self, port: u16, len: usize, value: u32) -> Exit {
        let size = port_size(self.vcpu.get_kvm_run());
        // KVM may hand over several elements of a string instruction at once. A hypercall comes alone.
        let once = len == usize::from(size);
        match Exit::from_port_write(port, size, value) {
            Some(exit) if once => exit,
            _ => self.fault(Cause::Port { port, size, write: true }),
        }
    }

    fn port_read(&mut self, port: u16) -> Exit {
        let size = port_size(self.vcpu.get_kvm_run());
        self.fault(Cause::Port { port, size, write: false })
    }

    fn memory_fault(&self, address: Option<u64>, access: Access) -> Exit {
        self.fault(Cause::Memory { address: address.map(Gpa), access })
    }

    fn internal_error(&mut self) -> Exit {
        match internal_error(self.vcpu.get_kvm_run()) {
            InternalError::Emulation(bytes) => self.not_emulated(bytes),
            InternalError::Other(what) => self.unknown(what),
        }
    }

    /// KVM gave up on an instruction: one that it cannot emulate, or one that lies where there is no memory.
    fn not_emulated(&self, mut bytes: Vec<u8>) -> Exit {
        let rip = self.registers().ok().and_then(|registers| self.vcpu.translate_gva(registers.rip).ok());
        if let Some(rip) = rip.filter(|translation| translation.valid != 0) {
            let address = rip.physical_address;
            if address >= self.memory.size() {
                return self.memory_fault(Some(address), Access::EXECUTE);
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
        self.fault(Cause::Instruction { what })
    }
}

impl Machine for KvmMachine {
    fn run(&mut self) -> Result<Exit, Error> {
        loop {
            return Ok(match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    let value = data.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                    let len = data.len();
                    self.port_write(port, len, value)
                }
                Ok(VcpuExit::IoIn(port, _)) => self.port_read(port),
                Ok(VcpuExit::MmioRead(address, _)) => self.memory_fault(Some(address), Access::READ),
                Ok(VcpuExit::MmioWrite(address, _)) => self.memory_fault(Some(address), Access::WRITE),
                Ok(VcpuExit::Hlt) => Exit::Halted,
                Ok(VcpuExit::Shutdown) => self.fault(Cause::TripleFault),
                Ok(VcpuExit::InternalError) => self.internal_error(),
                Ok(VcpuExit::FailEntry(reason, cpu)) => {
                    self.unknown(format!("the hardware refused to enter the guest (reason {reason:#x}, CPU {cpu})"))
                }
                // Which access it was is not told. The host can read all of guest memory: it was a write.
                Ok(VcpuExit::MemoryFault { gpa, .. }) => self.memory_fault(Some(gpa), Access::WRITE),
                Ok(VcpuExit::Intr) => match self.stop.requested() {
                    true => Exit::Interrupted,
                    false => continue,
                },
                Ok(other) => {
                    let name = format!("{other:?}");
                    let reason = self.vcpu.get_kvm_run().exit_reason;
                    self.unknown(format!("KVM exit reason {reason} ({name})"))
                }
                Err(error) => match error.errno() {
                    libc::EINTR if self.stop.requested() => Exit::Interrupted,
                    libc::EINTR => continue,
                    // As with `MemoryFault`; kernels before 6.11 do not tell the address.
                    libc::EFAULT => self.memory_fault(None, Access::WRITE),
                    _ => return Err(kvm_error("running the vCPU", error)),
                },
            });
        }
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn registers(&self) -> Result<Registers, Error> {
        arch::registers(&self.vcpu)
    }
}
