//! KVM set-up of an x86_64 vCPU.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

pub(super) mod debug;
mod restrict;

use std::arch::x86_64::__cpuid;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use hvt_abi::Gpa;
use hvt_abi::ring::NET_RING;
use hvt_abi::x86_64::{EntryState, RING_KICK_PORT, Registers, Segment, TableRegister};
use kvm_bindings::{
    CpuId, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_SHUTDOWN, KVM_EXIT_XEN, KVM_MAX_CPUID_ENTRIES, KVMIO, kvm_dtable,
    kvm_guest_debug, kvm_ioeventfd, kvm_regs, kvm_run, kvm_segment, kvm_sregs, kvm_translation, kvm_xsave,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use nix::{request_code_read, request_code_readwrite, request_code_write};
use zerocopy::IntoBytes;

pub(super) use self::restrict::restrict;
use super::exit::hex;
use super::{Kvm, cpuid, kvm_error};
use crate::backend::BackendError;
use crate::backend::debug::{CpuState, FxState, Segments};
use crate::backend::frequency::{Frequency, Source};
use crate::exit::{Cause, Exit};
use crate::memory::{GuestMemory, MappedMemory, Permissions};

/// Required capabilities on this architecture.
pub(super) const CAPABILITIES: &[(Cap, &str)] =
    &[(Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"), (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ")];

/// Remedy if there is no `/dev/kvm`.
pub(super) const MISSING: &str = "load the module kvm_intel or kvm_amd, with virtualization enabled in the firmware";

/// Requests to a vCPU while its guest runs, besides `KVM_RUN`: reads of its state, and address
/// translation.
pub(super) const WHILE_RUNNING: [libc::Ioctl; 4] = [
    request_code_read!(KVMIO, 0x81, size_of::<kvm_regs>()),
    request_code_read!(KVMIO, 0x83, size_of::<kvm_sregs>()),
    request_code_read!(KVMIO, 0xa4, size_of::<kvm_xsave>()),
    request_code_readwrite!(KVMIO, 0x85, size_of::<kvm_translation>()),
];

/// Further requests to a vCPU under a debugger: writes of its state, and breakpoints.
pub(super) const WHILE_DEBUGGED: [libc::Ioctl; 4] = [
    request_code_write!(KVMIO, 0x82, size_of::<kvm_regs>()),
    request_code_write!(KVMIO, 0x84, size_of::<kvm_sregs>()),
    request_code_write!(KVMIO, 0xa5, size_of::<kvm_xsave>()),
    request_code_write!(KVMIO, 0x9b, size_of::<kvm_guest_debug>()),
];

/// Exit reason of a hypercall or a kick.
pub(super) const HYPERCALL: u32 = KVM_EXIT_IO;

/// vCPU model: the guest's CPUID.
pub(super) type Model = CpuId;

/// Filters the CPUID that this host's KVM supports.
pub(super) fn model(system: &kvm_ioctls::Kvm, _vm: &VmFd) -> Result<Model, kvm_ioctls::Error> {
    let offered = system.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let filtered = cpuid::filter(offered.as_slice());
    // Cannot fail: filtering does not add entries.
    CpuId::from_entries(&filtered).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))
}

/// Creates a virtual machine without performance counters.
pub(super) fn create_vm(system: &kvm_ioctls::Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    let vm = system.create_vm()?;
    restrict::disable_counters(&vm);
    Ok(vm)
}

/// Returns true if CPUID shows VMX (SDM volume 2, CPUID leaf 1) or SVM (APM volume 3, E.4.2).
pub(super) fn has_hardware() -> bool {
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    let vmx = __cpuid(1).ecx & VMX != 0;
    vmx || __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & SVM != 0
}

/// Returns the kick of the network ring that signals `event`: a 32-bit `out` of the ring number to
/// the kick port.
pub(super) fn ring_kick(event: BorrowedFd<'_>) -> kvm_ioeventfd {
    // Flags (`include/uapi/linux/kvm.h`): compare the value; I/O port.
    const DATAMATCH: u32 = 1 << 0;
    const PIO: u32 = 1 << 1;
    kvm_ioeventfd {
        datamatch: NET_RING.into(),
        addr: RING_KICK_PORT.into(),
        len: 4,
        fd: event.as_raw_fd(),
        flags: DATAMATCH | PIO,
        ..kvm_ioeventfd::default()
    }
}

/// Decodes the hypercall or kick that [`HYPERCALL`] reports. Returns `None` if the port access is
/// neither.
///
/// # Safety
/// `run` must be the start of a vCPU's mapping, and its `KVM_RUN` must just have returned 0 with
/// this exit reason.
pub(super) unsafe fn hypercall(run: &kvm_run) -> Option<Exit> {
    // SAFETY: every bit pattern is a valid value of this member of the union.
    let io = unsafe { run.__bindgen_anon_1.io };
    // A string instruction may report several elements at once. A hypercall is a single element.
    if u32::from(io.direction) != KVM_EXIT_IO_OUT || io.count != 1 || io.size != 4 {
        return None;
    }
    // SAFETY: KVM reports the element's offset in the mapping, behind the structure. The caller
    // guarantees the mapping.
    let value = unsafe { (&raw const *run).byte_add(io.data_offset as usize).cast::<u32>().read_unaligned() };
    Exit::from_port_write(io.port, io.size, value)
}

/// Returns the cause of an exit that is specific to this architecture and ends the guest.
pub(super) fn cause(run: &kvm_run) -> Option<Cause> {
    match run.exit_reason {
        KVM_EXIT_IO => {
            // SAFETY: every bit pattern is a valid value of this union member, which belongs to
            // this exit reason.
            let io = unsafe { run.__bindgen_anon_1.io };
            Some(Cause::Port { port: io.port, size: io.size, write: u32::from(io.direction) == KVM_EXIT_IO_OUT })
        }
        KVM_EXIT_SHUTDOWN => Some(Cause::TripleFault),
        // Xen's interface is used only to intercept these two instructions.
        KVM_EXIT_XEN => {
            Some(Cause::Instruction { what: "vmcall or vmmcall, a hypercall of another hypervisor".to_owned() })
        }
        _ => None,
    }
}

/// Returns true if the registers are valid for a guest that ended for this cause. A shutdown leaves
/// an undefined state with SVM (APM volume 2, 15.14.3), and KVM then resets the vCPU, which starts
/// at 0xfff0.
pub(super) fn are_the_guests(registers: &Registers, cause: &Cause) -> bool {
    const RESET_RIP: u64 = 0xfff0;
    *cause != Cause::TripleFault || registers.rip != RESET_RIP
}

/// Returns the cause behind `cause`: always the same here.
pub(super) fn behind(_vcpu: &VcpuFd, cause: Cause) -> Cause {
    cause
}

/// Describes an instruction that KVM could not emulate, or that lies outside memory.
pub(super) fn not_emulated(vcpu: &VcpuFd, memory: &MappedMemory, mut bytes: Vec<u8>) -> Cause {
    let rip = vcpu.get_regs().and_then(|registers| vcpu.translate_gva(registers.rip)).ok();
    if let Some(rip) = rip.filter(|translation| translation.valid != 0) {
        let address = rip.physical_address;
        if address >= memory.size() {
            return Cause::Memory { address: Some(Gpa(address)), access: Permissions::EXECUTE };
        }
        if bytes.is_empty() {
            // The longest instruction has 15 bytes (SDM volume 2, 2.3.11). Bytes past the end of
            // memory stay zero.
            bytes.resize(15, 0);
            let _ = memory.read(Gpa(address), &mut bytes);
        }
    }
    let what = match bytes.as_slice() {
        [] => "an instruction".to_owned(),
        bytes => format!("the instruction at the start of these bytes: {}", hex(bytes)),
    };
    Cause::Instruction { what }
}

/// Sets the vCPU to the guest's entry point.
///
/// The FPU keeps KVM's initial state: as after FNINIT, with MXCSR at its reset value, which
/// `KVM_SET_FPU` could not change. The APIC is disabled, as in CPUID.
pub(super) fn set_up(kvm: &Kvm, entry: &EntryState) -> Result<(), BackendError> {
    let Kvm { vcpu, model, .. } = kvm;
    vcpu.set_cpuid2(model).map_err(|error| kvm_error("setting the vCPU's CPUID", error))?;
    vcpu.set_sregs(&special_registers(entry))
        .map_err(|error| kvm_error("setting the vCPU's system registers", error))?;
    vcpu.set_regs(&general_registers(entry)).map_err(|error| kvm_error("setting the vCPU's registers", error))
}

/// Registers of the vCPU.
///
/// While a hypercall is being served, RIP still points at its `out`.
pub(super) fn registers(vcpu: &VcpuFd) -> Result<Registers, BackendError> {
    let kvm = vcpu.get_regs().map_err(|error| kvm_error("reading the vCPU's registers", error))?;
    Ok(Registers {
        rax: kvm.rax,
        rbx: kvm.rbx,
        rcx: kvm.rcx,
        rdx: kvm.rdx,
        rsi: kvm.rsi,
        rdi: kvm.rdi,
        rbp: kvm.rbp,
        rsp: kvm.rsp,
        r8: kvm.r8,
        r9: kvm.r9,
        r10: kvm.r10,
        r11: kvm.r11,
        r12: kvm.r12,
        r13: kvm.r13,
        r14: kvm.r14,
        r15: kvm.r15,
        rip: kvm.rip,
        rflags: kvm.rflags,
    })
}

/// All registers of the vCPU.
pub(super) fn state(vcpu: &VcpuFd) -> Result<CpuState, BackendError> {
    let registers = registers(vcpu)?;
    let special = vcpu.get_sregs().map_err(|error| kvm_error("reading the vCPU's system registers", error))?;
    let segments = Segments {
        cs: special.cs.selector,
        ss: special.ss.selector,
        ds: special.ds.selector,
        es: special.es.selector,
        fs: special.fs.selector,
        gs: special.gs.selector,
        fs_base: special.fs.base,
        gs_base: special.gs.base,
    };
    let area = vcpu.get_xsave().map_err(|error| kvm_error("reading the vCPU's FPU", error))?;
    let (legacy, rest) = area.region.as_bytes().split_at(size_of::<FxState>());
    let in_use = rest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let fpu = legacy.first_chunk().map_or(FxState::default(), |legacy| FxState::from_xsave(legacy, in_use));
    Ok(CpuState { registers, segments, fpu })
}

/// Changes the registers from `before` to `after`. Selectors do not change.
pub(super) fn set_state(vcpu: &VcpuFd, before: &CpuState, after: &CpuState) -> Result<(), BackendError> {
    if after.registers != before.registers {
        vcpu.set_regs(&kvm_registers(&after.registers))
            .map_err(|error| kvm_error("setting the vCPU's registers", error))?;
    }
    let bases = |state: &CpuState| (state.segments.fs_base, state.segments.gs_base);
    if bases(after) != bases(before) {
        let mut special = vcpu.get_sregs().map_err(|error| kvm_error("reading the vCPU's system registers", error))?;
        (special.fs.base, special.gs.base) = bases(after);
        vcpu.set_sregs(&special).map_err(|error| kvm_error("setting the vCPU's segment bases", error))?;
    }
    if after.fpu != before.fpu {
        let mut area = vcpu.get_xsave().map_err(|error| kvm_error("reading the vCPU's FPU", error))?;
        let bytes = area.region.as_mut_bytes();
        bytes[..FxState::USED].copy_from_slice(&after.fpu.as_bytes()[..FxState::USED]);
        // XSTATE_BV: x87 and SSE are in use.
        bytes[size_of::<FxState>()] |= 3;
        // SAFETY: this vCPU has just filled the area of 4 KiB: it has no features that need a
        // larger one.
        unsafe { vcpu.set_xsave(&area) }.map_err(|error| kvm_error("setting the vCPU's FPU", error))?;
    }
    Ok(())
}

/// Translates a guest-virtual address with `KVM_TRANSLATE`.
pub(super) fn translate(vcpu: &VcpuFd, _memory: &MappedMemory, address: u64) -> Option<Gpa> {
    let found = vcpu.translate_gva(address).ok()?;
    (found.valid != 0).then_some(Gpa(found.physical_address))
}

/// Describes the system registers for people.
pub(super) fn describe(vcpu: &VcpuFd) -> Result<String, BackendError> {
    let special = vcpu.get_sregs().map_err(|error| kvm_error("reading the vCPU's system registers", error))?;
    let kvm_sregs { cr0, cr2, cr3, cr4, efer, gdt, idt, tr, .. } = special;
    Ok(format!(
        "cr0 {cr0:#x}\ncr2 {cr2:#x}\ncr3 {cr3:#x}\ncr4 {cr4:#x}\nefer {efer:#x}\n\
         gdtr {:#x}, limit {:#x}\nidtr {:#x}, limit {:#x}\ntr {:#x}, limit {:#x}\n",
        gdt.base, gdt.limit, idt.base, idt.limit, tr.base, tr.limit
    ))
}

/// Frequency of the vCPU's TSC, as reported by KVM.
pub(super) fn cycle_frequency(vcpu: &VcpuFd) -> Result<Frequency, BackendError> {
    const HZ_PER_KHZ: u64 = 1000;
    match vcpu.get_tsc_khz() {
        Ok(khz) if khz != 0 => Ok(Frequency { hz: u64::from(khz) * HZ_PER_KHZ, source: Source::Kvm }),
        // KVM returns EIO if the host's TSC does not run at a constant rate.
        _ => Err(BackendError {
            what: "querying the frequency of the TSC from KVM",
            source: io::Error::other("the host's TSC is not stable, and it is the guest's clock"),
        }),
    }
}

fn special_registers(entry: &EntryState) -> kvm_sregs {
    let data = segment(&entry.data);
    kvm_sregs {
        cs: segment(&entry.code),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segment(&entry.task),
        ldt: segment(&entry.ldt),
        gdt: table(entry.gdtr),
        idt: table(entry.idtr),
        cr0: entry.cr0.bits(),
        cr3: entry.cr3.0,
        cr4: entry.cr4.bits(),
        efer: entry.efer.bits(),
        ..kvm_sregs::default()
    }
}

fn general_registers(entry: &EntryState) -> kvm_regs {
    kvm_regs { rip: entry.rip.0, rsp: entry.rsp.0, rdi: entry.rdi.0, rflags: entry.rflags, ..kvm_regs::default() }
}

fn kvm_registers(registers: &Registers) -> kvm_regs {
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags } =
        *registers;
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn segment(segment: &Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: segment.present.into(),
        dpl: segment.dpl,
        db: segment.default_big.into(),
        s: segment.code_or_data.into(),
        l: segment.long.into(),
        g: segment.granularity.into(),
        avl: 0,
        unusable: (!segment.present).into(),
        padding: 0,
    }
}

fn table(table: TableRegister) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}
