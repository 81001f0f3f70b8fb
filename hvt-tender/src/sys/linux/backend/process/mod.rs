//! Sandboxed process backend: runs guests at native speed without hardware virtualization (Linux,
//! x86_64).
//!
//! The guest's instructions run in a **child** process. Its address space contains guest memory at
//! its guest addresses with the segments' permissions, one page of the tender's code (`stub`), the
//! exchange pages (`exchange`), and nothing else. The child can make only the system calls of the
//! hand-over (`handover`).
//!
//! Every guest instruction that needs CPL 0 raises an exception, which the kernel turns into a
//! signal. The signal handler in the stub hands over to the tender. The tender finds the guest's
//! registers in the signal frame (`frame`) and does one of the following:
//! - converts a hypercall to an [`Exit`],
//! - emulates (`emulate`) one of the few privileged instructions that guests use on a virtual CPU
//!   (`cpu`),
//! - delivers (`exception`) the exception to the guest through the guest's IDT.
//!
//! Hypercalls that compilers have generated need no signal: a jump replaces one of their
//! instructions (`direct`, `sites`).
//!
//! The isolation is as strong as a seccomp sandbox, not as a virtual machine: a vulnerability in the
//! kernel's memory management, signal delivery or futexes is within the guest's reach. A guest that
//! jumps into the stub or overwrites the exchange pages can stop only itself.
//!
//! Differences from hardware that a guest can observe: `pushf` shows RFLAGS.IF set, `sgdt` and
//! similar instructions may show the host's registers, and segment registers read back the host's
//! selectors. A guest with readable code reads a jump at each hypercall site. CPUID returns the
//! host's values, so that XCR0 and the bits of CR4 visible in CPUID are set from the start and stay
//! set. Loading other page tables, enabling `syscall` through EFER, and setting debug registers end
//! the guest with a message.

#![expect(unsafe_code, reason = "system calls, and memory that the process of the guest writes")]

mod child;
mod control;
mod cpu;
mod debug;
mod direct;
mod emulate;
mod exception;
mod exchange;
mod features;
mod file_size;
mod frame;
mod guards;
mod handover;
mod protocol;
mod sandbox;
mod setup;
mod sites;
mod spin;
mod stub;

use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hvt_abi::Gpa;
use hvt_abi::x86_64::{EntryState, Registers, Vector};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::time::ClockId;
use nix::unistd::Pid;

use self::child::Child;
use self::cpu::{Cpu, RFLAGS_AC};
use self::debug::Debugging;
use self::direct::Direct;
use self::emulate::EmulationResult;
use self::exception::Exception;
use self::exchange::Exchange;
use self::file_size::FileSize;
use self::frame::{BadFrame, Frame, Signal};
use self::handover::{Handover, Turn};
use self::protocol::command;
use self::setup::Script;
use crate::Vcpu;
use crate::backend::debug::DebugTarget;
use crate::backend::{
    BackendError, CancelToken, CycleCounter, Kind, Machine, Opened, Running, Unavailable, UnavailableReason,
};
use crate::config::BackendChoice;
use crate::descriptor::{Descriptor, Uses};
use crate::exit::{Cause, Exit, Fault};
use crate::memory::{GuestMemory, GuestSpace, MapError, MappedMemory, MemoryMap, Permissions, Usage};
use crate::sandbox::{Calls, outer};
use crate::sys::cpu_clock::CpuClock;

/// The turn orders all accesses to the exchange pages; they need no ordering themselves.
const RELAXED: Ordering = Ordering::Relaxed;

/// The process backend among the kinds of backends.
pub(crate) const KIND: Kind = Kind {
    choice: BackendChoice::Process,
    is_fast: || true,
    counts_cycles: true,
    open: || Ok(Box::new(Process::open()?)),
};

/// Process backend, checked to be usable on this kernel.
#[derive(Debug)]
pub(crate) struct Process {
    by_system_call: bool,
    cycles: Option<CycleCounter>,
    debugged: bool,
    /// The child can close its descriptors with close_range(2).
    close_range: bool,
}

/// System calls that only this backend makes. With all arguments -1, none of them has an effect.
const CALLS: [(libc::c_long, &str); 4] = [
    (libc::SYS_memfd_create, "memfd_create"),
    (libc::SYS_execveat, "execveat"),
    (libc::SYS_waitid, "waitid"),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
];

impl Process {
    /// Checks that this kernel has everything that the backend needs.
    ///
    /// # Errors
    /// Returns [`Unavailable`] if the kernel is older than 5.4 or a seccomp filter denies a
    /// required system call.
    pub(crate) fn open() -> Result<Self, Unavailable> {
        let unavailable = |reason| Unavailable { backend: "process", reason };
        if let Some(call) = outer::missing(&CALLS) {
            return Err(unavailable(UnavailableReason::SystemCall(outer::refusal(call))));
        }
        let close_range = has_close_range();
        // close_range(2) is newer than all other requirements.
        if !close_range && !has_pidfds() {
            return Err(unavailable(UnavailableReason::NoPidfd));
        }
        // SAFETY: getauxval has no preconditions.
        let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
        Ok(Self { by_system_call: hwcap2 & features::HWCAP2_FSGSBASE == 0, cycles: None, debugged: false, close_range })
    }

    /// Makes the guest read `counter` instead of the TSC. Each read then costs a signal and a
    /// hand-over.
    #[must_use]
    pub(crate) fn with_cycle_counter(mut self, counter: CycleCounter) -> Self {
        self.cycles = Some(counter);
        self
    }

    /// Creates guests that can be [debugged](DebugTarget) with watchpoints: the child may change
    /// the protection of guest memory.
    #[must_use]
    pub(crate) fn with_watchpoints(mut self) -> Self {
        self.debugged = true;
        self
    }

    /// Creates guest memory that a child can map: a sealed memfd.
    ///
    /// # Errors
    /// Returns [`MapError`] if a system call fails.
    pub(crate) fn memory(&self, size: u64) -> Result<MappedMemory, MapError> {
        let file = memfd(c"hvt-guest-memory", size, Executed::No).map_err(|source| MapError { size, source })?;
        MappedMemory::shared(size, file)
    }

    /// Creates the child with guest memory mapped according to `memory_map`, ready to run from
    /// `entry`.
    ///
    /// # Errors
    /// Returns [`BackendError`], which names the step, if a step fails.
    pub(crate) fn start(
        self,
        memory: MappedMemory,
        memory_map: MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<ProcessMachine, BackendError> {
        let error = |what| move |source| BackendError { what, source };
        let file = memory.file().ok_or(io::ErrorKind::InvalidInput.into());
        let file = file.map_err(error("guest memory was created by another backend"))?;
        let watched = self.debugged && memory_map.regions().len() <= sandbox::WATCHED_REGIONS_MAX;
        let options = setup::Options { cycles_trap: self.cycles.is_some(), watched, close_range: self.close_range };
        let (parent, memory_file) = (std::process::id(), file.as_raw_fd());
        // A debugger writes breakpoints to guest memory and steps through code: the child executes
        // guest memory itself.
        let direct = if self.debugged { Direct::default() } else { Direct::new(&memory, &memory_map) };
        let plan = setup::SetupPlan {
            parent,
            memory: memory_file,
            stub: -1,
            memory_map: &memory_map,
            direct: &direct,
            options,
        };
        let (steps, places) = Script::measure(&plan);
        let exchange = Exchange::new(places, direct.page_count()).map_err(error("making the exchange pages"))?;
        direct.write(&exchange, &memory).map_err(error("copying code with hypercalls"))?;
        let exchange = Arc::new(exchange);
        let stub = exchange.file().map_or(-1, |file| file.as_raw_fd());
        let script = Script::new(&setup::SetupPlan { stub, ..plan }, steps, places);
        exchange.write_script(script.words());
        exchange.header().reads_bases.store(u32::from(!self.by_system_call), RELAXED);
        let child = Child::spawn(&exchange, file, self.close_range)?;
        let handover = Handover::new(exchange.clone(), child.pid());
        stop.set_kick(handover.kick(&child));
        stop.set_ended(child.pidfd());
        let mut machine = ProcessMachine {
            handover,
            child,
            cpu: Cpu { cycles: self.cycles, ..Cpu::new(entry) },
            stop: stop.clone(),
            exchange,
            memory,
            memory_map,
            by_system_call: self.by_system_call,
            debugging: Debugging::new(watched),
            direct,
            in_direct: false,
            thread: PhantomData,
        };
        machine.enter(entry, &script)?;
        Ok(machine)
    }
}

impl Opened for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn with_cycle_counter(self: Box<Self>, counter: CycleCounter) -> Option<Box<dyn Opened>> {
        Some(Box::new((*self).with_cycle_counter(counter)))
    }

    fn for_debugger(self: Box<Self>) -> Box<dyn Opened> {
        Box::new(self.with_watchpoints())
    }

    fn memory(&self, size: u64) -> Result<MappedMemory, MapError> {
        self.memory(size)
    }

    fn start(
        self: Box<Self>,
        memory: MappedMemory,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<Box<dyn Running>, BackendError> {
        Ok(Box::new((*self).start(memory, memory_map.clone(), entry, stop)?))
    }
}

/// Returns true if close_range(2) works. The kernel supports it since Linux 5.9; older seccomp
/// filters of container runtimes deny it on any kernel.
fn has_close_range() -> bool {
    // Closes nothing: no descriptor has this number.
    // SAFETY: takes no pointers.
    outer::allows(libc::SYS_close_range) && unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) } == 0
}

/// Returns true if the kernel can wait for a process by its pidfd.
fn has_pidfds() -> bool {
    let nothing = std::ptr::null_mut::<libc::siginfo_t>();
    // SAFETY: the pointer is null, as the call permits. No descriptor has this number.
    let failed = unsafe { libc::waitid(libc::P_PIDFD, i32::MAX as libc::id_t, nothing, libc::WEXITED | libc::WNOHANG) };
    failed < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
}

/// Use of a memfd with execveat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Executed {
    /// The memfd is executed as a program.
    Yes,
    /// The memfd is only mapped.
    No,
}

/// Creates a memfd of `size` zero bytes, whose size is sealed.
fn memfd(name: &CStr, size: u64, executed: Executed) -> io::Result<OwnedFd> {
    let create = |flags| {
        // SAFETY: `name` is NUL-terminated.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | flags) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    // Kernels with MFD_EXEC (6.3) can be configured to require it; older kernels reject it.
    let fd = create(libc::MFD_EXEC).or_else(|error| match error.raw_os_error() {
        Some(libc::EACCES) if executed == Executed::Yes => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "this host forbids executing memfds (sysctl vm.memfd_noexec is 2), as the process backend does: \
             set vm.memfd_noexec=1, or use another backend",
        )),
        _ => create(0),
    })?;
    // SAFETY: the kernel has just created this descriptor for the tender.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let raised = FileSize::raise(size)?;
    let size = libc::off_t::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    nix::unistd::ftruncate(&file, size)?;
    drop(raised);
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
    Ok(file)
}

/// Guest in its child process.
///
/// The child ends when this object is dropped, and also when the thread that created it ends.
/// Therefore it stays on that thread.
#[derive(Debug)]
pub(crate) struct ProcessMachine {
    handover: Handover,
    child: Child,
    cpu: Cpu,
    stop: CancelToken,
    exchange: Arc<Exchange>,
    memory: MappedMemory,
    memory_map: MemoryMap,
    /// The bases of FS and GS are set with `arch_prctl`.
    by_system_call: bool,
    debugging: Debugging,
    direct: Direct,
    /// The child handed over through a trampoline, and its signal frame is an earlier one.
    in_direct: bool,
    thread: PhantomData<*const ()>,
}

impl ProcessMachine {
    /// Process id of the child.
    #[cfg(test)]
    pub(crate) fn child(&self) -> u32 {
        self.child.pid()
    }

    /// Waits for the child's first hand-over and sets its frame to the guest's entry state.
    fn enter(&mut self, entry: &EntryState, script: &Script) -> Result<(), BackendError> {
        let error = |what| move |source| BackendError { what, source };
        match self.handover.wait(&self.child, &self.stop).map_err(error("waiting for the child process"))? {
            // `run` will report it.
            Turn::Interrupted => return Ok(()),
            Turn::Died => {
                let source = io::Error::other(self.child.end().to_string());
                return Err(BackendError { what: "the child process ended during its set-up", source });
            }
            Turn::Broken(what) => {
                return Err(BackendError { what: "setting up the child process", source: io::Error::other(what) });
            }
            Turn::Tenders => {}
        }
        let header = self.exchange.header();
        let failed = header.failed_step.load(RELAXED);
        let errno = (header.failed_result.load(RELAXED) as i64).wrapping_neg() as i32;
        if failed != 0 {
            return Err(BackendError { what: script.name_at(failed), source: io::Error::from_raw_os_error(errno) });
        }
        let frame = Frame::current(&self.exchange).map_err(|BadFrame| io::ErrorKind::InvalidData.into());
        frame.map_err(error("the child's first hand-over"))?.set_entry_state(entry);
        self.exchange.forget_the_set_up().map_err(error("overwriting the set-up script"))
    }

    /// Runs the guest until the child hands over. Returns an exit if it does not.
    #[inline]
    fn run_child(&mut self) -> Result<Option<Exit>, BackendError> {
        let error = |what| move |source| BackendError { what, source };
        self.handover.resume().map_err(error("waking the child process"))?;
        match self.handover.wait(&self.child, &self.stop).map_err(error("waiting for the child process"))? {
            Turn::Interrupted => return Ok(Some(Exit::Interrupted)),
            Turn::Died => {
                let what = format!("its process ended ({})", self.child.end());
                return Ok(Some(Exit::Fault(Fault { cause: Cause::Killed { what }, registers: None })));
            }
            Turn::Broken(what) => {
                self.child.end();
                let what = format!("its process was killed: {what}");
                return Ok(Some(Exit::Fault(Fault { cause: Cause::Killed { what }, registers: None })));
            }
            Turn::Tenders => {}
        }
        let header = self.exchange.header();
        header.command.store(0, RELAXED);
        self.in_direct = header.is_direct.load(RELAXED) != 0 && !self.direct.is_empty();
        if !self.in_direct {
            self.read_bases();
        }
        Ok(None)
    }

    /// Reads FS and GS base, which the guest may have changed with WRFSBASE and WRGSBASE.
    fn read_bases(&mut self) {
        if !self.by_system_call {
            let header = self.exchange.header();
            self.cpu.fs_base = header.fs_base.load(RELAXED);
            self.cpu.gs_base = header.gs_base.load(RELAXED);
        }
    }

    /// Makes the child hand over by a signal at the `out` of its current direct hypercall, so that
    /// there is a signal frame with all registers. If the child does not, the general registers of
    /// the call stay current.
    fn enter_frame(&mut self) {
        let rip = &self.exchange.header().direct.rip;
        let after = rip.load(RELAXED);
        let out = after.wrapping_sub(1);
        rip.store(out, RELAXED);
        let handed_over = self.handover.resume().and_then(|()| self.handover.settle(&self.child));
        let header = self.exchange.header();
        header.command.store(0, RELAXED);
        if !matches!(handed_over, Ok(true)) || header.is_direct.load(RELAXED) != 0 {
            return;
        }
        if let Ok(frame) = Frame::current(&self.exchange)
            && frame.get(libc::REG_RIP) == out
        {
            frame.set(libc::REG_RIP, after);
            self.in_direct = false;
            self.read_bases();
        }
    }

    /// Returns the hypercall that the child has entered through a trampoline.
    #[inline]
    fn direct_call(&self) -> Exit {
        let call = &self.exchange.header().direct;
        let (port, value) = (call.rdx.load(RELAXED) as u16, call.rax.load(RELAXED) as u32);
        // A guest that jumps to a trampoline or the stub can pass any port.
        let refused = || self.fault(Cause::Port { port, size: 4, write: true }, &direct::registers(&self.exchange));
        Exit::from_port_write(port, 4, value).unwrap_or_else(refused)
    }

    /// Frame with the guest's registers.
    fn frame(&self) -> Result<Frame<'_>, BackendError> {
        let frame = Frame::current(&self.exchange).map_err(|BadFrame| io::ErrorKind::InvalidData.into());
        frame.map_err(|source| BackendError { what: "reading the guest's registers", source })
    }

    /// Handles the signal that made the child hand over. Returns `None` if the guest continues.
    fn handle(&mut self) -> Option<Exit> {
        if self.in_direct {
            return Some(self.direct_call());
        }
        let Ok(frame) = Frame::current(&self.exchange) else {
            let what = "its process reported an invalid signal frame".into();
            return Some(Exit::Fault(Fault { cause: Cause::Killed { what }, registers: None }));
        };
        let signal = frame.signal();
        if signal.number == libc::SIGSEGV && signal.vector == Vector::GeneralProtection as u64 {
            let rip = frame.get(libc::REG_RIP);
            if self.is_out_dx_eax(rip) {
                let (port, value) = (frame.get(libc::REG_RDX) as u16, frame.get(libc::REG_RAX) as u32);
                if let Some(exit) = Exit::from_port_write(port, 4, value) {
                    frame.set(libc::REG_RIP, rip + 1);
                    return Some(exit);
                }
            }
        }
        let mut registers = frame.registers();
        if signal.code > 0 && signal.number == libc::SIGTRAP {
            self.direct.leave_trampoline(&mut registers);
        }
        let space = GuestSpace::new(&self.memory, &self.memory_map);
        let step = react(&signal, &mut self.cpu, &mut registers, &space, &self.memory_map);
        let header = self.exchange.header();
        let how = if self.by_system_call { command::BY_SYSTEM_CALL } else { 0 };
        let exit = match step {
            EmulationResult::Next => None,
            EmulationResult::Exit(exit) => Some(exit),
            EmulationResult::LoadFsBase => {
                header.fs_base.store(self.cpu.fs_base, RELAXED);
                header.command.store(command::SET_FS_BASE | how, RELAXED);
                None
            }
            EmulationResult::LoadGsBase => {
                header.gs_base.store(self.cpu.gs_base, RELAXED);
                header.command.store(command::SET_GS_BASE | how, RELAXED);
                None
            }
            EmulationResult::Raise(exception) => {
                match exception::deliver(exception, &mut self.cpu, &mut registers, &space) {
                    Ok(()) => None,
                    Err(exception::TripleFault) => Some(self.fault(Cause::TripleFault, &registers)),
                }
            }
            EmulationResult::Refuse(cause) => Some(self.fault(cause, &registers)),
        };
        frame.set_registers(&registers);
        exit
    }

    fn fault(&self, cause: Cause, registers: &Registers) -> Exit {
        let registers = Registers { rflags: self.cpu.rflags(registers.rflags), ..*registers };
        Exit::Fault(Fault { cause, registers: Some(Box::new(registers)) })
    }

    /// Returns true if the next instruction is `out dx, eax`, the hypercall instruction.
    fn is_out_dx_eax(&self, rip: u64) -> bool {
        const OUT_DX_EAX: [u8; 1] = [0xef];
        let space = GuestSpace::new(&self.memory, &self.memory_map);
        let Ok(byte) = space.slice(Gpa(rip), 1, Permissions::EXECUTE) else { return false };
        let mut found = [0];
        byte.read(&mut found);
        found == OUT_DX_EAX
    }
}

/// Decides how the guest reacts to a signal.
fn react(
    signal: &Signal,
    cpu: &mut Cpu,
    registers: &mut Registers,
    space: &GuestSpace<'_>,
    memory_map: &MemoryMap,
) -> EmulationResult {
    if signal.number == libc::SIGSYS {
        return system_call(cpu, registers, space);
    }
    if signal.code <= 0 {
        // Sent by another process, not caused by the guest.
        return EmulationResult::Next;
    }
    const PAGE_FAULT: u64 = Vector::PageFault as u64;
    let exception = match signal.vector {
        PAGE_FAULT if signal.number == libc::SIGBUS => {
            let what = format!("the host is out of memory for guest address {:#x}", signal.cr2);
            return EmulationResult::Refuse(Cause::Killed { what });
        }
        PAGE_FAULT if is_write_to_code(signal, memory_map) => {
            return EmulationResult::Refuse(Cause::Memory {
                address: Some(Gpa(signal.cr2)),
                access: Permissions::WRITE,
            });
        }
        PAGE_FAULT => {
            cpu.cr2 = signal.cr2;
            Exception::new(Vector::PageFault, page_fault_error(signal, memory_map))
        }
        0 => Exception::new(Vector::DivideError, 0),
        1 => Exception::new(Vector::Debug, 0),
        3 => Exception::new(Vector::Breakpoint, 0),
        4 => Exception::new(Vector::Overflow, 0),
        5 => Exception::new(Vector::BoundRange, 0),
        6 => return emulate::undefined(registers, space),
        11 => Exception::new(Vector::SegmentNotPresent, signal.error),
        12 => Exception::new(Vector::StackFault, signal.error),
        13 => return emulate::step(cpu, registers, space, signal.error),
        16 => Exception::new(Vector::FloatingPoint, 0),
        17 => {
            // At CPL 0 the CPU does not check alignment (SDM 6.15, vector 17).
            registers.rflags &= !RFLAGS_AC;
            return EmulationResult::Next;
        }
        19 => Exception::new(Vector::SimdFloatingPoint, 0),
        vector => {
            let what = format!("signal {} with exception vector {vector}", signal.number);
            return EmulationResult::Refuse(Cause::Unknown { what });
        }
    };
    EmulationResult::Raise(exception)
}

/// Returns true for a write to code. The guest's page tables permit it, but the mapping underneath
/// does not.
fn is_write_to_code(signal: &Signal, memory_map: &MemoryMap) -> bool {
    const WRITE: u64 = 1 << 1;
    let is_code =
        memory_map.region_at(Gpa(signal.cr2)).is_some_and(|region| region.access.contains(Permissions::EXECUTE));
    is_code && signal.error & WRITE != 0
}

/// Error code of a #PF (SDM figure 4-12) according to the guest's page tables: the guest runs at
/// CPL 0, and every page in its memory map is present.
fn page_fault_error(signal: &Signal, memory_map: &MemoryMap) -> u64 {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    let present = memory_map.region_at(Gpa(signal.cr2)).is_some();
    (signal.error & (WRITE | FETCH)) | if present { PRESENT } else { 0 }
}

/// Handles a system call that the filter denied: `syscall` is #UD while EFER.SCE is clear, and
/// `int 0x80` goes through the IDT.
fn system_call(cpu: &Cpu, registers: &mut Registers, space: &GuestSpace<'_>) -> EmulationResult {
    const INT_80: [u8; 2] = [0xcd, 0x80];
    const LENGTH: u64 = 2;
    let after = registers.rip;
    let at = after.wrapping_sub(LENGTH);
    let mut bytes = [0; LENGTH as usize];
    if let Ok(code) = space.slice(Gpa(at), LENGTH, Permissions::EXECUTE) {
        code.read(&mut bytes);
    }
    registers.rip = at;
    if bytes != INT_80 {
        return Exception::invalid_opcode().into();
    }
    match emulate::beyond_idt(cpu, INT_80[1]) {
        Some(fault) => fault.into(),
        None => {
            registers.rip = after;
            Exception::software(INT_80[1]).into()
        }
    }
}

impl Vcpu for ProcessMachine {
    type Error = BackendError;

    #[inline(never)]
    fn run(&mut self) -> Result<Exit, BackendError> {
        loop {
            if self.stop.requested() {
                return Ok(Exit::Interrupted);
            }
            if let Some(exit) = self.run_child()? {
                return Ok(exit);
            }
            if let Some(exit) = self.handle() {
                return Ok(exit);
            }
        }
    }

    fn serve_again(&mut self) -> Result<bool, BackendError> {
        let error = |source| BackendError { what: "running the guest", source };
        match self.child.has_ended() {
            Ok(true) => Err(error(io::Error::other(format!("its process ended ({})", self.child.end())))),
            Ok(false) => Ok(false),
            Err(source) => Err(error(source)),
        }
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn registers(&self) -> Result<Registers, BackendError> {
        let registers = match self.in_direct {
            true => direct::registers(&self.exchange),
            false => self.frame()?.registers(),
        };
        Ok(Registers { rflags: self.cpu.rflags(registers.rflags), ..registers })
    }
}

impl Machine for ProcessMachine {
    fn debug(&mut self) -> Option<&mut dyn DebugTarget> {
        if self.in_direct {
            self.enter_frame();
        }
        Some(self)
    }

    fn cpu_clock(&self) -> Result<CpuClock, BackendError> {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(self.child.pid() as libc::pid_t));
        let error = |errno: nix::Error| BackendError { what: "asking for the child's CPU clock", source: errno.into() };
        clock.map(CpuClock::from).map_err(error)
    }

    fn memory_usage(&self) -> io::Result<Usage> {
        self.memory.usage()
    }

    /// The hand-over uses futexes, which every thread may use.
    fn system_calls(&self, calls: &mut Calls) {
        self.child.system_calls(calls);
        calls.allow_uses(self.memory.file().map(|file| Descriptor::new(file, Uses::STAT)));
    }
}

#[cfg(test)]
mod tests;
