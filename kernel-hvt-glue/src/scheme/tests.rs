//! Tests of the scheme on a fake kernel, with a process whose pages are counted.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

mod lifecycle;
mod properties;

use alloc::{collections::BTreeMap, rc::Rc, sync::Arc, vec::Vec};
use core::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicU32, Ordering},
};
use std::sync::{Mutex, MutexGuard};

use hvt_abi::{
    Gpa, Permissions,
    kernel::{Capabilities, Exit, KernelError, MemoryMapping, MemoryRange, Operation, RunPage, VcpuState, run_page},
    native::EntryState,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{Caller, Handle, Kernel, Kind, Limits, Scheme};
use crate::{
    Unsupported, Vcpu, Vm,
    fake::{self, FakeHost},
    host::{FRAME_SIZE, Host, Hpa},
};

const PAGE: u64 = FRAME_SIZE;
/// Address of the process's memory.
const USER: u64 = 0x7000_0000;
const LIMITS: Limits = Limits { pinned: 48 * PAGE, vms: 3, vcpus: 2 };
const RW: u32 = Permissions::READ.union(Permissions::WRITE).bits();
const RX: u32 = Permissions::READ.union(Permissions::EXECUTE).bits();

/// Kernel that counts the references to frames.
#[derive(Clone)]
struct FakeKernel {
    host: FakeHost,
    references: Arc<Mutex<BTreeMap<Hpa, u32>>>,
    kicked: Arc<AtomicU32>,
}

impl FakeKernel {
    fn new(frames: usize) -> Self {
        Self { host: FakeHost::new(frames), references: Arc::default(), kicked: Arc::default() }
    }

    fn references(&self) -> MutexGuard<'_, BTreeMap<Hpa, u32>> {
        self.references.lock().unwrap()
    }

    fn reference(&self, frame: Hpa) {
        *self.references().entry(frame).or_default() += 1;
    }

    fn references_to(&self, frame: Hpa) -> u32 {
        self.references().get(&frame).copied().unwrap_or(0)
    }
}

// SAFETY: as for `FakeHost`.
unsafe impl Host for FakeKernel {
    fn allocate(&self, order: u32) -> Option<Hpa> {
        self.host.allocate(order)
    }

    unsafe fn free(&self, base: Hpa, order: u32) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.host.free(base, order) }
    }

    fn phys_to_virt(&self, hpa: Hpa) -> *mut u8 {
        self.host.phys_to_virt(hpa)
    }

    fn cpu_index(&self) -> u32 {
        7
    }

    fn wants_cpu(&self) -> bool {
        true
    }
}

// SAFETY: a frame is freed only with its last reference.
unsafe impl Kernel for FakeKernel {
    fn allocate_shared(&self) -> Option<Hpa> {
        let frame = self.host.allocate(0)?;
        self.reference(frame);
        Some(frame)
    }

    unsafe fn release(&self, frame: Hpa) {
        let mut references = self.references();
        let count = references.get_mut(&frame).expect("a reference that nobody has was released");
        *count -= 1;
        if *count == 0 {
            references.remove(&frame);
            // SAFETY: this was the last reference.
            unsafe { self.host.free(frame, 0) };
        }
    }

    fn kick(&self, cpu: u32) {
        self.kicked.store(cpu, Ordering::Relaxed);
    }
}

/// Page of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UserPage {
    Own(Hpa),
    /// Read-only memory, shared memory, a device, or no memory.
    Foreign,
}

/// Process.
struct Process {
    kernel: FakeKernel,
    user: u32,
    pages: Vec<UserPage>,
    payload: Vec<u8>,
    /// The payload is outside of the process's memory.
    faulty: bool,
    /// Exits of the process's next guests; `Interrupted` if empty.
    exits: Vec<Exit>,
    /// Function that another thread calls while the guest runs.
    meanwhile: Option<fn()>,
}

impl Process {
    /// Creates a process with this number of own pages, followed by one foreign page.
    fn new(kernel: &FakeKernel, pages: usize) -> Self {
        let own = |_| UserPage::Own(kernel.allocate_shared().unwrap());
        let pages = (0..pages).map(own).chain([UserPage::Foreign]).collect();
        let kernel = kernel.clone();
        Self { kernel, user: 0, pages, payload: Vec::new(), faulty: false, exits: Vec::new(), meanwhile: None }
    }

    fn page(&self, address: u64) -> UserPage {
        let index = usize::try_from(address.wrapping_sub(USER) / PAGE).unwrap();
        self.pages.get(index).copied().unwrap_or(UserPage::Foreign)
    }

    /// `munmap` of one page.
    fn give_up(&mut self, index: usize) {
        if let UserPage::Own(frame) = core::mem::replace(&mut self.pages[index], UserPage::Foreign) {
            // SAFETY: the process had one reference.
            unsafe { self.kernel.release(frame) };
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        (0..self.pages.len()).for_each(|index| self.give_up(index));
    }
}

// SAFETY: a pinned page has its own reference.
unsafe impl Caller<FakeKernel> for Process {
    fn user(&mut self) -> u32 {
        self.user
    }

    fn is_superuser(&mut self) -> bool {
        self.user == 0
    }

    fn payload_len(&self) -> usize {
        self.payload.len()
    }

    fn read_payload(&mut self, to: &mut [u8]) -> Result<(), KernelError> {
        if self.faulty {
            return Err(KernelError::BadAddress);
        }
        to.copy_from_slice(&self.payload);
        Ok(())
    }

    fn write_payload(&mut self, from: &[u8]) -> Result<(), KernelError> {
        if self.faulty {
            return Err(KernelError::BadAddress);
        }
        self.payload.copy_from_slice(from);
        Ok(())
    }

    fn pin(&mut self, address: u64) -> Result<Hpa, KernelError> {
        match self.page(address) {
            UserPage::Own(frame) => {
                self.kernel.reference(frame);
                Ok(frame)
            }
            UserPage::Foreign => Err(KernelError::NotOwnMemory),
        }
    }

    fn run(&mut self, vcpu: &mut Vcpu<FakeKernel>, _vm: &Vm<FakeKernel>) -> Result<Exit, KernelError> {
        if let Some(exit) = vcpu.ended() {
            return Ok(exit);
        }
        if let Some(meanwhile) = self.meanwhile {
            meanwhile();
        }
        let exit = self.exits.pop().unwrap_or(Exit::Interrupted);
        vcpu.end_with(exit);
        Ok(exit)
    }

    fn state(&mut self, vcpu: &mut Vcpu<FakeKernel>, _vm: &Vm<FakeKernel>) -> Result<VcpuState, KernelError> {
        Ok(VcpuState { general: vcpu.registers(), ..VcpuState::default() })
    }
}

/// Process that uses the scheme.
struct Monitor {
    scheme: Rc<Scheme<FakeKernel>>,
    process: Process,
}

impl Monitor {
    fn on(kernel: &FakeKernel, pages: usize) -> Self {
        let hypervisor = fake::hypervisor(kernel, |_| {}).map_err(Unsupported::from);
        let scheme = Rc::new(Scheme::assemble(kernel.clone(), hypervisor, LIMITS));
        Self { scheme, process: Process::new(kernel, pages) }
    }

    fn open(&mut self) -> Handle<FakeKernel> {
        Handle::open(&mut self.process).unwrap()
    }

    fn create(&mut self, on: &Handle<FakeKernel>, kind: Kind) -> Result<Handle<FakeKernel>, KernelError> {
        on.create(&self.scheme, kind, &mut self.process)
    }

    /// Creates a VM and a vCPU.
    fn guest(&mut self) -> (Handle<FakeKernel>, Handle<FakeKernel>) {
        let hypervisor = self.open();
        let vm = self.create(&hypervisor, Kind::Vm).unwrap();
        let vcpu = self.create(&vm, Kind::Vcpu).unwrap();
        (vm, vcpu)
    }

    fn call(&mut self, on: &Handle<FakeKernel>, operation: Operation, payload: &[u8]) -> Result<u64, KernelError> {
        self.process.payload = payload.to_vec();
        on.call(&self.scheme, operation as u64, &mut self.process)
    }

    /// Executes an operation without a structure.
    fn ask(&mut self, on: &Handle<FakeKernel>, operation: Operation) -> Result<u64, KernelError> {
        self.call(on, operation, &[])
    }

    fn map(
        &mut self,
        vm: &Handle<FakeKernel>,
        gpa: u64,
        from: u64,
        pages: u64,
        permissions: u32,
    ) -> Result<u64, KernelError> {
        let map =
            MemoryMapping { gpa: Gpa(gpa), address: USER + from * PAGE, len: pages * PAGE, permissions, reserved: 0 };
        self.call(vm, Operation::Map, map.as_bytes())
    }

    fn change(
        &mut self,
        vm: &Handle<FakeKernel>,
        operation: Operation,
        gpa: u64,
        pages: u64,
        permissions: u32,
    ) -> Result<u64, KernelError> {
        let range = MemoryRange { gpa: Gpa(gpa), len: pages * PAGE, permissions, reserved: 0 };
        self.call(vm, operation, range.as_bytes())
    }

    fn start(&mut self, vcpu: &Handle<FakeKernel>) -> Result<u64, KernelError> {
        let state = VcpuState::from(&EntryState::new(0x20_0000, Gpa(0x10_0000)));
        self.call(vcpu, Operation::SetState, state.as_bytes())
    }

    /// Runs a guest that exits with `exit`.
    fn run(&mut self, vcpu: &Handle<FakeKernel>, exit: Exit) -> Result<Exit, KernelError> {
        self.process.exits = [exit].into();
        let reason = self.ask(vcpu, Operation::Run)?;
        let page = self.page(vcpu);
        assert_eq!(u64::from(page.exit.reason), reason);
        Ok(page.exit.exit().unwrap())
    }

    fn page_at(&self, vcpu: &Handle<FakeKernel>) -> *mut RunPage {
        self.process.kernel.phys_to_virt(vcpu.run_page().unwrap()).cast()
    }

    fn page(&self, vcpu: &Handle<FakeKernel>) -> RunPage {
        // SAFETY: the frame holds a `RunPage`.
        unsafe { self.page_at(vcpu).read() }
    }

    fn set_page(&self, vcpu: &Handle<FakeKernel>, change: impl FnOnce(&mut RunPage)) {
        let mut page = self.page(vcpu);
        change(&mut page);
        // SAFETY: as in `page`.
        unsafe { self.page_at(vcpu).write(page) };
    }

    fn capabilities(&mut self) -> Capabilities {
        let handle = self.open();
        self.call(&handle, Operation::GetCapabilities, Capabilities::new_zeroed().as_bytes()).unwrap();
        Capabilities::read_from_bytes(&self.process.payload).unwrap()
    }
}

const _: () = assert!(size_of::<RunPage>() <= run_page::SIZE);
