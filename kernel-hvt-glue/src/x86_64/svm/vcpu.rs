//! Virtual CPU on SVM: its VMCB, and the state that the VMCB does not hold.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::ptr;

use hvt_abi::{
    kernel::VcpuState,
    x86_64::{Cr4, Efer, Registers, Segment, Vector},
};

use super::{
    capabilities::SvmCapabilities,
    entry,
    maps::PermissionMaps,
    vmcb::{Clean, Control, Intercepts1, Intercepts2, NP_ENABLE, V_INTR_MASKING, Vmcb, event, tlb_control},
};
use crate::{
    arch::{Binding, FpuOwner},
    host::{Frames, Host, Hpa, OutOfMemory},
    x86_64::{
        context::Context,
        cpu::CpuState,
        debug::{DR6_RESET, DR7_RESET, DebugRegisters},
        emulate::{Core, Fault, Offer},
        fpu,
        privileged::stack_selector,
        tag::Residence,
    },
};

/// Virtual CPU.
pub(super) struct SvmVcpu<H: Host> {
    vmcb: Frames<H>,
    /// The guest's FPU state while it is not loaded.
    fpu: Frames<H>,
    pub(super) offer: Offer,
    pub(super) capabilities: SvmCapabilities,
    pub(super) context: Context,
    residence: Option<Residence>,
    pub(super) debug: DebugRegisters,
    /// The state was set from outside since the last check.
    pub(super) unchecked: bool,
    xcr0: u64,
}

impl<H: Host> SvmVcpu<H> {
    /// Creates a virtual CPU in `state` that uses the nested page tables at `nested_cr3`.
    pub(super) fn new(
        host: &H,
        capabilities: SvmCapabilities,
        maps: &PermissionMaps<H>,
        offer: Offer,
        nested_cr3: Hpa,
        state: &VcpuState,
    ) -> Result<Self, OutOfMemory> {
        let vmcb = Frames::allocate(host, 0)?;
        let fpu = fpu::initial_area(host)?;
        let context = Context { vmcb: vmcb.base().0, components: offer.components, ..Context::default() };
        let mut vcpu = Self {
            vmcb,
            fpu,
            offer,
            capabilities,
            context,
            residence: None,
            debug: DebugRegisters::default(),
            unchecked: true,
            xcr0: fpu::component::X87,
        };
        vcpu.set_up(maps, nested_cr3);
        vcpu.write_state(state);
        Ok(vcpu)
    }

    fn set_up(&mut self, maps: &PermissionMaps<H>, nested_cr3: Hpa) {
        let control = &mut self.vmcb_mut().control;
        intercepts(control);
        control.iopm_base_pa = maps.io_base().0;
        control.msrpm_base_pa = maps.msr_base().0;
        control.virtual_interrupt = V_INTR_MASKING;
        control.nested_paging = NP_ENABLE;
        control.nested_cr3 = nested_cr3.0;

        let save = &mut self.vmcb_mut().save;
        save.dr6 = DR6_RESET;
        save.dr7 = DR7_RESET;
    }

    /// Sets all state except FPU, debug registers and XCR0. A pending exception is discarded.
    pub(super) fn write_state(&mut self, state: &VcpuState) {
        let save = &mut self.vmcb_changing(Clean::all()).save;
        save.cs = state.cs.into();
        save.ss = state.ss.into();
        save.ds = state.ds.into();
        save.es = state.es.into();
        save.fs = state.fs.into();
        save.gs = state.gs.into();
        save.tr = state.tr.into();
        save.ldtr = state.ldtr.into();
        save.gdtr = state.gdtr.into();
        save.idtr = state.idtr.into();
        save.cpl = Segment::from(state.ss).dpl;
        save.cr0 = state.cr0;
        save.cr2 = state.cr2;
        save.cr3 = state.cr3;
        save.cr4 = state.cr4;
        save.efer = state.efer | Efer::SVME.bits();
        save.g_pat = state.pat;
        save.kernel_gs_base = state.kernel_gs_base;
        self.set_general_registers(&state.general);
        self.choose_xcr0();
    }

    /// Returns the state that [`write_state`](Self::write_state) sets.
    pub(super) fn read_state(&self) -> VcpuState {
        let save = &self.vmcb().save;
        // VMRUN uses the CPL instead of the DPL of SS.
        let ss = Segment { dpl: save.cpl, ..Segment::from(save.ss) };
        VcpuState {
            general: self.general_registers(),
            cs: save.cs.into(),
            ss: ss.into(),
            ds: save.ds.into(),
            es: save.es.into(),
            fs: save.fs.into(),
            gs: save.gs.into(),
            tr: save.tr.into(),
            ldtr: save.ldtr.into(),
            gdtr: save.gdtr.into(),
            idtr: save.idtr.into(),
            cr0: save.cr0,
            cr2: save.cr2,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: self.efer(),
            pat: save.g_pat,
            kernel_gs_base: save.kernel_gs_base,
            ..VcpuState::default()
        }
    }

    pub(super) fn vmcb(&self) -> &Vmcb {
        // SAFETY: this value owns the frame, which is aligned, has the size of a `Vmcb`, and any
        // bytes are a valid `Vmcb`. The CPU writes to it only in `enter`, which has `&mut self`.
        unsafe { &*self.vmcb.as_ptr().cast() }
    }

    pub(super) fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: as for `vmcb`.
        unsafe { &mut *self.vmcb.as_ptr().cast() }
    }

    /// Returns the VMCB and marks `parts` of it as changed for the CPU.
    fn vmcb_changing(&mut self, parts: Clean) -> &mut Vmcb {
        let vmcb = self.vmcb_mut();
        vmcb.control.clean &= !parts.bits();
        vmcb
    }

    /// Prepares for entries on this CPU.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU of `cpu`, with SVM enabled.
    #[inline]
    pub(super) unsafe fn prepare(&mut self, cpu: &mut CpuState<H>, binding: &Binding) {
        if !self.residence.is_some_and(|residence| residence.is_current(binding, &cpu.tags)) {
            self.settle(cpu, binding);
        }
        // SAFETY: guaranteed by the caller; the page belongs to the CPU.
        unsafe {
            self.debug.bind();
            entry::vmsave(self.context.host_vmcb);
        }
    }

    /// Sets up for a CPU that did not run this virtual CPU last, or that may hold stale
    /// translations.
    #[cold]
    fn settle(&mut self, cpu: &mut CpuState<H>, binding: &Binding) {
        let (tag, flush) = cpu.tags.fresh();
        let stayed = self.residence.is_some_and(|residence| residence.is_on(&cpu.tags));
        let control = &mut self.vmcb_changing(if stayed { Clean::ASID } else { Clean::all() }).control;
        control.guest_asid = tag.number;
        control.tlb_control = if flush { tlb_control::FLUSH_ALL } else { tlb_control::NOTHING };
        self.residence = Some(Residence::new(binding, &cpu.tags, tag));
        self.context.host_vmcb = cpu.vmsave_frame().0;
        self.context.guest_fpu = self.fpu.as_ptr() as u64;
        self.context.host_fpu = cpu.fpu.as_ptr() as u64;
        self.context.host_xcr0 = cpu.xcr0;
        self.context.host_xss = cpu.msrs.xss;
        self.context.host_tsc_aux = cpu.msrs.tsc_aux;
        self.context.measures = cpu.measures;
        self.context.verw_selector = stack_selector();
        self.choose_xcr0();
    }

    /// # Safety
    /// As for [`entry::enter`].
    #[inline]
    pub(super) unsafe fn enter(&mut self, fpu: FpuOwner) {
        let rax = self.context.registers.rax;
        self.vmcb_mut().save.rax = rax;
        // SAFETY: guaranteed by the caller.
        unsafe {
            self.debug.enter();
            let context = ptr::from_mut(&mut self.context);
            match fpu {
                FpuOwner::Guest => entry::enter(context),
                FpuOwner::Kernel => fpu::enter_swapped(context, entry::enter),
            }
            self.debug.leave();
        }
        self.context.registers.rax = self.vmcb().save.rax;
        self.notice_xcr0();
    }

    /// Returns general registers, RIP and RFLAGS.
    pub(super) fn general_registers(&self) -> Registers {
        let save = &self.vmcb().save;
        Registers { rsp: save.rsp, rip: save.rip, rflags: save.rflags, ..self.context.registers }
    }

    /// Sets general registers, RIP and RFLAGS. A pending exception is discarded.
    pub(super) fn set_general_registers(&mut self, registers: &Registers) {
        self.context.registers = *registers;
        let vmcb = self.vmcb_mut();
        vmcb.save.rsp = registers.rsp;
        vmcb.save.rip = registers.rip;
        vmcb.save.rflags = registers.rflags;
        vmcb.control.event_injection = 0;
        vmcb.control.interrupt_shadow = 0;
        self.unchecked = true;
    }

    /// Injects an exception at the next entry.
    pub(super) fn inject(&mut self, fault: Fault) {
        let error_code = fault.error_code.map_or(0, |code| event::ERROR_CODE_VALID | u64::from(code) << 32);
        let vector = fault.vector as u64;
        self.vmcb_mut().control.event_injection = event::VALID | event::EXCEPTION | vector | error_code;
    }

    /// Selects XCR0 for the guest. It is significant only while the guest's CR4.OSXSAVE is set;
    /// until then the kernel's value stays loaded.
    fn choose_xcr0(&mut self) {
        let used = Cr4::from_bits_retain(self.vmcb().save.cr4).contains(Cr4::OSXSAVE);
        self.context.guest_uses_xcr0 = used.into();
        self.context.guest_xcr0 = if used { self.xcr0 } else { self.context.host_xcr0 };
    }

    /// Updates XCR0 after the guest ran, because QEMU's emulation of SVM executes XSETBV despite
    /// the intercept.
    fn notice_xcr0(&mut self) {
        if self.context.guest_uses_xcr0 != 0 {
            self.xcr0 = self.context.guest_xcr0 & self.offer.components | fpu::component::X87;
        }
    }
}

impl<H: Host> Core for SvmVcpu<H> {
    fn registers(&mut self) -> &mut Registers {
        &mut self.context.registers
    }

    fn cpl(&self) -> u8 {
        self.vmcb().save.cpl
    }

    fn is_64_bit(&self) -> bool {
        self.vmcb().save.cs.attributes & super::vmcb::ATTRIBUTE_LONG != 0
    }

    fn set_cr0(&mut self, value: u64) {
        self.vmcb_changing(Clean::CONTROL_REGISTERS).save.cr0 = value;
    }

    fn cr4(&self) -> u64 {
        self.vmcb().save.cr4
    }

    fn set_cr4(&mut self, value: u64) {
        self.vmcb_changing(Clean::CONTROL_REGISTERS).save.cr4 = value;
        self.choose_xcr0();
    }

    fn efer(&self) -> u64 {
        self.vmcb().save.efer & !Efer::SVME.bits()
    }

    fn set_efer(&mut self, value: u64) {
        self.vmcb_changing(Clean::CONTROL_REGISTERS).save.efer = value | Efer::SVME.bits();
    }

    fn pat(&self) -> u64 {
        self.vmcb().save.g_pat
    }

    fn set_pat(&mut self, value: u64) {
        self.vmcb_changing(Clean::NESTED_PAGING).save.g_pat = value;
    }

    fn xcr0(&self) -> u64 {
        self.xcr0
    }

    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
        self.choose_xcr0();
    }

    fn tsc_offset(&self) -> u64 {
        self.vmcb().control.tsc_offset
    }

    fn set_tsc_offset(&mut self, value: u64) {
        self.vmcb_changing(Clean::INTERCEPTS).control.tsc_offset = value;
    }
}

/// Sets the intercepts.
fn intercepts(control: &mut Control) {
    const CR4: u16 = 1 << 4;
    // #AC and #DB may be raised in an endless loop without an instruction in between, which would take no
    // interrupt; #MC belongs to the kernel.
    const EXCEPTIONS: u32 =
        1 << Vector::AlignmentCheck as u32 | 1 << Vector::Debug as u32 | 1 << Vector::MachineCheck as u32;
    control.intercept_cr_writes = CR4;
    control.intercept_dr_reads = !0;
    control.intercept_dr_writes = !0;
    control.intercept_exceptions = EXCEPTIONS;
    control.intercepts_1 = Intercepts1::all().bits();
    control.intercepts_2 = Intercepts2::all().bits();
}
