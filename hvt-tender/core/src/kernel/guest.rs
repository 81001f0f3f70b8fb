//! Virtual machine with one virtual CPU on an in-kernel hypervisor.

#![expect(unsafe_code, reason = "pages that this process shares with a kernel")]

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::ptr::NonNull;

use hvt_abi::kernel::{Capabilities, ExitRecord, MemoryMapping, Obstacle, Operation, VcpuState, redox};
use hvt_abi::native::{EntryState, Registers};
use hvt_abi::{Gpa, GuestRange, Permissions};
use zerocopy::{FromZeros, IntoBytes};

use super::calls::{Calls, Errno, Page, Payload, Refused};
use crate::exit::{Cause, Exit, Fault, from_kernel};
use crate::memory::MemoryMap;

/// Open in-kernel hypervisor.
pub struct Hypervisor<C: Calls> {
    calls: C,
    handle: C::Handle,
}

impl<C: Calls> Hypervisor<C> {
    /// Opens the hypervisor.
    ///
    /// # Errors
    /// Returns [`Refused`] if the kernel has no hypervisor or the caller is not the superuser.
    pub fn open(calls: C) -> Result<Self, Refused> {
        let handle = calls.open().map_err(Refused::new("opening the hypervisor"))?;
        Ok(Self { calls, handle })
    }

    /// Returns the capabilities of the hypervisor.
    ///
    /// # Errors
    /// Returns [`Refused`] with the kernel's error.
    pub fn capabilities(&self) -> Result<Capabilities, Refused> {
        let mut capabilities = Capabilities::default();
        let payload = Payload::Write(capabilities.as_mut_bytes());
        self.calls
            .call(&self.handle, Operation::GetCapabilities as u64, payload)
            .map_err(Refused::new("querying the hypervisor's capabilities"))?;
        Ok(capabilities)
    }

    /// Returns the reason why this machine cannot run guests, or `None` if it can.
    ///
    /// # Errors
    /// Returns [`Refused`] if the kernel does not report its capabilities.
    pub fn obstacle(&self) -> Result<Option<&'static str>, Refused> {
        let capabilities = self.capabilities()?;
        if capabilities.version != hvt_abi::kernel::VERSION {
            return Ok(Some("the kernel's hypervisor has a different interface version: update kernel or tender"));
        }
        Ok(match Obstacle::from_number(capabilities.obstacle) {
            Some(Obstacle::None) => None,
            Some(Obstacle::NoExtension) => {
                Some("the CPU has no virtualization, or an outer hypervisor hides it: enable nested virtualization")
            }
            Some(Obstacle::DisabledByFirmware) => {
                Some("the firmware has disabled virtualization: enable it in the firmware setup")
            }
            Some(Obstacle::MissingFeature) => Some("the CPU's virtualization lacks a required feature"),
            Some(Obstacle::Kernel) => Some("the kernel does not run the CPU in the required mode"),
            Some(Obstacle::OutOfMemory) => Some("the kernel has too little memory to set up virtualization"),
            None => Some("the kernel reports an obstacle unknown to this tender"),
        })
    }
}

/// Guest that is ready to run. Its virtual CPU is not bound to a thread: any thread that owns it
/// can run it.
pub struct Guest<C: Calls> {
    page: C::Page,
    vcpu: Arc<C::Handle>,
    /// Kept so that it is closed after the virtual CPU; the guest's memory stays pinned until then.
    _vm: C::Handle,
    calls: C,
}

impl<C: Calls + Clone> Guest<C> {
    /// Creates a guest with the `size` bytes at `memory`, already loaded, at its entry point. The
    /// guest has the permissions of `memory_map` on its memory. Memory outside `memory_map` is
    /// readable and writable.
    ///
    /// The kernel keeps the memory until the guest is dropped, even if it is unmapped earlier.
    ///
    /// # Errors
    /// Returns [`Refused`] if a system call fails.
    ///
    /// # Safety
    /// The memory must belong to this process, and no Rust reference to it may exist during the
    /// guest's life, because the guest changes it.
    pub unsafe fn start(
        hypervisor: &Hypervisor<C>,
        memory: NonNull<u8>,
        size: u64,
        memory_map: &MemoryMap,
        entry: &EntryState,
    ) -> Result<Self, Refused> {
        let calls = hypervisor.calls.clone();
        let vm = calls.dup(&hypervisor.handle, redox::VM).map_err(Refused::new("creating a virtual machine"))?;
        let host = memory.as_ptr().expose_provenance() as u64;
        for (range, permissions) in pieces(size, memory_map) {
            map(&calls, &vm, host, range, permissions).map_err(Refused::new("mapping the guest's memory"))?;
        }
        let vcpu = calls.dup(&vm, redox::VCPU).map_err(Refused::new("creating a virtual CPU"))?;
        let state = VcpuState::from(entry);
        calls
            .call(&vcpu, Operation::SetState as u64, Payload::Read(state.as_bytes()))
            .map_err(Refused::new("setting the guest's registers"))?;
        let page = calls.map_page(&vcpu).map_err(Refused::new("mapping the run page"))?;
        Ok(Self { page, vcpu: Arc::new(vcpu), _vm: vm, calls })
    }

    /// Returns a handle that interrupts the guest from another thread.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter<C> {
        Interrupter { calls: self.calls.clone(), vcpu: self.vcpu.clone() }
    }
}

impl<C: Calls> Guest<C> {
    /// Runs the guest until it makes a hypercall, cannot continue, or the host needs the CPU
    /// ([`Exit::Interrupted`]).
    ///
    /// # Errors
    /// Returns [`Refused`] with the kernel's error, which no guest can cause.
    #[inline]
    pub fn run(&mut self) -> Result<Exit, Refused> {
        self.calls.run(&self.vcpu).map_err(Refused::new("running the virtual CPU"))?;
        // SAFETY: the page is mapped and aligned. The kernel has finished writing the record, and
        // every bit pattern is a valid value of its type.
        let record = unsafe { (&raw const (*self.page.start().as_ptr()).exit).read_volatile() };
        let call = record.out32().and_then(|(port, value)| Exit::from_port_write(port, 4, value));
        Ok(call.unwrap_or_else(|| self.other(record)))
    }

    /// Converts an exit that is neither a hypercall nor a kick.
    #[cold]
    fn other(&self, record: ExitRecord) -> Exit {
        if let Some(exit) = record.exit() {
            return from_kernel(exit, || self.registers().unwrap_or_default());
        }
        let what = format!("the kernel reports exit {} in a form unknown to this tender", record.reason);
        Exit::Fault(Fault { cause: Cause::Unknown { what }, registers: self.registers().ok().map(Box::new) })
    }

    /// Returns the guest's registers between two runs.
    ///
    /// # Errors
    /// Returns [`Refused`] with the kernel's error.
    pub fn registers(&self) -> Result<Registers, Refused> {
        let mut state = VcpuState::new_zeroed();
        self.calls
            .call(&self.vcpu, Operation::GetState as u64, Payload::Write(state.as_mut_bytes()))
            .map_err(Refused::new("reading the guest's registers"))?;
        Ok(state.general)
    }
}

/// Handle that ends a guest's run from any thread.
pub struct Interrupter<C: Calls> {
    calls: C,
    vcpu: Arc<C::Handle>,
}

impl<C: Calls> Interrupter<C> {
    /// Makes the current run, or otherwise the next one, end with [`Exit::Interrupted`].
    ///
    /// # Errors
    /// Returns the kernel's [`Errno`].
    pub fn interrupt(&self) -> Result<(), Errno> {
        self.calls.call(&self.vcpu, Operation::Interrupt as u64, Payload::None).map(drop)
    }
}

/// Splits a guest's memory into pieces of equal permissions.
fn pieces(size: u64, memory_map: &MemoryMap) -> impl Iterator<Item = (GuestRange, Permissions)> {
    let gaps = memory_map.regions().iter().map(|region| Some((region.range, region.access))).chain([None]);
    let mut at = Gpa(0);
    gaps.flat_map(move |region| {
        let (start, next) = region.map_or((Gpa(size), Gpa(size)), |(range, _)| (range.start(), range.end()));
        let gap = GuestRange::between(at, start).map(|gap| (gap, Permissions::READ | Permissions::WRITE));
        at = next;
        [gap, region]
    })
    .flatten()
    .filter(|(range, permissions)| !range.is_empty() && !permissions.is_empty())
}

/// Maps `range` for the guest, backed by host memory at guest address + `host`.
fn map<C: Calls>(
    calls: &C,
    vm: &C::Handle,
    host: u64,
    range: GuestRange,
    permissions: Permissions,
) -> Result<(), Errno> {
    let (mut at, end) = (range.start().0, range.end().0);
    while at < end {
        let piece = MemoryMapping {
            gpa: Gpa(at),
            address: host + at,
            len: end - at,
            permissions: permissions.bits(),
            reserved: 0,
        };
        match calls.call(vm, Operation::Map as u64, Payload::Read(piece.as_bytes()))? {
            // A kernel that neither maps anything nor fails would make this loop endless.
            0 => return Err(Errno(redox::errno(hvt_abi::kernel::KernelError::BadArgument))),
            mapped => at = at.saturating_add(mapped as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
