//! States of a vCPU.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hvt_abi::kernel::{Direction, Exit, KernelError, Request, VcpuState};
use spin::Mutex;

use super::{
    kernel::{Caller, Kernel, refusal},
    run_page::SharedPage,
    space::Space,
    vm::VmObject,
};
use crate::{host::Hpa, vcpu::Vcpu, vm::Vm};

/// [`VcpuObject::runs_on`]: no CPU.
const NOWHERE: u32 = u32::MAX;

/// vCPU, shared by its handles.
pub struct VcpuObject<K: Kernel> {
    vm: Arc<VmObject<K>>,
    /// Locked by the thread that runs the guest. Other threads only try to lock it and never wait.
    core: Mutex<Core<K>>,
    page: SharedPage<K>,
    /// A thread has requested that the guest stop.
    interrupted: AtomicBool,
    /// CPU that runs the guest.
    runs_on: AtomicU32,
}

struct Core<K: Kernel> {
    /// `None` until the vCPU has registers.
    vcpu: Option<Vcpu<K>>,
    /// The last run ended with an `in` of this number of bytes.
    awaits_input: Option<u8>,
}

impl<K: Kernel> VcpuObject<K> {
    pub(super) fn new(vm: &Arc<VmObject<K>>) -> Result<Self, KernelError> {
        let page = SharedPage::new(&vm.kernel)?;
        vm.admit()?;
        Ok(Self {
            vm: vm.clone(),
            core: Mutex::new(Core { vcpu: None, awaits_input: None }),
            page,
            interrupted: AtomicBool::new(false),
            runs_on: AtomicU32::new(NOWHERE),
        })
    }

    pub(super) fn run_page(&self) -> Hpa {
        self.page.frame()
    }

    /// [`Operation::Run`](hvt_abi::kernel::Operation::Run): runs the guest, and returns the number
    /// of the exit reason.
    ///
    /// # Errors
    /// Returns the [`KernelError`] that the documentation of the operation specifies.
    #[inline]
    pub fn run(&self, caller: &mut impl Caller<K>) -> Result<u32, KernelError> {
        let mut core = self.core.try_lock().ok_or(KernelError::Busy)?;
        let space = self.vm.enter()?;
        let vm = vm_of(&space)?;
        let Core { vcpu, awaits_input } = &mut *core;
        let vcpu = vcpu.as_mut().ok_or(KernelError::NoState)?;
        let request = self.page.take_request()?;
        let awaited = awaits_input.take();
        if !request.is_empty() {
            self.prepare(request, vcpu, awaited);
        }

        self.runs_on.store(self.vm.kernel.cpu_index(), Ordering::SeqCst);
        // From here on, an interrupting thread can find the CPU in `runs_on`.
        let exit = if self.interrupted.load(Ordering::SeqCst) && vcpu.ended().is_none() {
            Ok(Exit::Interrupted)
        } else {
            caller.run(vcpu, vm)
        };
        self.runs_on.store(NOWHERE, Ordering::SeqCst);

        let exit = exit?;
        if request.contains(Request::GET_REGISTERS) {
            self.page.set_registers(&vcpu.registers());
        }
        match exit {
            Exit::Io(io) => {
                if io.direction == Direction::In && !io.string {
                    *awaits_input = Some(io.size);
                }
                Ok(self.page.set_io(io))
            }
            exit => {
                if exit == Exit::Interrupted {
                    self.interrupted.store(false, Ordering::SeqCst);
                }
                Ok(self.page.set_exit(exit))
            }
        }
    }

    /// Applies the monitor's request to the registers.
    fn prepare(&self, request: Request, vcpu: &mut Vcpu<K>, awaited: Option<u8>) {
        if request.contains(Request::SET_REGISTERS) {
            vcpu.set_registers(&self.page.registers());
        }
        if let Some(size) = awaited.filter(|_| request.contains(Request::INPUT)) {
            vcpu.complete_read(size, self.page.input());
        }
    }

    pub(super) fn interrupt(&self) -> u64 {
        self.interrupted.store(true, Ordering::SeqCst);
        let cpu = self.runs_on.load(Ordering::SeqCst);
        if cpu != NOWHERE {
            self.vm.kernel.kick(cpu);
        }
        0
    }

    pub(super) fn state(&self, caller: &mut impl Caller<K>) -> Result<VcpuState, KernelError> {
        let mut core = self.core.try_lock().ok_or(KernelError::Busy)?;
        let space = self.vm.look()?;
        let vm = vm_of(&space)?;
        caller.state(core.vcpu.as_mut().ok_or(KernelError::NoState)?, vm)
    }

    pub(super) fn set_state(&self, state: &VcpuState) -> Result<u64, KernelError> {
        if !state.is_well_formed() {
            return Err(KernelError::BadArgument);
        }
        let mut core = self.core.try_lock().ok_or(KernelError::Busy)?;
        let space = self.vm.look()?;
        let vm = vm_of(&space)?;
        match &mut core.vcpu {
            Some(vcpu) if vcpu.ended().is_some() => return Err(KernelError::Ended),
            Some(vcpu) => vcpu.set_state(state),
            none => *none = Some(vm.create_vcpu(*state).map_err(refusal)?),
        }
        core.awaits_input = None;
        Ok(0)
    }
}

/// Returns the VM, unless it has been destroyed.
#[inline]
fn vm_of<K: Kernel>(space: &Option<Space<K>>) -> Result<&Vm<K>, KernelError> {
    space.as_ref().map(Space::vm).ok_or(KernelError::Destroyed)
}

impl<K: Kernel> Drop for VcpuObject<K> {
    fn drop(&mut self) {
        self.vm.dismiss();
    }
}
