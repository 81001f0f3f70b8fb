//! The hypervisor that a kernel embeds: Intel VMX with extended page tables, AMD SVM with nested paging, one interface.
//!
//! It runs guests that need a CPU and memory and nothing else: no emulated hardware, no firmware, no interrupts. A guest
//! starts in 64-bit mode ([`EntryState`](hvt_abi::x86_64::EntryState)) and talks to its monitor through the exits of
//! [`hvt_abi::kernel::Exit`]. The crate needs `alloc`, no operating system, and of the kernel around it what [`Host`]
//! names: frames, a view of them, the number of the CPU, and a say in when the guest has to stop.
//!
//! # What a kernel does, in order
//!
//! 1. Implement [`Host`] for a type that costs nothing to clone.
//! 2. Once: [`Hypervisor::new`]. It looks at the CPU and says why the machine will not do, if so.
//! 3. On each CPU that is to run guests: [`Hypervisor::enable`]. The [`Cpu`] that it returns belongs into the kernel's
//!    per-CPU data; dropping it there disables the extension again.
//! 4. For each guest: a [`Vm`], its memory ([`Vm::allocate`] or [`Vm::map`]), what lies in it ([`Vm::write`]), and what
//!    the guest may do where ([`Vm::protect`]).
//! 5. A [`Vcpu`] ([`Vm::create_vcpu`]), and [`Vcpu::run`] until the exit says that it is over.
//!
//! ```no_run
//! use hvt_abi::{Gpa, GuestRange, kernel::Exit, x86_64::EntryState};
//! use kernel_hvt_glue::{Host, Hpa, Hypervisor, Permissions, Vm};
//!
//! /// The kernel: there is but one.
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
//! // SAFETY: frames come from the kernel's allocator, which hands each out once, and are in the linear map.
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
//!             Exit::Interrupted => { /* let others run */ }
//!             exit => return Err(exit.to_string().into()),
//!         }
//!     }
//! }
//! ```
//!
//! # Which state is whose
//!
//! | state | while the guest runs | else |
//! |---|---|---|
//! | general registers, RIP, RSP, RFLAGS, control and segment registers, descriptor tables, FS and GS base, PAT, EFER | the guest's | the kernel's; the guest's rest in [`Vcpu`] |
//! | x87, SSE, AVX, AVX-512, XCR0 | the guest's | the previous owner's: swapped at every entry and exit ([`Vcpu::bind`]), or while the [`Bound`] exists ([`Vcpu::bind_keeping_fpu`]) |
//! | DR0 to DR3, DR6, DR7 | the guest's, once it has touched them | the kernel's, restored after every exit if it has set breakpoints |
//! | CR2 | the guest's | undefined: a page-fault handler of the kernel reads it before anything else can run a guest |
//! | KERNEL_GS_BASE, IDTR and GDTR limit, TR, LDTR | the guest's | the kernel's, on Intel when the [`Bound`] is dropped |
//! | MSRs of SYSCALL and SYSENTER | 0, as far as the guest can tell | the kernel's |
//! | PKRU, AMX and whatever else XCR0 can enable | the kernel's; guests cannot reach it | the kernel's |
//! | IA32_XSS, TSC_AUX (XSAVES, RDPID) | on AMD 0; on Intel the kernel's, and the instructions are #UD | the kernel's, as they were at [`Hypervisor::enable`] |
//! | CET of user mode (IA32_U_CET, IA32_PL3_SSP) | the kernel's; guests cannot reach it | the kernel's |
//! | CET of the kernel (IA32_S_CET) | off: [`EnableError::SupervisorCet`] | off |
//! | IA32_SPEC_CTRL | the kernel's | the kernel's, with IBRS and BHI_DIS_S while a [`Cpu`] exists |
//! | local APIC, all other MSRs, ports | the kernel's; guests cannot reach them | the kernel's |
//! | frames of [`Vm::allocate`], tables, control structures | this crate's | returned through [`Host::free`] when dropped |
//! | memory of [`Vm::map`] | its owner's | its owner's |
//!
//! A [`Vm`] is borrowed while one of its virtual CPUs is bound, so nothing can be unmapped under a running guest, and no
//! other CPU has to be interrupted for a flush: what has become stale is flushed when a virtual CPU is next bound. A
//! kernel that shares a `Vm` between CPUs keeps it behind a reader-writer lock and stops its virtual CPUs
//! ([`Host::wants_cpu`], an inter-processor interrupt) before it takes the lock for writing.
//!
//! # Interrupts
//!
//! Physical interrupts and NMIs leave the guest and are the kernel's: its handlers run on its own stack, with its own
//! segments. Where the caller of [`Bound::run`] has interrupts enabled, they are taken while the guest is out, and it goes
//! on unless [`Host::wants_cpu`] says otherwise; where not, `run` returns and they are taken when the kernel enables
//! interrupts. While a [`Bound`] exists, the kernel runs no other thread on this CPU: a handler that wants to switch
//! threads makes `wants_cpu` answer `true`. Guests get no interrupts; their exceptions are
//! their own, but for #MC, which goes to the kernel, and #DB and #AC, which pass through here so that a guest cannot
//! raise them for ever without letting an interrupt in between.
//!
//! # Several CPUs
//!
//! A [`Vcpu`] may be bound to another CPU each time, and be sent there ([`Send`], where the `Host` is); a [`Cpu`] stays.
//! Between two bindings no CPU holds anything of a virtual CPU but cached translations, which are flushed if it comes
//! back after they have become stale. Neither binding nor dropping sends an inter-processor interrupt.
//!
//! # What guests are denied
//!
//! - Memory that is not mapped: [`Exit::MemoryViolation`](hvt_abi::kernel::Exit::MemoryViolation).
//! - Ports: every access exits, none reaches the hardware.
//! - MSRs: FS, GS and KERNEL_GS base are the guest's own; TSC, PAT and two bits of EFER are emulated; all others are #GP.
//!   The list is [`hvt_abi::x86_64::msr`], and KVM enforces the same one.
//! - CPUID: what a program may use, on one CPU of its own; no virtualization, no topology, no performance monitoring.
//! - CR0 and CR4: bits that stand for a feature which CPUID does not show are #GP; caches stay on.
//! - `hlt` exits; `monitor`, `mwait`, `rdtscp`, `vmcall` and their kin are #UD; `invd` and `wbinvd` do nothing.
//!
//! # Weaknesses of CPUs
//!
//! Each mitigation is applied where the CPU does not report that it is immune, as KVM does it. "Exit" is before the first
//! `ret` of the kernel, "unbinding" the end of a [`Bound`], before a monitor in user space runs.
//!
//! | weakness | CPUs, by what they report | mitigation |
//! |---|---|---|
//! | return stack buffer (Spectre-RSB, PBRSB) | all | 32 calls at every exit |
//! | branch target injection into the kernel (Spectre v2) | Intel with ARCH_CAPABILITIES.IBRS_ALL | SPEC_CTRL.IBRS while a [`Cpu`] exists |
//! | | AMD with CPUID 8000_0021h EAX bit 8 | EFER.AIBRSE while a [`Cpu`] exists |
//! | | all others with IBPB | IBPB at every exit |
//! | branch type confusion (Retbleed) | AMD families 17h and 18h without CPUID 8000_0008h EBX bit 29 | IBPB at every exit |
//! | return stack overflow (SRSO) | AMD from family 17h on without SRSO_NO | BP_CFG.BpSpecReduce while a [`Cpu`] exists if SRSO_MSR_FIX, else IBPB at every exit |
//! | branch history injection (BHI) | Intel with IBRS_ALL, without BHI_NO | SPEC_CTRL.BHI_DIS_S if CPUID 7.2 EDX bit 4, else a run of branches at every exit |
//! | branch target injection between guests | all with IBPB | IBPB when another [`Vm`] is bound |
//! | branch target injection into the monitor (VMSCAPE) | all with IBPB; no bit reports it | IBPB at unbinding, unless at every exit |
//! | L1 terminal fault (L1TF) | Intel without RDCL_NO and SKIP_L1DFL_VMENTRY | FLUSH_CMD.L1D_FLUSH at every entry, or 64 KiB read where there is no FLUSH_CMD |
//! | MDS | Intel without MDS_NO | VERW right before VMLAUNCH and VMRESUME |
//! | TAA | Intel with RTM, without TAA_NO | as for MDS |
//! | MMIO stale data | Intel with FB_CLEAR, without SBDR_SSDP_NO, FBSDP_NO and PSDP_NO | as for MDS |
//! | RFDS | Intel with RFDS_CLEAR, without RFDS_NO | as for MDS |
//! | transient scheduler attacks (TSA) | AMD with VERW_CLEAR, without TSA_SQ_NO and TSA_L1_NO | VERW right before VMRUN |
//! | quotients of other contexts | AMD family 17h, models 00h to 2Fh and 50h to 5Fh | a division before VMRUN |
//! | machine check on a change of page size | Intel without IF_PSCHANGE_MC_NO | executable pages of 4 KiB only |
//!
//! The kernel still has to do the rest: microcode (which brings IBPB, VERW and FLUSH_CMD to old CPUs, and mitigates SRBDS and
//! GDS by itself); the sibling hyperthread, which has to be idle or run the same guest on CPUs with L1TF, MDS or TAA; IBPB
//! between processes; Spectre v1 in the kernel's own code. Speculative store bypass crosses no boundary between guests.
//!
//! # For monitors in user space
//!
//! [`scheme`] is the layer above: handles, operations, rights and limits of [`hvt_abi::kernel`], for a kernel that lets
//! processes run guests.
//!
//! # How it is built
//!
//! Virtual machines, virtual CPUs, page tables and the scheme name no architecture: [`arch`] is the seam, an implementation
//! of [`Arch`](arch::Arch) the other side of it, chosen once by [`Hypervisor::new`]. [`paging`] is one walker for all
//! formats of second-level page tables. Everything that only x86_64 has lies in a module of that name: what VMX and SVM
//! share (emulated instructions, CPUID, FPU, tags of cached translations, mitigations), and one module for each.
//! Privileged instructions are one small function each, in `privileged`, `svm::entry`, `vmx::instructions`, `vmx::entry`
//! and `vmx::host_state`.
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
