//! A virtual machine with one virtual CPU, on the kernel's hypervisor.

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

/// The kernel's hypervisor, open.
pub struct Hypervisor<C: Calls> {
    calls: C,
    handle: C::Handle,
}

impl<C: Calls> Hypervisor<C> {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has none, or the caller is not the superuser.
    pub fn open(calls: C) -> Result<Self, Refused> {
        let handle = calls.open().map_err(Refused::new("opening the hypervisor"))?;
        Ok(Self { calls, handle })
    }

    /// What the machine can do.
    ///
    /// # Errors
    /// The kernel's.
    pub fn capabilities(&self) -> Result<Capabilities, Refused> {
        let mut capabilities = Capabilities::default();
        let payload = Payload::Write(capabilities.as_mut_bytes());
        self.calls
            .call(&self.handle, Operation::GetCapabilities as u64, payload)
            .map_err(Refused::new("asking what the hypervisor can do"))?;
        Ok(capabilities)
    }

    /// Why this machine cannot run guests, if it cannot.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn obstacle(&self) -> Result<Option<&'static str>, Refused> {
        let capabilities = self.capabilities()?;
        if capabilities.version != hvt_abi::kernel::VERSION {
            return Ok(Some("the kernel's hypervisor has another version of the interface: update kernel or tender"));
        }
        Ok(match Obstacle::from_number(capabilities.obstacle) {
            Some(Obstacle::None) => None,
            Some(Obstacle::NoExtension) => {
                Some("the CPU offers no virtualization, or a hypervisor above hides it (nested virtualization)")
            }
            Some(Obstacle::DisabledByFirmware) => {
                Some("the firmware has disabled virtualization: enable it in the machine's setup")
            }
            Some(Obstacle::MissingFeature) => Some("the CPU's virtualization lacks a part that is needed"),
            Some(Obstacle::Kernel) => Some("the kernel does not run the CPU in the mode that is needed"),
            Some(Obstacle::OutOfMemory) => Some("the kernel had no memory to set up virtualization"),
            None => Some("the kernel names a reason that this tender does not know"),
        })
    }
}

/// A guest that is ready to run. Its virtual CPU belongs to no thread: whoever has it runs it.
pub struct Guest<C: Calls> {
    page: C::Page,
    vcpu: Arc<C::Handle>,
    /// Held so that it is closed after the virtual CPU: only then is the guest's memory no longer pinned.
    _vm: C::Handle,
    calls: C,
}

impl<C: Calls + Clone> Guest<C> {
    /// Makes a guest of `size` bytes of memory at `memory`, which are loaded already, at its entry point. The guest may do
    /// with its memory what `memory_map` says; in what the layout leaves out it may read and write data.
    ///
    /// The kernel keeps the memory until the guest is dropped, whatever becomes of the mapping.
    ///
    /// # Errors
    /// When the kernel refuses.
    ///
    /// # Safety
    /// The memory is this process' own, and no Rust reference to it exists for as long as the guest does: the guest
    /// changes it.
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
            map(&calls, &vm, host, range, permissions).map_err(Refused::new("giving the guest its memory"))?;
        }
        let vcpu = calls.dup(&vm, redox::VCPU).map_err(Refused::new("creating a virtual CPU"))?;
        let state = VcpuState::from(entry);
        calls
            .call(&vcpu, Operation::SetState as u64, Payload::Read(state.as_bytes()))
            .map_err(Refused::new("setting the guest's registers"))?;
        let page = calls.map_page(&vcpu).map_err(Refused::new("mapping the run page"))?;
        Ok(Self { page, vcpu: Arc::new(vcpu), _vm: vm, calls })
    }

    /// What interrupts it from elsewhere.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter<C> {
        Interrupter { calls: self.calls.clone(), vcpu: self.vcpu.clone() }
    }
}

impl<C: Calls> Guest<C> {
    /// Runs the guest until it wants something, cannot go on, or the host needs the CPU ([`Exit::Interrupted`]).
    ///
    /// # Errors
    /// The kernel's; nothing a guest does causes that.
    #[inline]
    pub fn run(&mut self) -> Result<Exit, Refused> {
        self.calls.run(&self.vcpu).map_err(Refused::new("running the virtual CPU"))?;
        // SAFETY: the page is mapped and aligned. The kernel has finished writing the record; whatever stands there is
        // a value of its type.
        let record = unsafe { (&raw const (*self.page.start().as_ptr()).exit).read_volatile() };
        let call = record.out32().and_then(|(port, value)| Exit::from_port_write(port, 4, value));
        Ok(call.unwrap_or_else(|| self.other(record)))
    }

    /// An exit that is neither a hypercall nor a kick.
    #[cold]
    fn other(&self, record: ExitRecord) -> Exit {
        if let Some(exit) = record.exit() {
            return from_kernel(exit, || self.registers().unwrap_or_default());
        }
        let what = format!("the kernel reports exit {} in a form that this tender does not know", record.reason);
        Exit::Fault(Fault { cause: Cause::Unknown { what }, registers: self.registers().ok().map(Box::new) })
    }

    /// The guest's registers, between two runs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn registers(&self) -> Result<Registers, Refused> {
        let mut state = VcpuState::new_zeroed();
        self.calls
            .call(&self.vcpu, Operation::GetState as u64, Payload::Write(state.as_mut_bytes()))
            .map_err(Refused::new("reading the guest's registers"))?;
        Ok(state.general)
    }
}

/// Makes a guest's run end, from whatever thread.
pub struct Interrupter<C: Calls> {
    calls: C,
    vcpu: Arc<C::Handle>,
}

impl<C: Calls> Interrupter<C> {
    /// Makes the run that is under way, or else the next one, end with [`Exit::Interrupted`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn interrupt(&self) -> Result<(), Errno> {
        self.calls.call(&self.vcpu, Operation::Interrupt as u64, Payload::None).map(drop)
    }
}

/// All of a guest's memory, in pieces of equal permissions.
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

/// Shows the guest what lies `host` bytes beyond its own addresses.
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
            // A kernel that neither maps nor refuses would be asked for ever.
            0 => return Err(Errno(redox::errno(hvt_abi::kernel::Error::BadArgument))),
            mapped => at = at.saturating_add(mapped as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
