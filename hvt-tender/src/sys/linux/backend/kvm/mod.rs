//! Linux KVM: the guest runs on the CPU's hardware virtualization.
//!
//! There are one virtual machine, one memory slot, and one vCPU on the thread that starts it. There
//! is no interrupt controller, no timer and no device: any exit other than a hypercall ends the
//! guest.
//!
//! Permissions are enforced in two places. The guest's page tables, filled by
//! [`boot`](crate::boot), define which memory is readable, writable and executable. Underneath, the
//! host's mapping is beyond the guest's control: text and read-only data are read-only in it
//! ([`MappedMemory::protect`]), so that a guest cannot write its code or constants, even with other
//! page tables or with CR0.WP cleared. KVM cannot deny execution, so that part of W^X is enforced
//! by the page tables alone.
//!
//! The tender's pages below [`GUEST_VISIBLE_BASE`](hvt_abi::GUEST_VISIBLE_BASE) stay writable in
//! the host's mapping. The CPU itself writes there (accessed and dirty bits of page tables,
//! accessed and busy bits of descriptors), and with nested paging on AMD every walk of a guest page
//! table counts as a write (APM volume 2, 15.25.6). This is safe: the pages are not mapped for the
//! guest, a guest that maps them in other page tables harms only itself, and the tender never reads
//! them back.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod cpuid;
mod debug;
mod exit;
mod kick;
mod machine;
mod request;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use hvt_abi::native::EntryState;
use hvt_abi::{Gpa, GuestRange, MEM_GRANULE};
use kvm_bindings::{KVMIO, kvm_ioeventfd, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
pub(crate) use machine::KvmMachine;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

use crate::backend::frequency::Frequency;
use crate::backend::{BackendError, CancelToken, Kind, Opened, Running, Unavailable, UnavailableReason};
use crate::config::BackendChoice;
use crate::interrupted::retry;
use crate::memory::{GuestMemory, MapError, MappedMemory, MemoryMap};

/// Stable version of the KVM API. Every kernel since 2.6.22 reports it, and no other version may be
/// used.
const API_VERSION: i32 = 12;

/// Required capabilities beyond version 12, on every architecture.
const CAPABILITIES: &[(Cap, &str)] =
    &[(Cap::UserMemory, "KVM_CAP_USER_MEMORY"), (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (Linux 4.11)")];

/// Virtual machine without memory.
pub(crate) struct Kvm {
    vm: VmFd,
    vcpu: VcpuFd,
    model: arch::Model,
    capacity: debug::Capacity,
}

impl Kvm {
    /// Creates a virtual machine with one vCPU.
    ///
    /// # Errors
    /// Returns [`Unavailable`] if there is no KVM, the user lacks the permission, or a required
    /// capability is missing.
    pub(crate) fn open() -> Result<Self, Unavailable> {
        let system = kvm_ioctls::Kvm::new().map_err(|error| not_open(error.into()))?;
        let version = system.get_api_version();
        if version != API_VERSION {
            return Err(unavailable(UnavailableReason::KvmVersion { version, expected: API_VERSION }));
        }
        for (capability, name) in CAPABILITIES.iter().chain(arch::CAPABILITIES) {
            if !system.check_extension(*capability) {
                return Err(unavailable(UnavailableReason::KvmCapability { name }));
            }
        }
        let failed = |what, source| unavailable(UnavailableReason::KvmObject { what, source });
        let vm = retry(|| arch::create_vm(&system).map_err(io::Error::from))
            .map_err(|error| failed("a virtual machine", error))?;
        let vcpu = retry(|| vm.create_vcpu(0).map_err(io::Error::from)).map_err(|error| failed("a vCPU", error))?;
        let model = retry(|| arch::model(&system, &vm).map_err(io::Error::from))
            .map_err(|error| failed("a vCPU like this CPU", error))?;
        arch::restrict(&vm, &vcpu).map_err(|error| failed("a vCPU without MSRs and hypercalls of KVM", error))?;
        Ok(Self { vm, vcpu, model, capacity: debug::Capacity::new(&system) })
    }

    /// Returns true if the CPU itself can run guests.
    ///
    /// Without hardware support, `/dev/kvm` interprets the guest's instructions in software, a
    /// thousand times slower and without SSE. Such a KVM is suitable for tests of this backend, and
    /// is used only if requested by name.
    #[must_use]
    pub(crate) fn has_hardware() -> bool {
        arch::has_hardware()
    }

    /// Returns the frequency of the guest's cycle counter.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the host's counter does not run at a constant rate.
    pub(crate) fn cycle_frequency(&self) -> Result<Frequency, BackendError> {
        arch::cycle_frequency(&self.vcpu)
    }

    /// Makes the guest's kicks of its network ring signal this eventfd, without an exit to this
    /// process.
    ///
    /// # Errors
    /// Returns the error of `KVM_IOEVENTFD`.
    pub(crate) fn kick_rings(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        /// `KVM_IOEVENTFD` (Linux, Documentation/virt/kvm/api.rst, 4.59). `VmFd::register_ioevent`
        /// requires the eventfd type of another library.
        const KVM_IOEVENTFD: libc::Ioctl = libc::_IOW::<kvm_ioeventfd>(KVMIO, 0x79);
        let kick = arch::ring_kick(event);
        // SAFETY: the descriptor is a virtual machine. The structure is read and not kept.
        match unsafe { libc::ioctl(self.vm.as_raw_fd(), KVM_IOEVENTFD, &raw const kick) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Creates guest memory: `size` bytes, private to this process.
    ///
    /// # Errors
    /// Returns [`MapError`] if the memory cannot be mapped.
    pub(crate) fn memory(&self, size: u64) -> Result<MappedMemory, MapError> {
        let memory = MappedMemory::anonymous(size)?;
        advise(&memory);
        Ok(memory)
    }

    /// Creates a guest of this memory at its entry point, to be run by the calling thread.
    ///
    /// Memory that is read-only in `memory_map` becomes read-only for this process too.
    ///
    /// # Errors
    /// Returns [`BackendError`] if a KVM request fails.
    pub(crate) fn start(
        self,
        memory: MappedMemory,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<KvmMachine, BackendError> {
        memory.protect(memory_map).map_err(|source| BackendError { what: "making guest memory read-only", source })?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.size(),
            userspace_addr: memory.host_address().as_ptr() as u64,
        };
        // SAFETY: the slot covers all of `memory`. The machine keeps the memory as long as the vCPU
        // can run, and this process accesses it only through `Chunk`.
        unsafe { self.vm.set_user_memory_region(slot) }
            .map_err(|error| kvm_error("registering guest memory with KVM", error))?;
        arch::set_up(&self, entry)?;
        let Self { vcpu, capacity, .. } = self;
        kick::install(&vcpu, stop)?;
        Ok(KvmMachine::new(vcpu, memory, capacity, stop.clone()))
    }
}

/// KVM among the kinds of backends.
pub(crate) const KIND: Kind = Kind {
    choice: BackendChoice::Kvm,
    is_fast: Kvm::has_hardware,
    counts_cycles: false,
    open: || Ok(Box::new(Kvm::open()?)),
};

impl Opened for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn for_debugger(self: Box<Self>) -> Box<dyn Opened> {
        self
    }

    fn cycle_frequency(&self) -> Option<Result<Frequency, BackendError>> {
        Some(self.cycle_frequency())
    }

    fn kick_rings(&self, doorbell: BorrowedFd<'_>) -> io::Result<()> {
        self.kick_rings(doorbell)
    }

    fn gains_by_rings(&self) -> bool {
        true
    }

    fn memory(&self, size: u64) -> Result<MappedMemory, MapError> {
        self.memory(size)
    }

    fn start(
        self: Box<Self>,
        memory: MappedMemory,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<Box<dyn Running>, BackendError> {
        Ok(Box::new((*self).start(memory, memory_map, entry, stop)?))
    }
}

/// Requests huge pages for the middle of guest memory.
///
/// A guest that fills its memory then executes six times fewer instructions (two times with kernels
/// before 6.7, which do not align the mapping). Both ends keep small pages: they hold the image of
/// a small guest and the stack, a few pages each, and zeroing 2 MiB for each would double the time
/// from loading to the first hypercall.
fn advise(memory: &MappedMemory) {
    const END: u64 = MEM_GRANULE;
    let size = memory.size();
    let middle = END..size.saturating_sub(END).max(END);
    let parts = [
        (0..END, libc::MADV_NOHUGEPAGE),
        (middle.clone(), libc::MADV_HUGEPAGE),
        (middle.end..size, libc::MADV_NOHUGEPAGE),
    ];
    for (part, advice) in parts {
        let Some(range) = GuestRange::between(Gpa(part.start), Gpa(part.end)) else { continue };
        let Some(chunk) = memory.chunk(range) else { continue };
        // SAFETY: the chunk is part of this mapping, and the advice does not change its contents.
        // Failure is ignored: the kernel then has no huge pages.
        unsafe { libc::madvise(chunk.as_ptr().cast(), chunk.len(), advice) };
    }
}

fn kvm_error(what: &'static str, error: kvm_ioctls::Error) -> BackendError {
    BackendError { what, source: error.into() }
}

fn unavailable(reason: UnavailableReason) -> Unavailable {
    Unavailable { backend: "kvm", reason }
}

fn not_open(error: io::Error) -> Unavailable {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => arch::MISSING,
        io::ErrorKind::PermissionDenied => "this user must be a member of the group that owns it, usually kvm",
        _ => "",
    };
    unavailable(UnavailableReason::Kvm { error, remedy })
}
