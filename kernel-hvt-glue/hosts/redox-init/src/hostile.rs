//! Attacks on the kernel's hypervisor: invalid and malicious calls. Each call must be rejected with
//! the right error and change nothing.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::{format, string::String, sync::Arc, vec::Vec};

use hvt_abi::{
    Gpa, Permissions,
    kernel::{Exit, ExitRecord, KernelError, MemoryMapping, MemoryRange, Operation, VcpuState, redox, run_page},
    native::EntryState,
};
use hvt_core::kernel::{Calls, Errno, Payload, calls::Page};
use hvt_harness::tally::Tally;
use spin::Mutex;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    fd::Fd,
    guests::Usage,
    hypervisor::{Kernel, MappedPage},
    memory::{Mapping, PAGE_SIZE},
    suite::Runner,
    sys::{self, flags},
    thread::{Context, Kind},
};

/// Objects used by an attempt.
struct Victim {
    root: Fd,
    vm: Fd,
    vcpu: Fd,
    page: MappedPage,
    /// Private, writable memory of [`SIZE`] bytes.
    memory: Mapping,
}

/// Size of guest memory in bytes.
const SIZE: usize = 16 * PAGE_SIZE;
/// Guest address of the first page, which is mapped before an attempt.
const MAPPED: Gpa = Gpa(0x20_0000);
const PAGE: u64 = PAGE_SIZE as u64;
/// Errors of the kernel itself: a payload outside of the caller's memory, and an invalid
/// descriptor.
const EFAULT: Errno = Errno(14);
const EBADF: Errno = Errno(9);

/// Result of an attempt.
type Answer = Result<usize, Errno>;

/// An attempt: name, expected error, and function.
type Attempt = (&'static str, Errno, fn(&Victim) -> Answer);

const fn of(error: KernelError) -> Errno {
    Errno(redox::errno(error))
}

const ATTEMPTS: &[Attempt] = &[
    ("map no page", of(KernelError::BadArgument), |victim| victim.map(|map| map.len = 0)),
    ("map half a page", of(KernelError::BadArgument), |victim| victim.map(|map| map.len = PAGE / 2)),
    ("map memory that begins inside a page", of(KernelError::BadArgument), |victim| victim.map(|map| map.address += 8)),
    ("map inside a page of the guest", of(KernelError::BadArgument), |victim| victim.map(|map| map.gpa.0 += 8)),
    ("map without permissions", of(KernelError::BadArgument), |victim| victim.map(|map| map.permissions = 0)),
    ("map with a permission that does not exist", of(KernelError::BadArgument), |victim| {
        victim.map(|map| map.permissions |= 1 << 31)
    }),
    ("map with a reserved field", of(KernelError::BadArgument), |victim| victim.map(|map| map.reserved = 1)),
    ("map beyond the end of addresses", of(KernelError::BadArgument), |victim| {
        victim.map(|map| {
            map.address = PAGE.wrapping_neg();
            map.len = 2 * PAGE;
        })
    }),
    ("map beyond the end of guest addresses", of(KernelError::BadArgument), |victim| {
        victim.map(|map| {
            map.gpa.0 = PAGE.wrapping_neg();
            map.len = 2 * PAGE;
        })
    }),
    ("map at a guest address out of range", of(KernelError::OutOfRange), |victim| {
        victim.map(|map| map.gpa.0 = 1 << 52)
    }),
    ("map writable and executable", of(KernelError::WriteAndExecute), |victim| {
        victim.map(|map| map.permissions = (Permissions::WRITE | Permissions::EXECUTE).bits())
    }),
    ("map the kernel's memory", of(KernelError::NotOwnMemory), |victim| {
        victim.map(|map| map.address = 0xffff_8000_0010_0000)
    }),
    ("map memory that only the kernel may access", of(KernelError::NotOwnMemory), |victim| {
        victim.map(|map| map.address = 0xffff_ffff_8000_0000)
    }),
    ("map memory at an unmapped address", of(KernelError::NotOwnMemory), |victim| {
        victim.map(|map| map.address = 0x4000_0000_0000)
    }),
    ("map the null page", of(KernelError::NotOwnMemory), |victim| victim.map(|map| map.address = 0)),
    ("map freed memory", of(KernelError::NotOwnMemory), |victim| {
        let address = {
            let freed = Mapping::anonymous(SIZE)?;
            freed.start().as_ptr().addr() as u64
        };
        victim.map(|map| map.address = address)
    }),
    ("map read-only memory", of(KernelError::NotOwnMemory), |victim| {
        let memory = Mapping::anonymous(SIZE)?;
        // SAFETY: no reference to the memory exists.
        unsafe { sys::mprotect(memory.start().as_ptr().addr(), SIZE, flags::PROT_READ) }?;
        victim.map(|map| map.address = memory.start().as_ptr().addr() as u64)
    }),
    ("map shared memory", of(KernelError::NotOwnMemory), |victim| {
        let shared = flags::PROT_READ | flags::PROT_WRITE | flags::MAP_SHARED;
        let memory = Mapping::new(usize::MAX, 0, SIZE, shared)?;
        victim.map(|map| map.address = memory.start().as_ptr().addr() as u64)
    }),
    ("map a run page", of(KernelError::NotOwnMemory), |victim| {
        victim.map(|map| map.address = victim.page.start().as_ptr().addr() as u64)
    }),
    ("map the kernel's data for the first process", of(KernelError::NotOwnMemory), |victim| {
        victim.map(|map| map.address = 0x7fff_ffff_c000)
    }),
    ("map over guest memory", of(KernelError::AlreadyMapped), |victim| victim.map(|map| map.gpa = MAPPED)),
    ("map with a structure that is too short", of(KernelError::BadArgument), |victim| {
        Kernel.call(&victim.vm, Operation::Map as u64, Payload::Read(&[0; 31]))
    }),
    ("map with a structure that is too long", of(KernelError::BadArgument), |victim| {
        Kernel.call(&victim.vm, Operation::Map as u64, Payload::Read(&[0; 4096]))
    }),
    ("map with no structure", of(KernelError::BadArgument), |victim| {
        Kernel.call(&victim.vm, Operation::Map as u64, Payload::None)
    }),
    ("map with a structure in the kernel's memory", EFAULT, |victim| {
        let structure = core::ptr::without_provenance_mut(0xffff_8000_0010_0000);
        // SAFETY: the kernel rejects the address.
        unsafe { sys::call(victim.vm.number(), structure, 32, flags::CALL_WRITE, &[Operation::Map as u64]) }
    }),
    ("map with a structure at an unmapped address", EFAULT, |victim| {
        let structure = core::ptr::without_provenance_mut(0x4000_0000_0000);
        // SAFETY: no memory is mapped there.
        unsafe { sys::call(victim.vm.number(), structure, 32, flags::CALL_WRITE, &[Operation::Map as u64]) }
    }),
    ("read registers to an unmapped address", EFAULT, |victim| {
        victim.set(|_| ())?;
        let structure = core::ptr::without_provenance_mut(0x4000_0000_0000);
        let len = size_of::<VcpuState>();
        // SAFETY: no memory is mapped there.
        unsafe { sys::call(victim.vcpu.number(), structure, len, flags::CALL_READ, &[Operation::GetState as u64]) }
    }),
    ("unmap half a page", of(KernelError::BadArgument), |victim| victim.range(Operation::Unmap, |range| range.len = 8)),
    ("unmap with permissions", of(KernelError::BadArgument), |victim| {
        victim.range(Operation::Unmap, |range| range.permissions = 1)
    }),
    ("protect unmapped memory", of(KernelError::NotMapped), |victim| {
        victim.range(Operation::Protect, |range| {
            range.gpa.0 += PAGE;
            range.permissions = 1;
        })
    }),
    ("protect as writable and executable", of(KernelError::WriteAndExecute), |victim| {
        victim.range(Operation::Protect, |range| range.permissions = 7)
    }),
    ("run a machine", of(KernelError::UnknownOperation), |victim| victim.ask(&victim.vm, Operation::Run)),
    ("run the hypervisor", of(KernelError::UnknownOperation), |victim| victim.ask(&victim.root, Operation::Run)),
    ("destroy a virtual CPU", of(KernelError::UnknownOperation), |victim| victim.ask(&victim.vcpu, Operation::Destroy)),
    ("an operation that does not exist", of(KernelError::UnknownOperation), |victim| {
        Kernel.call(&victim.vm, u64::MAX, Payload::None)
    }),
    ("a second word that is not 0", of(KernelError::BadArgument), |victim| {
        let words = [Operation::Pause as u64, 1];
        // SAFETY: there is no payload.
        unsafe { sys::call(victim.vm.number(), core::ptr::null_mut(), 0, 0, &words) }
    }),
    ("run without registers", of(KernelError::NoState), |victim| victim.ask(&victim.vcpu, Operation::Run)),
    ("read registers before they are set", of(KernelError::NoState), |victim| victim.registers().map(|_| 0)),
    ("registers with a reserved field", of(KernelError::BadArgument), |victim| {
        victim.set(|state| state.reserved[0] = 1)
    }),
    ("a table limit that no register holds", of(KernelError::BadArgument), |victim| {
        victim.set(|state| state.idtr.limit = 0x1_0000)
    }),
    ("run a paused machine", of(KernelError::Paused), |victim| {
        victim.set(|_| ())?;
        victim.ask(&victim.vm, Operation::Pause)?;
        victim.ask(&victim.vcpu, Operation::Run)
    }),
    ("map into a destroyed machine", of(KernelError::Destroyed), |victim| {
        victim.ask(&victim.vm, Operation::Destroy)?;
        victim.map(|_| ())
    }),
    ("run a destroyed machine", of(KernelError::Destroyed), |victim| {
        victim.set(|_| ())?;
        victim.ask(&victim.vm, Operation::Destroy)?;
        victim.ask(&victim.vcpu, Operation::Run)
    }),
    ("a virtual CPU of a destroyed machine", of(KernelError::Destroyed), |victim| {
        victim.ask(&victim.vm, Operation::Destroy)?;
        Kernel.dup(&victim.vm, redox::VCPU).map(|_| 0)
    }),
    ("machines beyond the limit", of(KernelError::LimitReached), |victim| victim.exhaust(&victim.root, redox::VM)),
    ("virtual CPUs beyond the limit", of(KernelError::LimitReached), |victim| victim.exhaust(&victim.vm, redox::VCPU)),
    ("operations on an invalid descriptor", EBADF, |_| {
        // SAFETY: there is no payload.
        unsafe { sys::call(4095, core::ptr::null_mut(), 0, 0, &[Operation::Run as u64]) }
    }),
];

impl Victim {
    fn new() -> Result<Self, Errno> {
        let root = Kernel.open()?;
        let vm = Kernel.dup(&root, redox::VM)?;
        let vcpu = Kernel.dup(&vm, redox::VCPU)?;
        let page = Kernel.map_page(&vcpu)?;
        let memory = Mapping::anonymous(SIZE)?;
        let victim = Self { root, vm, vcpu, page, memory };
        victim.map(|map| {
            map.gpa = MAPPED;
            map.len = PAGE;
        })?;
        Ok(victim)
    }

    /// Maps the victim's memory at guest address 0, after `change`.
    fn map(&self, change: impl FnOnce(&mut MemoryMapping)) -> Answer {
        let mut map = MemoryMapping {
            gpa: Gpa(0),
            address: self.memory.start().as_ptr().expose_provenance() as u64,
            len: SIZE as u64,
            permissions: (Permissions::READ | Permissions::WRITE).bits(),
            reserved: 0,
        };
        change(&mut map);
        Kernel.call(&self.vm, Operation::Map as u64, Payload::Read(map.as_bytes()))
    }

    /// Requests an operation on the only mapped page, after `change`.
    fn range(&self, operation: Operation, change: impl FnOnce(&mut MemoryRange)) -> Answer {
        let mut range = MemoryRange { gpa: MAPPED, len: PAGE, permissions: 0, reserved: 0 };
        change(&mut range);
        Kernel.call(&self.vm, operation as u64, Payload::Read(range.as_bytes()))
    }

    /// Sets the registers of the virtual CPU to the entry state of a guest, after `change`.
    fn set(&self, change: impl FnOnce(&mut VcpuState)) -> Answer {
        let mut state = VcpuState::from(&EntryState::new(0x20_0000, MAPPED));
        change(&mut state);
        Kernel.call(&self.vcpu, Operation::SetState as u64, Payload::Read(state.as_bytes()))
    }

    fn registers(&self) -> Result<VcpuState, Errno> {
        let mut bytes = [0; size_of::<VcpuState>()];
        Kernel.call(&self.vcpu, Operation::GetState as u64, Payload::Write(&mut bytes))?;
        VcpuState::read_from_bytes(&bytes).map_err(|_| of(KernelError::BadArgument))
    }

    fn ask(&self, object: &Fd, operation: Operation) -> Answer {
        Kernel.call(object, operation as u64, Payload::None)
    }

    /// Creates objects until the kernel returns an error.
    fn exhaust(&self, of: &Fd, name: &str) -> Answer {
        /// More than the number of descriptor numbers.
        const MANY: usize = 200;
        let mut made = Vec::new();
        for _ in 0..MANY {
            made.push(Kernel.dup(of, name)?);
        }
        Ok(made.len())
    }

    /// Runs the virtual CPU and returns the exit.
    fn run(&self) -> Result<Exit, Errno> {
        self.ask(&self.vcpu, Operation::Run)?;
        // SAFETY: the page is mapped, and any bytes are a valid value of the type.
        let record: ExitRecord = unsafe { (&raw const (*self.page.start().as_ptr()).exit).read_volatile() };
        record.exit().ok_or(of(KernelError::BadArgument))
    }
}

/// Runs every attempt.
pub(crate) fn run(runner: &mut Runner, tally: &mut Tally) {
    for (name, expected, attempt) in ATTEMPTS {
        tally.add_result("attempt", name, refused(runner, *expected, *attempt));
    }
    tally.add_result("attempt", "the hypervisor of another user", another_user());
    tally.add_result("attempt", "invalid mappings of a run page", run_pages());
    tally.add_result("attempt", "registers that no CPU accepts", registers());
    tally.add_result("attempt", "more memory than a user may pin", too_much(runner));
}

/// Runs one attempt and checks that nothing has changed afterwards.
fn refused(runner: &Runner, expected: Errno, attempt: fn(&Victim) -> Answer) -> Result<(), String> {
    // The kernel's heap may grow once, in the first round.
    let once = || -> Result<Answer, Errno> { Ok(attempt(&Victim::new()?)) };
    let _ = once();
    let before = Usage::now(runner)?;
    let answer = once().map_err(|errno| format!("no machine to try it on: {errno}"))?;
    if answer != Err(expected) {
        return Err(format!("{answer:?}, expected {expected}"));
    }
    let after = Usage::now(runner)?;
    if after == before { Ok(()) } else { Err(format!("{before:?}, then {after:?}")) }
}

/// A process of another user than the superuser cannot open the hypervisor.
fn another_user() -> Result<(), String> {
    let answer: Arc<Mutex<Option<Result<(), Errno>>>> = Arc::default();
    let work = {
        let answer = answer.clone();
        move || *answer.lock() = Some(Kernel.open().map(drop))
    };
    let thread = Context::spawn(Kind::Thread, 1000, work).map_err(|errno| format!("no thread: {errno}"))?;
    thread.join().map_err(|errno| format!("cannot wait for the thread: {errno}"))?;
    let answer = answer.lock().take();
    let expected = Some(Err(of(KernelError::NotPermitted)));
    if answer == expected { Ok(()) } else { Err(format!("{answer:?}, expected {expected:?}")) }
}

/// A run page is the first page of a virtual CPU, and must be mapped whole and shared. VMs have
/// none.
fn run_pages() -> Result<(), String> {
    let victim = Victim::new().map_err(|errno| format!("{errno}"))?;
    let all = flags::PROT_READ | flags::PROT_WRITE | flags::MAP_SHARED;
    let private = flags::PROT_READ | flags::PROT_WRITE | flags::MAP_PRIVATE;
    /// Executable memory.
    const PROT_EXEC: usize = 1 << 16;
    let vcpu = victim.vcpu.number();
    for (fd, offset, size, flags) in [
        (vcpu, PAGE_SIZE, run_page::SIZE, all),
        (vcpu, 0, 2 * run_page::SIZE, all),
        (vcpu, 0, run_page::SIZE, private),
        (vcpu, 0, run_page::SIZE, all | PROT_EXEC),
        (victim.vm.number(), 0, run_page::SIZE, all),
        (victim.root.number(), 0, run_page::SIZE, all),
    ] {
        if let Ok(mapping) = Mapping::new(fd, offset, size, flags) {
            return Err(format!("offset {offset:#x}, size {size:#x}, flags {flags:#x}: {mapping:?}"));
        }
    }
    Ok(())
}

/// Registers that violate the architecture's rules end the guest and have no other effect.
fn registers() -> Result<(), String> {
    type Change = fn(&mut VcpuState);
    let changes: [(&str, Change); 6] = [
        ("CR0", |state| state.cr0 = u64::MAX),
        ("CR4", |state| state.cr4 = u64::MAX),
        ("EFER", |state| state.efer = u64::MAX),
        ("CR3", |state| state.cr3 = u64::MAX),
        ("RFLAGS", |state| state.general.rflags = u64::MAX),
        ("PAT", |state| state.pat = u64::MAX),
    ];
    for (name, change) in changes {
        let once = || -> Result<Exit, Errno> {
            let victim = Victim::new()?;
            victim.set(change)?;
            victim.run()
        };
        match once() {
            Ok(Exit::EntryFailure(_)) => {}
            // A value of RFLAGS with reserved bits set may be accepted without these bits.
            other => return Err(format!("{name}: {other:?}")),
        }
    }
    Ok(())
}

/// No user can pin more memory than the limit.
fn too_much(runner: &Runner) -> Result<(), String> {
    let limit = runner.capabilities.pinned_limit;
    let step = usize::try_from(runner.capabilities.map_step.max(PAGE)).map_err(|error| format!("{error}"))?;
    let once = || -> Result<u64, Errno> {
        let victim = Victim::new()?;
        let memory = Mapping::anonymous(step)?;
        let address = memory.start().as_ptr().expose_provenance() as u64;
        // The same memory repeatedly: it counts every time.
        let mut gpa = 0x1_0000_0000;
        while gpa < 0x1_0000_0000 + 2 * limit {
            let map = |map: &mut MemoryMapping| {
                (map.gpa, map.address, map.len) = (Gpa(gpa), address, step as u64);
            };
            match victim.map(map) {
                Ok(mapped) => gpa += mapped as u64,
                Err(errno) if errno == of(KernelError::LimitReached) => return Ok(gpa - 0x1_0000_0000),
                Err(errno) => return Err(errno),
            }
        }
        Ok(u64::MAX)
    };
    match once() {
        Ok(pinned) if pinned <= limit => Ok(()),
        Ok(pinned) => Err(format!("{pinned:#x} bytes were pinned, but the limit is {limit:#x}")),
        Err(errno) => Err(format!("{errno}")),
    }
}
