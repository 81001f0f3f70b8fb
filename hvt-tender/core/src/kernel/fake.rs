//! Fake kernel: records its calls and returns exits prescribed by a test.

#![expect(unsafe_code, reason = "pages that this process shares with a kernel")]

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};

use hvt_abi::kernel::{
    Capabilities, Exit, ExitRecord, KernelError, MemoryMapping, Operation, RunPage, VERSION, VcpuState, redox,
};
use zerocopy::{FromBytes, IntoBytes};

use super::calls::{Calls, Errno, Page, Payload};

/// Largest number of bytes mapped by one call.
pub const MAP_STEP: u64 = 0x8000;

/// State of a [`FakeKernel`].
#[derive(Default)]
pub struct Account {
    /// Open objects, by the names that they were created with.
    pub open: Vec<&'static str>,
    /// Closed objects, in order.
    pub closed: Vec<&'static str>,
    /// Mappings, piece by piece, as the kernel accepted them.
    pub mapped: Vec<MemoryMapping>,
    /// Registers of the virtual CPU.
    pub state: Option<VcpuState>,
    /// Exits of the next runs.
    pub exits: VecDeque<ExitRecord>,
    /// Number of interrupts of the virtual CPU.
    pub interrupts: u32,
    /// Request that fails, and its error.
    pub fails: Option<(Asked, Errno)>,
    /// Answer to [`Operation::GetCapabilities`].
    pub capabilities: Capabilities,
    /// Makes every mapping report 0 bytes mapped.
    pub maps_nothing: bool,
}

/// Request that a [`FakeKernel`] can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Opening or duplicating an object of this name.
    Object(&'static str),
    /// This operation.
    Operation(Operation),
    /// Mapping the run page.
    Page,
}

/// Kernel without a hypervisor that does what a test prescribes. Clones are the same kernel.
#[derive(Clone)]
pub struct FakeKernel(Arc<Mutex<Account>>);

/// An open object of a [`FakeKernel`].
pub struct Handle {
    name: &'static str,
    kernel: FakeKernel,
    /// Run page, if the object is a virtual CPU.
    page: Option<FakePage>,
}

/// Page that a test's kernel and monitor reach only through its address.
#[derive(Clone)]
pub struct FakePage(Arc<OwnedPage>);

struct OwnedPage(NonNull<RunPage>);

// SAFETY: every thread accesses the page through volatile accesses to its address.
unsafe impl Send for OwnedPage {}
// SAFETY: as above.
unsafe impl Sync for OwnedPage {}

impl Drop for OwnedPage {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak`, and no other copy of the address is left.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: the page lives as long as any clone of its owner, and is only reached through its address.
unsafe impl Page for FakePage {
    fn start(&self) -> NonNull<RunPage> {
        self.0.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut account = self.kernel.account();
        account.open.retain(|name| *name != self.name);
        account.closed.push(self.name);
    }
}

impl Default for FakeKernel {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeKernel {
    /// Creates a kernel whose machine can run guests.
    #[must_use]
    pub fn new() -> Self {
        let capabilities = Capabilities { version: VERSION, technology: 1, ..Capabilities::default() };
        Self(Arc::new(Mutex::new(Account { capabilities, ..Account::default() })))
    }

    /// State of the kernel. Hold the guard briefly: every call locks it.
    pub fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap()
    }

    /// Makes the request `asked` fail.
    pub fn fail(&self, asked: Asked, errno: Errno) {
        self.account().fails = Some((asked, errno));
    }

    /// Number of interrupts of virtual CPUs.
    pub fn interrupts(&self) -> u32 {
        self.account().interrupts
    }

    /// Makes the next runs end with these exits.
    pub fn exits_with(&self, exits: impl IntoIterator<Item = Exit>) {
        self.account().exits.extend(exits.into_iter().map(ExitRecord::from));
    }

    fn ask(&self, asked: Asked) -> Result<(), Errno> {
        match self.account().fails {
            Some((failing, errno)) if failing == asked => Err(errno),
            _ => Ok(()),
        }
    }

    fn make(&self, name: &'static str) -> Result<Handle, Errno> {
        self.ask(Asked::Object(name))?;
        self.account().open.push(name);
        let page = || FakePage(Arc::new(OwnedPage(NonNull::from(Box::leak(Box::default())))));
        Ok(Handle { name, kernel: self.clone(), page: (name == redox::VCPU).then(page) })
    }

    fn map(&self, bytes: &[u8]) -> usize {
        let mut account = self.account();
        let mut map = MemoryMapping::read_from_bytes(bytes).unwrap();
        map.len = if account.maps_nothing { 0 } else { map.len.min(MAP_STEP) };
        account.mapped.push(map);
        map.len as usize
    }

    fn leave_guest(&self, page: &FakePage) {
        let exit = self.account().exits.pop_front().expect("the test has no more exits");
        // SAFETY: the page is alive, and no reference to it exists.
        unsafe { (&raw mut (*page.start().as_ptr()).exit).write_volatile(exit) };
    }
}

impl Calls for FakeKernel {
    type Handle = Handle;
    type Page = FakePage;

    fn open(&self) -> Result<Handle, Errno> {
        self.make(redox::PATH_IN_SYS)
    }

    fn dup(&self, handle: &Handle, name: &str) -> Result<Handle, Errno> {
        match (handle.name, name) {
            (redox::PATH_IN_SYS, redox::VM) => self.make(redox::VM),
            (redox::VM, redox::VCPU) => self.make(redox::VCPU),
            (of, name) => panic!("{name} of {of}"),
        }
    }

    fn call(&self, handle: &Handle, operation: u64, payload: Payload<'_>) -> Result<usize, Errno> {
        let operation = Operation::from_number(operation).unwrap();
        self.ask(Asked::Operation(operation))?;
        match (handle.name, operation, payload) {
            (redox::PATH_IN_SYS, Operation::GetCapabilities, Payload::Write(into)) => {
                into.copy_from_slice(self.account().capabilities.as_bytes());
                Ok(into.len())
            }
            (redox::VM, Operation::Map, Payload::Read(bytes)) => Ok(self.map(bytes)),
            (redox::VCPU, Operation::SetState, Payload::Read(bytes)) => {
                self.account().state = Some(VcpuState::read_from_bytes(bytes).unwrap());
                Ok(0)
            }
            (redox::VCPU, Operation::GetState, Payload::Write(into)) => {
                let state = self.account().state.ok_or(Errno(redox::errno(KernelError::NoState)))?;
                into.copy_from_slice(state.as_bytes());
                Ok(into.len())
            }
            (redox::VCPU, Operation::Interrupt, Payload::None) => {
                self.account().interrupts += 1;
                Ok(0)
            }
            (name, operation, payload) => panic!("{operation:?} on {name} with {payload:?}"),
        }
    }

    fn run(&self, vcpu: &Handle) -> Result<(), Errno> {
        self.ask(Asked::Operation(Operation::Run))?;
        self.leave_guest(vcpu.page.as_ref().unwrap());
        Ok(())
    }

    fn map_page(&self, vcpu: &Handle) -> Result<FakePage, Errno> {
        self.ask(Asked::Page)?;
        Ok(vcpu.page.clone().unwrap())
    }
}
