//! Linux KVM: the guest runs on the CPU's own virtualization.
//!
//! One virtual machine, one memory slot, one vCPU on the thread that starts it. No interrupt controller, no timer, no
//! device: what is not a hypercall ends the guest.
//!
//! Where permissions come from: the guest's page tables, filled by [`boot`](crate::boot), say what may be read, written
//! and executed. Under them lies what a guest cannot change, the host's own mapping: text and read-only data are
//! read-only there ([`MappedMemory::protect`]), so a guest cannot write its code, nor its constants with page tables of
//! its own or with CR0.WP cleared. KVM has no means to forbid execution, so that part of W^X lives in the page tables
//! alone.
//!
//! The tender's pages below [`GUEST_VISIBLE_BASE`](hvt_abi::GUEST_VISIBLE_BASE) stay writable in the host's mapping:
//! the CPU itself writes there (accessed and dirty bits of page tables, accessed and busy bits of descriptors), and
//! with nested paging on AMD every walk of a guest page table counts as a write (APM volume 2, 15.25.6). Nothing is
//! lost: they are unmapped for the guest, and one that maps them again in tables of its own harms only itself. The
//! tender never reads them back.

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
pub use machine::KvmMachine;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

use super::{BackendError, CancelToken, Unavailable};
use crate::interrupted::retry;
use crate::memory::{GuestMemory, MapError, MappedMemory, MemoryMap};

/// The stable version of the KVM API; every kernel since 2.6.22 reports it, and no other is to be used.
const API_VERSION: i32 = 12;

/// What is needed beyond version 12, on every architecture.
const CAPABILITIES: &[(Cap, &str)] =
    &[(Cap::UserMemory, "KVM_CAP_USER_MEMORY"), (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (Linux 4.11)")];

/// A virtual machine of this host's KVM, still without memory.
pub struct Kvm {
    vm: VmFd,
    vcpu: VcpuFd,
    model: arch::Model,
    capacity: debug::Capacity,
}

impl Kvm {
    /// Makes a virtual machine with one vCPU.
    ///
    /// # Errors
    /// When there is no KVM, it may not be used, or it lacks what is needed.
    pub fn open() -> Result<Self, Unavailable> {
        let system = kvm_ioctls::Kvm::new().map_err(|error| not_open(&error.into()))?;
        let version = system.get_api_version();
        if version != API_VERSION {
            return Err(unavailable(format!("its API version is {version}, not {API_VERSION}")));
        }
        for (capability, name) in CAPABILITIES.iter().chain(arch::CAPABILITIES) {
            if !system.check_extension(*capability) {
                return Err(unavailable(format!("this kernel lacks {name}")));
            }
        }
        let failed = |what: &str, error: io::Error| unavailable(format!("cannot create {what}: {error}"));
        let vm = retry(|| arch::create_vm(&system).map_err(io::Error::from))
            .map_err(|error| failed("a virtual machine", error))?;
        let vcpu = retry(|| vm.create_vcpu(0).map_err(io::Error::from)).map_err(|error| failed("a vCPU", error))?;
        let model = retry(|| arch::model(&system, &vm).map_err(io::Error::from))
            .map_err(|error| failed("a vCPU like this CPU", error))?;
        arch::restrict(&vm, &vcpu).map_err(|error| failed("a vCPU without MSRs and hypercalls of KVM", error))?;
        Ok(Self { vm, vcpu, model, capacity: debug::Capacity::new(&system) })
    }

    /// Whether the CPU itself can run guests.
    ///
    /// A `/dev/kvm` without that interprets the guest's instructions in software: a thousand times slower, and without
    /// SSE. It is good for tests of this backend, and to be used only when asked for by name.
    #[must_use]
    pub fn has_hardware() -> bool {
        arch::has_hardware()
    }

    /// Frequency of the guest's cycle counter.
    ///
    /// # Errors
    /// When the counter of this host does not run evenly.
    pub fn cycle_frequency(&self) -> Result<super::frequency::Frequency, BackendError> {
        arch::cycle_frequency(&self.vcpu)
    }

    /// Lets the guest's kicks of its network ring signal this eventfd, without an exit to this process.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn kick_rings(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        /// `KVM_IOEVENTFD` (Linux, Documentation/virt/kvm/api.rst, 4.59). `VmFd::register_ioevent` wants an eventfd of
        /// a library of its own.
        const KVM_IOEVENTFD: libc::Ioctl = libc::_IOW::<kvm_ioeventfd>(KVMIO, 0x79);
        let kick = arch::ring_kick(event);
        // SAFETY: the descriptor is that of a virtual machine; the structure is read and not kept.
        match unsafe { libc::ioctl(self.vm.as_raw_fd(), KVM_IOEVENTFD, &raw const kick) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Memory for a guest: `size` bytes, private to this process.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn memory(&self, size: u64) -> Result<MappedMemory, MapError> {
        let memory = MappedMemory::anonymous(size)?;
        advise(&memory);
        Ok(memory)
    }

    /// Makes a guest of this memory, at its entry point, run by the calling thread from now on.
    ///
    /// What `memory_map` makes read-only becomes so for this process too.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn start(
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
        // SAFETY: the slot is all of `memory`, which the machine keeps for as long as the vCPU can run, and which
        // this process touches through `Chunk` alone.
        unsafe { self.vm.set_user_memory_region(slot) }
            .map_err(|error| kvm_error("giving guest memory to KVM", error))?;
        arch::set_up(&self, entry)?;
        let Self { vcpu, capacity, .. } = self;
        kick::install(&vcpu, stop)?;
        Ok(KvmMachine::new(vcpu, memory, capacity, stop.clone()))
    }
}

/// Asks for huge pages where they pay.
///
/// A guest that fills its memory is done with six times fewer instructions (two times with kernels before 6.7, which do
/// not align the mapping). The two ends stay as they are: there lie the image of a small guest and the stack, a few
/// pages each, and zeroing 2 MiB for each of them would double what it takes from loading to the first hypercall.
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
        // SAFETY: the chunk is a part of this mapping, and the advice changes nothing of what it holds. It fails where
        // the kernel has no huge pages, and there is nothing to be done about it.
        unsafe { libc::madvise(chunk.as_ptr().cast(), chunk.len(), advice) };
    }
}

fn kvm_error(what: &'static str, error: kvm_ioctls::Error) -> BackendError {
    BackendError { what, source: error.into() }
}

fn unavailable(reason: String) -> Unavailable {
    Unavailable { backend: "kvm", reason }
}

fn not_open(error: &io::Error) -> Unavailable {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => arch::MISSING,
        io::ErrorKind::PermissionDenied => "this user must be a member of the group that owns it, usually kvm",
        _ => return unavailable(format!("cannot open /dev/kvm: {error}")),
    };
    unavailable(format!("cannot open /dev/kvm: {error}: {advice}"))
}
