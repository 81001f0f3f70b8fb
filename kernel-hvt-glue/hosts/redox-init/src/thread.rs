//! Contexts of the kernel: threads of this process, and other processes.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::{boxed::Box, format};
use core::{
    arch::naked_asm,
    sync::atomic::{
        AtomicBool,
        Ordering::{Acquire, Release},
    },
};

use crate::{
    fd::{Fd, Scheme, root},
    memory::Mapping,
    sys::{self, Result},
};

/// Size of a stack in bytes.
const STACK_SIZE: usize = 256 * 1024;

/// `ContextVerb::ForceKill`.
const FORCE_KILL: usize = usize::MAX;

/// Resources that a context shares with this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Memory and descriptors.
    Thread,
    /// None: the new context starts with copies of memory and descriptors.
    Process,
}

/// Context, which must be joined or killed.
pub(crate) struct Context {
    context: Fd,
    done: Box<AtomicBool>,
    _stack: Mapping,
}

/// Parameters of a new context.
struct Start {
    work: Box<dyn FnOnce() + Send>,
    /// Set when the work is done. The context's creator owns the flag, and keeps it until the
    /// context has ended.
    done: *const AtomicBool,
}

impl Context {
    /// Starts a context of user `uid` that executes `work` and ends.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub(crate) fn spawn(kind: Kind, uid: u32, work: impl FnOnce() + Send + 'static) -> Result<Self> {
        let context = Fd::of_root(Scheme::Proc, "new-context")?;
        let current = Fd::of_root(Scheme::Proc, "cur-context")?;
        set_user(&context, uid)?;
        let stack = Mapping::anonymous(STACK_SIZE)?;
        let done = Box::new(AtomicBool::new(false));
        let start = Box::new(Start { work: Box::new(work), done: &raw const *done });
        let start = Box::into_raw(start);
        // The new context reads the address of its work from the top of its stack.
        let top = stack.start().as_ptr().wrapping_add(STACK_SIZE - 16);
        // SAFETY: the address is inside the stack, and aligned.
        unsafe { top.cast::<usize>().write(start.expose_provenance()) };
        // The memory is copied now, including the work.
        let memory = current.dup("addrspace")?;
        let files = current.dup("filetable")?;
        let (memory, files) = match kind {
            Kind::Thread => (memory, files),
            Kind::Process => (memory.dup("exclusive")?, files.dup("copy")?),
        };
        let entry = begin as *const () as usize;
        // SAFETY: the new context starts at `begin`, on its own stack with its work on top.
        unsafe {
            context.dup("current-addrspace")?.write_words(&[memory.number(), top.addr(), entry])?;
            context.dup("current-filetable")?.write_words(&[files.number()])?;
            sys::write(context.dup("start")?.number(), b"1")?;
        }
        if kind == Kind::Process {
            // SAFETY: the process has its own copy.
            drop(unsafe { Box::from_raw(start) });
        }
        Ok(Self { context, done, _stack: stack })
    }

    /// Waits until a thread has done its work, and ends the thread.
    pub(crate) fn join(self) -> Result<()> {
        while !self.done.load(Acquire) {
            sys::yield_now();
        }
        self.kill()
    }

    /// Kills the context, and waits until it has ended.
    ///
    /// No context ends itself: the kernel (663e66410) would leak its stack.
    pub(crate) fn kill(self) -> Result<()> {
        /// Number of yields before the kill is repeated.
        const PATIENCE: u32 = 256;
        let control = privileged(&self.context, "status")?;
        // A context reports being killed both before and after its end. Only after its end has it
        // no memory.
        for round in 0_u32.. {
            // Repeated, because the kernel (663e66410) may fail to wake a context that is about to
            // leave another CPU.
            if round.is_multiple_of(PATIENCE) {
                // SAFETY: the context has done its work, or is a separate process: no other code
                // waits for its resources.
                unsafe { sys::write(control.number(), &FORCE_KILL.to_ne_bytes()) }?;
            }
            if self.context.dup("addrspace").is_err() {
                break;
            }
            sys::yield_now();
        }
        Ok(())
    }
}

/// Opens a view of a context that requires the root descriptor of all contexts.
fn privileged(context: &Fd, what: &str) -> Result<Fd> {
    context.dup(&format!("auth-{}-{what}", root(Scheme::Proc)?))
}

/// Sets the user of a context that has not started.
fn set_user(context: &Fd, uid: u32) -> Result<()> {
    /// `ProcSchemeAttrs`: four numbers of 32 bits, process, user, group and priority, and a name of 32 bytes.
    const PRIORITY: u32 = 20;
    let mut attributes = [0; 48];
    for (to, number) in attributes.chunks_exact_mut(4).zip([0, uid, uid, PRIORITY]) {
        to.copy_from_slice(&number.to_ne_bytes());
    }
    attributes[16..20].copy_from_slice(b"init");
    let control = privileged(context, "attrs")?;
    // SAFETY: the write changes the owner of the context.
    unsafe { sys::write(control.number(), &attributes) }.map(drop)
}

/// First instructions of a context.
#[unsafe(naked)]
unsafe extern "C" fn begin() {
    naked_asm!("mov rdi, [rsp]", "and rsp, -16", "xor ebp, ebp", "call {run}", "ud2", run = sym run)
}

/// Executes the work of a context, and waits to be ended.
extern "C" fn run(start: *mut Start) -> ! {
    // SAFETY: `spawn` created the pointer from a box, for this context alone.
    let Start { work, done } = *unsafe { Box::from_raw(start) };
    work();
    // SAFETY: the flag outlives the context.
    unsafe { (*done).store(true, Release) };
    loop {
        sys::sleep(u64::MAX / 2);
    }
}
