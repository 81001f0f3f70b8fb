//! Virtual CPU on VMX: its VMCS, and the state that the VMCS does not hold.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::{mem::ManuallyDrop, ptr};

use hvt_abi::{
    kernel::{EntryFailure, VcpuState},
    x86_64::{Cr4, Efer, Registers, msr},
};
use x86::msr::IA32_DEBUGCTL;

use super::{
    capabilities::VmxCapabilities,
    check,
    controls::Primary,
    entry, fields,
    host_state::HostState,
    instructions::{InvEpt, invept, invvpid_all, vmclear, vmptrld},
    reason::{Arrival, EXCEPTIONS},
    state,
    vmcs::{Fields, Vmcs},
};
use crate::{
    arch::{Binding, FpuOwner},
    host::{Frames, Host, Hpa, OutOfMemory},
    x86_64::{
        context::Context,
        cpu::CpuState,
        debug::DebugRegisters,
        emulate::{Offer, is_canonical},
        error::BindError,
        fpu,
        privileged::{InterruptFlag, cr3, raise_machine_check, raise_nmi, rdmsr, stack_selector, wrmsr},
        syscall::SyscallMsrs,
        tag::{Residence, Tags},
    },
};

/// TSC ticks after which a guest exits without another reason: about a millisecond. Usually an
/// interrupt comes first. But the kernel may have masked the interrupts that it could wait for, and
/// in Bochs 2.7 an interrupt does not cause an exit from a guest whose RFLAGS.IF was 0 at entry.
const LONGEST_STAY: u32 = 1 << 22;

/// Virtual CPU.
pub(super) struct VmxVcpu<H: Host> {
    vmcs: ManuallyDrop<Frames<H>>,
    /// The guest's FPU state while it is not loaded.
    fpu: Frames<H>,
    pub(super) offer: Offer,
    pub(super) capabilities: VmxCapabilities,
    pub(super) context: Context,
    /// State for the next entry, until it has passed the checks.
    start: Option<VcpuState>,
    eptp: u64,
    msr_bitmap: Hpa,
    residence: Option<Residence>,
    /// CPU on which the VMCS is active: the CPU of the [`Bound`](crate::Bound), if there is one.
    active_on: Option<u32>,
    /// Kernel state in the VMCS.
    host: Option<HostState>,
    host_cr3: u64,
    /// IA32_DEBUGCTL, which a VM exit clears.
    host_debugctl: u64,
    host_kernel_gs_base: u64,
    kernel_gs_base: u64,
    pub(super) debug: DebugRegisters,
    /// The registers were set from outside since the last check.
    pub(super) unchecked: bool,
    /// RIP differs from the value in the VMCS.
    pub(super) rip_moved: bool,
    pub(super) xcr0: u64,
    /// The guest's CR8: the task priority of a local APIC that the guest does not have.
    pub(super) cr8: u64,
    /// The guest has set EFER.SCE.
    pub(super) uses_syscall: bool,
}

impl<H: Host> VmxVcpu<H> {
    /// Creates a virtual CPU in `state` that uses the second-level page tables at `root`.
    pub(super) fn new(
        host: &H,
        capabilities: VmxCapabilities,
        msr_bitmap: Hpa,
        offer: Offer,
        root: Hpa,
        state: &VcpuState,
    ) -> Result<Self, OutOfMemory> {
        /// EPT pointer (SDM volume 3, table 25-9): write-back tables, four levels.
        const WRITE_BACK_4_LEVELS: u64 = 6 | 3 << 3;
        const ACCESSED_DIRTY: u64 = 1 << 6;
        let accessed_dirty = if capabilities.accessed_dirty { ACCESSED_DIRTY } else { 0 };
        let mut vcpu = Self {
            vmcs: ManuallyDrop::new(new_region(host, &capabilities)?),
            fpu: fpu::initial_area(host)?,
            offer,
            capabilities,
            context: Context { components: offer.components, ..Context::default() },
            start: None,
            eptp: root.0 | WRITE_BACK_4_LEVELS | accessed_dirty,
            msr_bitmap,
            residence: None,
            active_on: None,
            host: None,
            host_cr3: 0,
            host_debugctl: 0,
            host_kernel_gs_base: 0,
            kernel_gs_base: 0,
            debug: DebugRegisters::with_dr6(),
            unchecked: true,
            rip_moved: true,
            xcr0: fpu::component::X87,
            cr8: 0,
            uses_syscall: false,
        };
        vcpu.write_state(state);
        Ok(vcpu)
    }

    /// Makes the VMCS current on this CPU and prepares it for entries. [`untie`](Self::untie)
    /// reverts this.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU of `cpu`, in VMX operation.
    pub(super) unsafe fn tie(&mut self, cpu: &mut CpuState<H>, binding: &Binding) -> Result<(), BindError> {
        if let Some(cpu) = self.active_on.filter(|cpu| *cpu != binding.cpu) {
            return Err(BindError::ActiveElsewhere { cpu });
        }
        // SAFETY: guaranteed by the caller.
        let host = unsafe { HostState::capture(cpu.msrs) };
        if let Some((register, selector)) = host.unloadable_selector() {
            return Err(BindError::HostSelector { register, selector });
        }
        let region = self.vmcs.base().0;
        // SAFETY: guaranteed by the caller; the region is a VMCS with this CPU's revision. VMCLEAR
        // is allowed for a VMCS that is not active on a CPU, and is required for a new VMCS.
        let mut vmcs = unsafe {
            if vmclear(region).and_then(|()| vmptrld(region)).is_err() {
                return Err(BindError::ControlStructure);
            }
            self.active_on = Some(binding.cpu);
            Vmcs::current()
        };
        self.context.launched = 0;
        self.configure(&mut vmcs);
        if self.host != Some(host) {
            host.write(&mut vmcs, entry::leave as *const () as u64);
            self.host = Some(host);
        }
        self.host_cr3 = !0;
        // SAFETY: guaranteed by the caller.
        unsafe { self.settle(&mut vmcs, &mut cpu.tags, binding) };

        self.context.guest_fpu = self.fpu.as_ptr() as u64;
        self.context.host_fpu = cpu.fpu.as_ptr() as u64;
        self.context.host_xcr0 = cpu.xcr0;
        self.context.measures = cpu.measures;
        self.context.l1d_fill = cpu.l1d_fill.as_ref().map_or(0, |frames| frames.as_ptr() as u64);
        self.context.verw_selector = stack_selector();
        self.choose_xcr0(&vmcs);
        // SAFETY: guaranteed by the caller; the guest's value is canonical, because it comes from
        // the register.
        unsafe {
            self.debug.bind();
            self.host_debugctl = rdmsr(IA32_DEBUGCTL);
            self.host_kernel_gs_base = rdmsr(msr::KERNEL_GS_BASE);
            wrmsr(msr::KERNEL_GS_BASE, self.kernel_gs_base);
        }
        Ok(())
    }

    /// Writes the controls of a new VMCS, and state that was set since the VMCS was last current.
    fn configure(&mut self, vmcs: &mut impl Fields) {
        if self.residence.is_none() {
            self.write_controls(vmcs);
        }
        if let Some(start) = &self.start {
            state::write(vmcs, start, self.offer.cr4, &self.capabilities);
        }
    }

    fn write_controls(&self, vmcs: &mut impl Fields) {
        let controls = &self.capabilities.controls;
        vmcs.write(fields::PIN_BASED_CONTROLS, controls.pin_based);
        vmcs.write(fields::PRIMARY_CONTROLS, controls.primary);
        vmcs.write(fields::SECONDARY_CONTROLS, controls.secondary);
        vmcs.write(fields::EXIT_CONTROLS, controls.exit);
        vmcs.write(fields::ENTRY_CONTROLS, controls.entry);
        vmcs.write(fields::EXCEPTION_BITMAP, EXCEPTIONS);
        vmcs.write(fields::PAGE_FAULT_ERROR_CODE_MASK, 0);
        vmcs.write(fields::PAGE_FAULT_ERROR_CODE_MATCH, 0);
        vmcs.write(fields::CR3_TARGET_COUNT, 0);
        vmcs.write(fields::EXIT_MSR_STORE_COUNT, 0);
        vmcs.write(fields::EXIT_MSR_LOAD_COUNT, 0);
        vmcs.write(fields::ENTRY_MSR_LOAD_COUNT, 0);
        vmcs.write(fields::ENTRY_INTERRUPTION_INFORMATION, 0);
        vmcs.write(fields::ADDRESS_OF_MSR_BITMAPS, self.msr_bitmap.0);
        vmcs.write(fields::TSC_OFFSET, 0);
        vmcs.write(fields::EPT_POINTER, self.eptp);
        if controls.has_preemption_timer() {
            let value = LONGEST_STAY >> self.capabilities.preemption_timer_rate;
            vmcs.write(fields::GUEST_PREEMPTION_TIMER_VALUE, value);
        }
        if controls.has_encls_exiting() {
            vmcs.write(fields::ENCLS_EXITING_BITMAP, !0);
        }
    }

    /// Ensures that no stale translation is used.
    ///
    /// # Safety
    /// As for [`tie`](Self::tie).
    unsafe fn settle(&mut self, vmcs: &mut Vmcs, tags: &mut Tags, binding: &Binding) {
        if self.residence.is_some_and(|residence| residence.is_current(binding, tags)) {
            return;
        }
        let (tag, flush) = tags.fresh();
        // SAFETY: guaranteed by the caller; the CPU has INVEPT of all contexts, and the other types
        // if its capabilities report them.
        unsafe {
            if flush {
                invept(InvEpt::Global, 0);
                if self.capabilities.vpid {
                    invvpid_all();
                }
                tags.flushed();
            } else {
                let kind = if self.capabilities.invept_single { InvEpt::SingleContext } else { InvEpt::Global };
                invept(kind, self.eptp);
            }
        }
        if self.capabilities.vpid {
            vmcs.write(fields::VIRTUAL_PROCESSOR_IDENTIFIER, tag.number as u16);
        }
        self.residence = Some(Residence::new(binding, tags, tag));
    }

    /// Makes the VMCS inactive, and restores the kernel's state that entries and exits have
    /// changed.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU to which the virtual CPU is bound.
    pub(super) unsafe fn untie(&mut self) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let interrupts = InterruptFlag::clear();
            self.kernel_gs_base = rdmsr(msr::KERNEL_GS_BASE);
            wrmsr(msr::KERNEL_GS_BASE, self.host_kernel_gs_base);
            if let Some(host) = &self.host {
                host.restore();
            }
            // If VMCLEAR fails, the VMCS stays active on this CPU and its frame is leaked.
            if vmclear(self.vmcs.base().0).is_ok() {
                self.active_on = None;
            }
            interrupts.restore();
        }
    }

    /// Checks the state that was set since the last entry.
    pub(super) fn check(&mut self) -> Result<(), EntryFailure> {
        if let Some(start) = &self.start {
            // RIP and RFLAGS may have been set since; they are checked below.
            let start = &VcpuState { general: self.context.registers, ..*start };
            check::check(start, self.offer.cr4, &self.capabilities)?;
            self.start = None;
        }
        check::registers(self.context.registers.rip, self.context.registers.rflags)
    }

    /// # Safety
    /// As for [`entry::enter`].
    #[inline]
    pub(super) unsafe fn enter(&mut self, vmcs: &mut Vmcs, fpu: FpuOwner) {
        // SAFETY: guaranteed by the caller. An NMI and a machine check are passed to the kernel
        // before interrupts are enabled.
        unsafe {
            // The scheduler may have switched address spaces since the last entry.
            let cr3 = cr3();
            if cr3 != self.host_cr3 {
                vmcs.write(fields::HOST_CR3, cr3);
                self.host_cr3 = cr3;
            }
            self.debug.enter();
            let syscall = self.uses_syscall.then(|| SyscallMsrs::take());
            let context = ptr::from_mut(&mut self.context);
            match fpu {
                FpuOwner::Guest => entry::enter(context),
                FpuOwner::Kernel => fpu::enter_swapped(context, entry::enter),
            }
            if let Some(msrs) = syscall {
                msrs.restore();
            }
            self.debug.leave();
            if self.host_debugctl != 0 {
                wrmsr(IA32_DEBUGCTL, self.host_debugctl);
            }
            match Arrival::of(vmcs) {
                Arrival::Nmi => raise_nmi(),
                Arrival::MachineCheck => raise_machine_check(),
                Arrival::Other => {}
            }
        }
    }

    /// Sets general registers, RIP and RFLAGS.
    pub(super) fn set_general_registers(&mut self, registers: &Registers) {
        self.context.registers = *registers;
        self.rip_moved = true;
        self.unchecked = true;
    }

    /// Sets all state except FPU, debug registers and XCR0. The state is written when the virtual
    /// CPU is next bound.
    pub(super) fn write_state(&mut self, state: &VcpuState) {
        self.start = Some(*state);
        self.context.cr2 = state.cr2;
        // A value that the checks will reject must not be written to the register either.
        self.kernel_gs_base = if is_canonical(state.kernel_gs_base) { state.kernel_gs_base } else { 0 };
        self.uses_syscall = Efer::from_bits_retain(state.efer).contains(Efer::SCE);
        self.set_general_registers(&state.general);
    }

    /// Returns the state that [`write_state`](Self::write_state) sets.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU to which the virtual CPU is bound.
    pub(super) unsafe fn read_state(&self) -> VcpuState {
        if let Some(start) = self.start {
            return VcpuState { general: self.context.registers, ..start };
        }
        // SAFETY: guaranteed by the caller.
        let (vmcs, kernel_gs_base) = unsafe { (Vmcs::current(), rdmsr(msr::KERNEL_GS_BASE)) };
        VcpuState { cr2: self.context.cr2, kernel_gs_base, ..state::read(&vmcs, self.context.registers) }
    }

    /// Selects XCR0 for the guest. It is significant only while the guest's CR4.OSXSAVE is set;
    /// until then the kernel's value stays loaded.
    pub(super) fn choose_xcr0(&mut self, vmcs: &impl Fields) {
        let used = Cr4::from_bits_retain(state::read_cr4(vmcs)).contains(Cr4::OSXSAVE);
        self.context.guest_uses_xcr0 = used.into();
        self.context.guest_xcr0 = if used { self.xcr0 } else { self.context.host_xcr0 };
    }

    /// Gives the debug registers to the guest after its first access. From then on they are swapped
    /// at every entry and exit.
    pub(super) fn give_debug_registers(&mut self, vmcs: &mut impl Fields) {
        self.debug.give_to_guest();
        let controls = vmcs.read(fields::PRIMARY_CONTROLS);
        vmcs.write(fields::PRIMARY_CONTROLS, controls & !Primary::MOV_DR_EXITING.bits());
    }
}

impl<H: Host> Drop for VmxVcpu<H> {
    fn drop(&mut self) {
        // A CPU may still write to its active VMCS. If a `Bound` was leaked, the frame is leaked
        // too.
        if self.active_on.is_none() {
            // SAFETY: the field is not used again.
            unsafe { ManuallyDrop::drop(&mut self.vmcs) };
        }
    }
}

/// Creates a VMCS region for VMCLEAR (SDM volume 3, 25.2).
fn new_region<H: Host>(host: &H, capabilities: &VmxCapabilities) -> Result<Frames<H>, OutOfMemory> {
    let region = Frames::allocate(host, 0)?;
    // SAFETY: the frame has just been allocated.
    unsafe { region.as_ptr().cast::<u32>().write(capabilities.revision) };
    Ok(region)
}
