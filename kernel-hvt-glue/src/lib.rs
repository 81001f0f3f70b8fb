//! Hypervisor for embedding in a kernel: Intel VMX with extended page tables and AMD SVM with
//! nested paging behind one interface.
//!
//! A guest has one CPU and memory. There is no emulated hardware, no firmware, and no interrupt
//! delivery. A guest starts in 64-bit mode ([`EntryState`](hvt_abi::x86_64::EntryState)) and
//! communicates with its monitor through the exits of [`hvt_abi::kernel::Exit`].
//!
//! The crate needs `alloc`, but no operating system. The embedding kernel implements [`Host`],
//! which provides frames, their mapping, the CPU number, and a request to stop the guest.
//!
//! # Usage
//!
//! 1. Implement [`Host`] for a type that is free to clone.
//! 2. Call [`Hypervisor::new`] once. It detects the features of the CPU, or returns the reason that
//!    the machine cannot run guests.
//! 3. Call [`Hypervisor::enable`] on each CPU that runs guests. Keep the returned [`Cpu`] in the
//!    kernel's per-CPU data. Dropping it on that CPU disables the extension.
//! 4. Create a [`Vm`] for each guest. Add memory ([`Vm::allocate`] or [`Vm::map`]), load the guest
//!    ([`Vm::write`]), and set the guest's permissions ([`Vm::protect`]).
//! 5. Create a [`Vcpu`] ([`Vm::create_vcpu`]), and call [`Vcpu::run`] until it returns a final
//!    exit.
//!
//! ```no_run
//! use hvt_abi::{Gpa, GuestRange, kernel::Exit, x86_64::EntryState};
//! use kernel_hvt_glue::{Host, Hpa, Hypervisor, Permissions, Vm};
//!
//! /// Handle of the kernel.
//! #[derive(Clone)]
//! struct Kernel;
//!
//! # mod frames {
//! #     pub fn take_zeroed(_: u32) -> Option<u64> { None }
//! #     pub unsafe fn give_back(_: u64, _: u32) {}
//! # }
//! # const LINEAR_MAP: usize = 0xffff_8000_0000_0000;
//! # fn cpu_number() -> u32 { 0 }
//! # fn time_slice_is_over() -> bool { true }
//! # fn serve(_: hvt_abi::kernel::Io, _: &Vm<Kernel>) -> Option<i32> { None }
//! // SAFETY: the kernel's allocator hands out each frame once, and all frames are in the linear map.
//! unsafe impl Host for Kernel {
//!     fn allocate(&self, order: u32) -> Option<Hpa> {
//!         frames::take_zeroed(order).map(Hpa)
//!     }
//!     unsafe fn free(&self, base: Hpa, order: u32) {
//!         unsafe { frames::give_back(base.0, order) }
//!     }
//!     fn phys_to_virt(&self, hpa: Hpa) -> *mut u8 {
//!         core::ptr::with_exposed_provenance_mut(LINEAR_MAP + hpa.0 as usize)
//!     }
//!     fn cpu_index(&self) -> u32 {
//!         cpu_number()
//!     }
//!     fn wants_cpu(&self) -> bool {
//!         time_slice_is_over()
//!     }
//! }
//!
//! fn run_guest(code: &[u8]) -> Result<i32, Box<dyn core::error::Error>> {
//!     // SAFETY: a kernel runs at CPL 0, in 64-bit mode; this thread stays on its CPU.
//!     let hypervisor = unsafe { Hypervisor::new(Kernel)? };
//!     let mut cpu = unsafe { hypervisor.enable()? };
//!
//!     let mut vm = Vm::new(&hypervisor)?;
//!     let memory = GuestRange::new(Gpa(0), 32 << 20).ok_or("no such range")?;
//!     vm.allocate(memory, Permissions::READ | Permissions::WRITE)?;
//!     let text = GuestRange::new(Gpa(0x10_0000), 0x1000).ok_or("no such range")?;
//!     vm.write(text.start(), code)?;
//!     vm.protect(text, Permissions::EXECUTE)?;
//!
//!     let mut vcpu = vm.create_vcpu(&EntryState::new(memory.len(), text.start()))?;
//!     loop {
//!         match vcpu.run(&mut cpu, &vm)? {
//!             Exit::Io(io) => {
//!                 if let Some(status) = serve(io, &vm) {
//!                     return Ok(status);
//!                 }
//!             }
//!             Exit::Interrupted => { /* run other threads */ }
//!             exit => return Err(exit.to_string().into()),
//!         }
//!     }
//! }
//! ```
//!
//! # Ownership of CPU state
//!
//! | state | while the guest runs | otherwise |
//! |---|---|---|
//! | general registers, RIP, RSP, RFLAGS, control and segment registers, descriptor tables, FS and GS base, PAT, EFER | guest | kernel; the guest's values are in [`Vcpu`] |
//! | x87, SSE, AVX, AVX-512, XCR0 | guest | previous owner: swapped at every entry and exit ([`Vcpu::bind`]), or while the [`Bound`] exists ([`Vcpu::bind_keeping_fpu`]) |
//! | DR0 to DR3, DR6, DR7 | guest, after its first access | kernel; restored after every exit if the kernel has set breakpoints |
//! | CR2 | guest | undefined: the kernel's page-fault handler must read CR2 before another guest can run |
//! | KERNEL_GS_BASE, IDTR and GDTR limit, TR, LDTR | guest | kernel; on Intel restored when the [`Bound`] is dropped |
//! | MSRs of SYSCALL and SYSENTER | 0 as seen by the guest | kernel |
//! | PKRU, AMX and all other components of XCR0 | kernel; inaccessible to guests | kernel |
//! | IA32_XSS, TSC_AUX (XSAVES, RDPID) | AMD: 0. Intel: kernel, and the instructions cause #UD | kernel, with the values at [`Hypervisor::enable`] |
//! | CET of user mode (IA32_U_CET, IA32_PL3_SSP) | kernel; inaccessible to guests | kernel |
//! | CET of the kernel (IA32_S_CET) | off: see [`EnableError::SupervisorCet`] | off |
//! | IA32_SPEC_CTRL | kernel | kernel, with IBRS and BHI_DIS_S while a [`Cpu`] exists |
//! | local APIC, all other MSRs, ports | kernel; inaccessible to guests | kernel |
//! | frames of [`Vm::allocate`], tables, control structures | this crate | returned through [`Host::free`] when dropped |
//! | memory of [`Vm::map`] | its owner | its owner |
//!
//! A [`Vm`] is borrowed while one of its virtual CPUs is bound. So memory cannot be unmapped under
//! a running guest, and a flush needs no inter-processor interrupt: stale translations are flushed
//! when a virtual CPU is next bound. A kernel that shares a `Vm` between CPUs protects it with a
//! reader-writer lock. Before the kernel takes the lock for writing, it stops the VM's virtual CPUs
//! with [`Host::wants_cpu`] and an inter-processor interrupt.
//!
//! # Interrupts
//!
//! Physical interrupts and NMIs cause an exit and belong to the kernel. The kernel's handlers run
//! on the kernel's own stack and segments.
//!
//! - If the caller of [`Bound::run`] has interrupts enabled, they are taken between exit and entry.
//!   The guest then continues unless [`Host::wants_cpu`] returns `true`.
//! - If the caller has interrupts disabled, `run` returns, and the interrupts are taken when the
//!   kernel enables them.
//!
//! While a [`Bound`] exists, the kernel must not run another thread on this CPU. A handler that has
//! to switch threads makes `wants_cpu` return `true`.
//!
//! Guests receive no interrupts. A guest handles its own exceptions, except for #MC, #DB and #AC. #MC
//! goes to the kernel. #DB and #AC are intercepted and injected again, because a guest could
//! otherwise raise them in an endless loop that never takes an interrupt.
//!
//! # Multiple CPUs
//!
//! A [`Vcpu`] may be bound to a different CPU each time, and is [`Send`] if the `Host` is. A
//! [`Cpu`] stays on its CPU. Between two bindings, a CPU holds only cached translations of a
//! virtual CPU. If they have become stale, they are flushed when the virtual CPU returns. Neither
//! binding nor dropping sends an inter-processor interrupt.
//!
//! # Restrictions of guests
//!
//! - Memory: an access to unmapped memory exits with
//!   [`Exit::MemoryViolation`](hvt_abi::kernel::Exit::MemoryViolation).
//! - Ports: every access exits; no access reaches the hardware.
//! - MSRs: FS, GS and KERNEL_GS base belong to the guest. TSC, PAT and two bits of EFER are
//!   emulated. All other MSRs cause #GP. The list is [`hvt_abi::x86_64::msr`], and KVM enforces the same
//!   list.
//! - CPUID: reports the features for programs, and one CPU. Virtualization, topology and
//!   performance monitoring are hidden.
//! - CR0 and CR4: setting a bit of a feature that CPUID hides causes #GP. Caches stay enabled.
//! - Instructions: `hlt` exits. `monitor`, `mwait`, `rdtscp`, `vmcall` and similar instructions
//!   cause #UD. `invd` and `wbinvd` have no effect.
//!
//! # CPU vulnerabilities
//!
//! Each mitigation applies unless the CPU reports that it is immune, as in KVM. "Exit" means before
//! the first `ret` of the kernel. "Unbinding" means the drop of a [`Bound`], before a monitor in
//! user space runs.
//!
//! | vulnerability | affected CPUs, as reported by the CPU | mitigation |
//! |---|---|---|
//! | return stack buffer (Spectre-RSB, PBRSB) | all | 32 calls at every exit |
//! | branch target injection into the kernel (Spectre v2) | Intel with ARCH_CAPABILITIES.IBRS_ALL | SPEC_CTRL.IBRS while a [`Cpu`] exists |
//! | | AMD with CPUID 8000_0021h EAX bit 8 | EFER.AIBRSE while a [`Cpu`] exists |
//! | | all others with IBPB | IBPB at every exit |
//! | branch type confusion (Retbleed) | AMD families 17h and 18h without CPUID 8000_0008h EBX bit 29 | IBPB at every exit |
//! | return stack overflow (SRSO) | AMD from family 17h on without SRSO_NO | BP_CFG.BpSpecReduce while a [`Cpu`] exists if SRSO_MSR_FIX, else IBPB at every exit |
//! | branch history injection (BHI) | Intel with IBRS_ALL, without BHI_NO | SPEC_CTRL.BHI_DIS_S if CPUID 7.2 EDX bit 4, else a sequence of branches at every exit |
//! | branch target injection between guests | all with IBPB | IBPB when another [`Vm`] is bound |
//! | branch target injection into the monitor (VMSCAPE) | all with IBPB; no CPUID bit | IBPB at unbinding, unless at every exit |
//! | L1 terminal fault (L1TF) | Intel without RDCL_NO and SKIP_L1DFL_VMENTRY | FLUSH_CMD.L1D_FLUSH at every entry, or 64 KiB of reads without FLUSH_CMD |
//! | MDS | Intel without MDS_NO | VERW right before VMLAUNCH and VMRESUME |
//! | TAA | Intel with RTM, without TAA_NO | as for MDS |
//! | MMIO stale data | Intel with FB_CLEAR, without SBDR_SSDP_NO, FBSDP_NO and PSDP_NO | as for MDS |
//! | RFDS | Intel with RFDS_CLEAR, without RFDS_NO | as for MDS |
//! | transient scheduler attacks (TSA) | AMD with VERW_CLEAR, without TSA_SQ_NO and TSA_L1_NO | VERW right before VMRUN |
//! | stale quotients in the divider | AMD family 17h, models 00h to 2Fh and 50h to 5Fh | a division before VMRUN |
//! | machine check on a change of page size | Intel without IF_PSCHANGE_MC_NO | executable pages limited to 4 KiB |
//!
//! The kernel remains responsible for:
//!
//! - microcode, which adds IBPB, VERW and FLUSH_CMD to old CPUs, and mitigates SRBDS and GDS by
//!   itself,
//! - the sibling hyperthread, which must be idle or run the same guest on CPUs with L1TF, MDS or
//!   TAA,
//! - IBPB between processes,
//! - Spectre v1 in the kernel's own code.
//!
//! Speculative store bypass crosses no boundary between guests.
//!
//! # Monitors in user space
//!
//! A kernel that lets processes run guests uses [`scheme`]. It adds the handles, operations, rights
//! and limits of [`hvt_abi::kernel`].
//!
//! # Structure
//!
//! Virtual machines, virtual CPUs, page tables and the scheme are independent of the architecture.
//! [`Arch`](arch::Arch) is the interface to an architecture, and [`Hypervisor::new`] selects its
//! implementation once. [`paging`] has one walker for all formats of second-level page tables.
//!
//! The `x86_64` module contains the code common to VMX and SVM (emulated instructions, CPUID, FPU,
//! tags of cached translations, mitigations), and one module for each extension. Each privileged
//! instruction is one small function in `privileged`, `svm::entry`, `vmx::instructions`,
//! `vmx::entry` or `vmx::host_state`.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arch;
#[cfg(test)]
mod fake;
mod host;
mod hypervisor;
mod memory;
pub mod native;
pub mod paging;
pub mod scheme;
mod vcpu;
mod vm;
mod x86_64;

pub use arch::Capabilities;
pub use host::{FRAME_SIZE, Frames, Host, Hpa, OutOfMemory};
pub use hvt_abi::Permissions;
pub use hypervisor::{Cpu, Hypervisor};
pub use memory::AccessError;
pub use native::{EnableError, Unsupported};
pub use paging::{MapError, Translation};
pub use vcpu::{BindError, Bound, Vcpu};
pub use vm::Vm;
