//! # Hypervisor scheme
//!
//! Lets a process of the superuser run guests on the virtualization extension of the CPU (Intel
//! VMX, AMD SVM). `hvt_abi::kernel` documents the operations and their results.
//! `kernel_hvt_glue::scheme` implements objects, rights and limits. This file adapts both to this
//! kernel.
//!
//! A guest's memory belongs to the monitor. The scheme pins it page by page, and the kernel
//! accesses it through the linear map. Every frame is freed when the last handle is closed,
//! including when a process dies.
//!
//! Interrupts: a guest is entered from a system call with IF=0, and a physical interrupt causes an
//! exit. The interrupt stays pending, and `Run` returns to user mode, where the interrupt is taken
//! like any other. So the scheduler, signals and the death of a process need no code in this file.
//!
//! CPU vulnerabilities: `kernel_hvt_glue` applies the mitigations that each CPU needs, at every
//! entry and exit and before `Run` returns; its documentation has the table. This kernel remains
//! responsible for microcode and for the sibling hyperthread: on CPUs with L1TF, MDS or TAA,
//! hyperthreading must be disabled for untrusted guests.

use core::{cell::UnsafeCell, num::NonZeroUsize};

use alloc::sync::Arc;
use hvt_abi::kernel::{self, redox, Exit, VcpuState};
use kernel_hvt_glue::{
    scheme::{Caller, Handle, Kernel, Kind, Limits, Scheme, VcpuObject},
    BindError, Cpu, EnableError, Host, Hpa, Hypervisor, Vcpu, Vm,
};
use rmm::Arch;
use slab::Slab;
use spin::Once;
use syscall::CallFlags;

use super::{CallerCtx, KernelScheme, OpenResult, SchemeId, StrOrBytes};
use crate::{
    context::{
        self,
        file::{FileDescription, InternalFlags},
        memory::{AddrSpace, AddrSpaceWrapper, Grant},
    },
    cpu_set::MAX_CPU_COUNT,
    ipi::{ipi_single, IpiKind},
    memory::{
        allocate_p2frame, deallocate_p2frame, total_frames, Frame, Page, PhysicalAddress,
        RaiiFrame, RmmA, VirtualAddress, PAGE_SIZE,
    },
    percpu::ALL_PERCPU_BLOCKS,
    sync::{CleanLockToken, RwLock, L1},
    syscall::{
        data::Map,
        error::{Error, Result, EACCES, EBADF, EINVAL, ENOENT, ENOMEM},
        flag::{MapFlags, O_RDWR},
        usercopy::{UserSliceRo, UserSliceRw, UserSliceWo},
    },
};

/// Maximum number of VMs per user.
const VM_LIMIT: u32 = 128;
/// Maximum number of vCPUs per VM.
const VCPU_LIMIT: u32 = 16;

pub struct HvtScheme;

/// All handles, by number. Each run of a guest looks up its handle, so this is a slab instead of a
/// map.
static HANDLES: RwLock<L1, Slab<Handle<Redox>>> = RwLock::new(Slab::new());

static SCHEME: Once<Scheme<Redox>> = Once::new();

/// Returns the state shared by all handles. The first call detects the machine's features.
fn scheme() -> &'static Scheme<Redox> {
    SCHEME.call_once(|| {
        // The remaining quarter is reserved for other uses.
        let three_quarters = (total_frames() as u64 / 4).saturating_mul(3);
        let limits = Limits {
            pinned: three_quarters.saturating_mul(PAGE_SIZE as u64),
            vms: VM_LIMIT,
            vcpus: VCPU_LIMIT,
        };
        // SAFETY: the kernel runs at CPL 0.
        unsafe { Scheme::new(Redox, limits) }
    })
}

/// Returns the number of this scheme.
pub fn scheme_id() -> SchemeId {
    SchemeId::from(redox::SCHEME_ID)
}

/// Opens the hypervisor on behalf of another scheme.
pub fn open(ctx: CallerCtx, token: &mut CleanLockToken) -> Result<OpenResult> {
    let number = open_root(ctx.uid, token)?;
    let description = FileDescription {
        offset: 0,
        scheme: scheme_id(),
        number,
        flags: O_RDWR as u32,
        internal_flags: InternalFlags::empty(),
    };
    Ok(OpenResult::External(Arc::new(RwLock::new(description))))
}

fn open_root(uid: u32, token: &mut CleanLockToken) -> Result<usize> {
    let handle = Handle::open(&mut Process::new(Some(uid), token)).map_err(errno)?;
    Ok(HANDLES.write(token.token()).insert(handle))
}

/// Converts an error to the error number of user space.
fn errno(error: kernel::KernelError) -> Error {
    Error::new(redox::errno(error))
}

fn handle(number: usize, token: &mut CleanLockToken) -> Result<Handle<Redox>> {
    let handles = HANDLES.read(token.token());
    handles.get(number).cloned().ok_or(Error::new(EBADF))
}

/// Returns the vCPU with this number.
#[inline]
fn vcpu(number: usize, token: &mut CleanLockToken) -> Result<Arc<VcpuObject<Redox>>> {
    match HANDLES.read(token.token()).get(number) {
        Some(Handle::Vcpu(vcpu)) => Ok(Arc::clone(vcpu)),
        _ => Err(Error::new(EBADF)),
    }
}

impl KernelScheme for HvtScheme {
    fn scheme_root(&self, token: &mut CleanLockToken) -> Result<usize> {
        // The owner of a scheme's root decides who receives it. The first process belongs to the
        // superuser.
        open_root(0, token)
    }

    fn kopenat(
        &self,
        number: usize,
        path: StrOrBytes,
        _flags: usize,
        _fcntl_flags: u32,
        ctx: CallerCtx,
        token: &mut CleanLockToken,
    ) -> Result<OpenResult> {
        if !matches!(handle(number, token)?, Handle::Hypervisor) {
            return Err(Error::new(EACCES));
        }
        if !path.as_bytes().is_empty() {
            return Err(Error::new(ENOENT));
        }
        let number = open_root(ctx.uid, token)?;
        Ok(OpenResult::SchemeLocal(number, InternalFlags::empty()))
    }

    fn kdup(
        &self,
        number: usize,
        name: UserSliceRo,
        ctx: CallerCtx,
        token: &mut CleanLockToken,
    ) -> Result<OpenResult> {
        let parent = handle(number, token)?;
        let mut buffer = [0; redox::VCPU.len()];
        let name = buffer.get_mut(..name.len()).map_or(
            Err(Error::new(ENOENT)),
            |buffer| -> Result<&mut [u8]> {
                name.copy_to_slice(buffer)?;
                Ok(buffer)
            },
        )?;
        let kind = match &*name {
            name if name == redox::VM.as_bytes() => Kind::Vm,
            name if name == redox::VCPU.as_bytes() => Kind::Vcpu,
            _ => return Err(Error::new(ENOENT)),
        };
        let child = parent
            .create(scheme(), kind, &mut Process::new(Some(ctx.uid), token))
            .map_err(errno)?;
        let number = HANDLES.write(token.token()).insert(child);
        Ok(OpenResult::SchemeLocal(number, InternalFlags::empty()))
    }

    /// A read of zero bytes from a vCPU runs the vCPU. It is the shortest path through the kernel.
    fn kreadoff(
        &self,
        number: usize,
        buf: UserSliceWo,
        _offset: u64,
        _flags: u32,
        _stored_flags: u32,
        token: &mut CleanLockToken,
    ) -> Result<usize> {
        let vcpu = vcpu(number, token)?;
        if !buf.is_empty() {
            return Err(Error::new(EINVAL));
        }
        vcpu.run(&mut Process::new(None, token)).map_err(errno)?;
        Ok(0)
    }

    fn kcall(
        &self,
        fds: &[usize],
        payload: UserSliceRw,
        _flags: CallFlags,
        metadata: &[u64],
        token: &mut CleanLockToken,
    ) -> Result<usize> {
        let (&[number], &[operation, ref reserved @ ..]) = (fds, metadata) else {
            return Err(Error::new(EINVAL));
        };
        if reserved.iter().any(|&word| word != 0) {
            return Err(Error::new(EINVAL));
        }
        let handle = handle(number, token)?;
        let mut process = Process {
            payload,
            uid: None,
            token,
        };
        let answer = handle
            .call(scheme(), operation, &mut process)
            .map_err(errno)?;
        Ok(answer as usize)
    }

    fn kfmap(
        &self,
        number: usize,
        addr_space: &Arc<AddrSpaceWrapper>,
        map: &Map,
        _consume: bool,
        token: &mut CleanLockToken,
    ) -> Result<usize> {
        let handle = handle(number, token)?;
        let frame = handle.run_page().map_err(errno)?;
        let is_shared = map.flags.contains(MapFlags::MAP_SHARED);
        let refused = MapFlags::PROT_EXEC | MapFlags::MAP_FIXED | MapFlags::MAP_FIXED_NOREPLACE;
        let is_allowed = is_shared && !map.flags.intersects(refused);
        if map.offset != 0 || map.size != PAGE_SIZE || !is_allowed {
            return Err(Error::new(EINVAL));
        }
        let mut token = token.token();
        let page = addr_space.acquire_write(token.downgrade()).mmap_anywhere(
            addr_space,
            NonZeroUsize::MIN,
            map.flags,
            // `handle` holds a reference until the grant has its own.
            |page, flags, mapper, flusher| {
                Grant::allocated_shared_one_page(
                    frame_of(frame),
                    page,
                    flags,
                    mapper,
                    flusher,
                    false,
                )
            },
        )?;
        Ok(page.start_address().data())
    }

    fn kfpath(&self, number: usize, buf: UserSliceWo, token: &mut CleanLockToken) -> Result<usize> {
        let path = match handle(number, token)? {
            Handle::Hypervisor => "/scheme/hvt",
            Handle::Vm(_) => "/scheme/hvt/vm",
            Handle::Vcpu(_) => "/scheme/hvt/vm/vcpu",
        };
        buf.copy_common_bytes_from_slice(path.as_bytes())
    }

    fn close(&self, number: usize, token: &mut CleanLockToken) -> Result<()> {
        let handle = HANDLES.write(token.token()).try_remove(number);
        // A VM is dropped here, without a lock.
        handle.map(drop).ok_or(Error::new(EBADF))
    }
}

/// This kernel.
#[derive(Clone, Copy)]
pub struct Redox;

fn frame_of(hpa: Hpa) -> Frame {
    Frame::containing(PhysicalAddress::new(hpa.0 as usize))
}

fn hpa_of(frame: Frame) -> Hpa {
    Hpa(frame.base().data() as u64)
}

// SAFETY: frames come from the frame allocator, zeroed and aligned to their block; all of its
// memory is in the linear map; logical CPU ids are unique.
unsafe impl Host for Redox {
    fn allocate(&self, order: u32) -> Option<Hpa> {
        allocate_p2frame(order).map(hpa_of)
    }

    unsafe fn free(&self, base: Hpa, order: u32) {
        // SAFETY: guaranteed by the caller.
        unsafe { deallocate_p2frame(frame_of(base), order) }
    }

    #[inline]
    fn phys_to_virt(&self, hpa: Hpa) -> *mut u8 {
        // As `RmmA::phys_to_virt`, without its check that the address is in RAM.
        RmmA::PHYS_OFFSET.wrapping_add(hpa.0 as usize) as *mut u8
    }

    #[inline]
    fn cpu_index(&self) -> u32 {
        crate::cpu_id().get()
    }

    /// Requests for the CPU come as interrupts, and with IF=0 an interrupt ends the run.
    #[inline]
    fn wants_cpu(&self) -> bool {
        false
    }
}

// SAFETY: frames that are shared with user space are counted in their `PageInfo`.
unsafe impl Kernel for Redox {
    fn allocate_shared(&self) -> Option<Hpa> {
        RaiiFrame::allocate().ok().map(|frame| hpa_of(frame.take()))
    }

    unsafe fn release(&self, frame: Hpa) {
        // SAFETY: the caller guarantees that the reference is one that `take` has leaked.
        drop(unsafe { RaiiFrame::new_unchecked(frame_of(frame)) });
    }

    fn kick(&self, cpu: u32) {
        let block = ALL_PERCPU_BLOCKS.get(cpu as usize);
        // SAFETY: per-CPU blocks are never freed.
        let block = block.and_then(|block| unsafe {
            block.load(core::sync::atomic::Ordering::Acquire).as_ref()
        });
        if let Some(block) = block.filter(|block| block.cpu_id != crate::cpu_id()) {
            ipi_single(IpiKind::Wakeup, block);
        }
    }
}

/// State of one CPU for running guests: created on first use, and never dropped.
struct PerCpu(UnsafeCell<Option<Cpu<Redox>>>);

// SAFETY: only `with_cpu` accesses the value, on the CPU that owns it.
unsafe impl Sync for PerCpu {}

static CPUS: [PerCpu; MAX_CPU_COUNT as usize] =
    [const { PerCpu(UnsafeCell::new(None)) }; MAX_CPU_COUNT as usize];

/// Calls `f` with this CPU prepared. `f` must not switch contexts.
#[inline]
fn with_cpu<T>(
    f: impl FnOnce(&mut Cpu<Redox>) -> Result<T, kernel::KernelError>,
) -> Result<T, kernel::KernelError> {
    let slot = CPUS
        .get(crate::cpu_id().get() as usize)
        .ok_or(kernel::KernelError::CpuUnavailable)?;
    // SAFETY: the slot belongs to this CPU. The kernel is not preemptible and interrupt handlers
    // run no guests, so no other code gets here before `f` has returned.
    let slot = unsafe { &mut *slot.0.get() };
    let cpu = match slot {
        Some(cpu) => cpu,
        None => slot.insert(enable(scheme().hypervisor()?)?),
    };
    f(cpu)
}

#[cold]
fn enable(hypervisor: &Hypervisor<Redox>) -> Result<Cpu<Redox>, kernel::KernelError> {
    // SAFETY: CPL 0; the kernel is not preemptible, runs with CR0.TS and CR0.EM clear, and no other
    // code uses the extension.
    unsafe { hypervisor.enable() }.map_err(|error| {
        warn!("hvt: CPU {}: {}", crate::cpu_id(), error);
        match error {
            EnableError::OutOfMemory(_) => kernel::KernelError::OutOfMemory,
            _ => kernel::KernelError::CpuUnavailable,
        }
    })
}

/// Calling process, for the duration of the call.
struct Process<'a> {
    payload: UserSliceRw,
    uid: Option<u32>,
    token: &'a mut CleanLockToken,
}

impl<'a> Process<'a> {
    /// Creates the value for a call without a structure.
    fn new(uid: Option<u32>, token: &'a mut CleanLockToken) -> Self {
        Self {
            payload: UserSliceRw::empty(),
            uid,
            token,
        }
    }
}

// SAFETY: `borrow_frame_enforce_rw_allocated` accepts only pages of `Provider::Allocated` grants,
// resolves CoW, and counts a reference. A page with such a reference cannot become CoW again.
unsafe impl Caller<Redox> for Process<'_> {
    fn user(&mut self) -> u32 {
        let token = &mut *self.token;
        *self
            .uid
            .get_or_insert_with(|| context::current().read(token.token()).euid)
    }

    fn is_superuser(&mut self) -> bool {
        self.user() == 0
    }

    #[inline]
    fn payload_len(&self) -> usize {
        self.payload.len()
    }

    fn read_payload(&mut self, to: &mut [u8]) -> Result<(), kernel::KernelError> {
        let copied = self.payload.copy_to_slice(to);
        copied.map_err(|_| kernel::KernelError::BadAddress)
    }

    fn write_payload(&mut self, from: &[u8]) -> Result<(), kernel::KernelError> {
        let copied = self.payload.copy_from_slice(from);
        copied.map_err(|_| kernel::KernelError::BadAddress)
    }

    fn pin(&mut self, address: u64) -> Result<Hpa, kernel::KernelError> {
        let space = AddrSpace::current().map_err(|_| kernel::KernelError::NotOwnMemory)?;
        let page = Page::containing_address(VirtualAddress::new(address as usize));
        let error = match space.borrow_frame_enforce_rw_allocated(page, self.token) {
            Ok(frame) => return Ok(hpa_of(frame.take())),
            Err(error) => error,
        };
        // The function returns ENOMEM for a page that is not writable now, but may become writable.
        let token = self.token.downgrade();
        let is_writable = match space.acquire_read(token).grants.contains(page) {
            Some((_, grant)) => grant.flags().has_write(),
            None => false,
        };
        Err(if error.errno == ENOMEM && is_writable {
            kernel::KernelError::OutOfMemory
        } else {
            kernel::KernelError::NotOwnMemory
        })
    }

    #[inline]
    fn run(&mut self, vcpu: &mut Vcpu<Redox>, vm: &Vm<Redox>) -> Result<Exit, kernel::KernelError> {
        with_cpu(|cpu| {
            // SAFETY: the kernel is compiled without floating-point and vector registers, which
            // hold the user's state during a system call. No context switch happens before the
            // value is dropped.
            let bound = unsafe { vcpu.bind_keeping_fpu(cpu, vm) };
            Ok(bound.map_err(unbound)?.run())
        })
    }

    fn state(
        &mut self,
        vcpu: &mut Vcpu<Redox>,
        vm: &Vm<Redox>,
    ) -> Result<VcpuState, kernel::KernelError> {
        with_cpu(|cpu| Ok(vcpu.bind(cpu, vm).map_err(unbound)?.state()))
    }
}

/// Logs the reason that a vCPU cannot run on this CPU.
#[cold]
fn unbound(error: BindError) -> kernel::KernelError {
    warn!("hvt: CPU {}: {}", crate::cpu_id(), error);
    kernel::KernelError::CpuUnavailable
}
