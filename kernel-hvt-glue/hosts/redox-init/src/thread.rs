//! Contexts of the kernel's: threads of this process, and processes of their own.

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

/// Bytes of a stack.
const STACK_SIZE: usize = 256 * 1024;

/// `ContextVerb::ForceKill`.
const FORCE_KILL: usize = usize::MAX;

/// What a context shares with this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Memory and descriptors.
    Thread,
    /// Nothing: it begins with a copy of both.
    Process,
}

/// A context. It must be joined or killed.
pub(crate) struct Context {
    context: Fd,
    done: Box<AtomicBool>,
    _stack: Mapping,
}

/// What a new context does.
struct Start {
    work: Box<dyn FnOnce() + Send>,
    /// Set when that is done. Whoever started the context has it, and keeps it for longer than the context is.
    done: *const AtomicBool,
}

impl Context {
    /// Starts a context that does `work`, as user `uid`, and ends.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn spawn(kind: Kind, uid: u32, work: impl FnOnce() + Send + 'static) -> Result<Self> {
        let context = Fd::of_root(Scheme::Proc, "new-context")?;
        let current = Fd::of_root(Scheme::Proc, "cur-context")?;
        set_user(&context, uid)?;
        let stack = Mapping::anonymous(STACK_SIZE)?;
        let done = Box::new(AtomicBool::new(false));
        let start = Box::new(Start { work: Box::new(work), done: &raw const *done });
        let start = Box::into_raw(start);
        // The new context finds the address of its work on top of its stack.
        let top = stack.start().as_ptr().wrapping_add(STACK_SIZE - 16);
        // SAFETY: inside the stack, and aligned.
        unsafe { top.cast::<usize>().write(start.expose_provenance()) };
        // The memory is copied now, with the work in it.
        let memory = current.dup("addrspace")?;
        let files = current.dup("filetable")?;
        let (memory, files) = match kind {
            Kind::Thread => (memory, files),
            Kind::Process => (memory.dup("exclusive")?, files.dup("copy")?),
        };
        let entry = begin as *const () as usize;
        // SAFETY: the new context begins at `begin`, on a stack of its own with its work on top.
        unsafe {
            context.dup("current-addrspace")?.write_words(&[memory.number(), top.addr(), entry])?;
            context.dup("current-filetable")?.write_words(&[files.number()])?;
            sys::write(context.dup("start")?.number(), b"1")?;
        }
        if kind == Kind::Process {
            // SAFETY: the process has a copy of its own.
            drop(unsafe { Box::from_raw(start) });
        }
        Ok(Self { context, done, _stack: stack })
    }

    /// Waits until a thread has done its work, and ends it.
    pub(crate) fn join(self) -> Result<()> {
        while !self.done.load(Acquire) {
            sys::yield_now();
        }
        self.kill()
    }

    /// Ends it wherever it is, and waits until it is gone.
    ///
    /// No context ends itself: on that way the kernel (663e66410) keeps its stack.
    pub(crate) fn kill(self) -> Result<()> {
        /// How often others get the CPU before it is told again.
        const PATIENCE: u32 = 256;
        let control = privileged(&self.context, "status")?;
        // A context that is being killed says so before and after. Only the latter has no memory any more.
        for round in 0_u32.. {
            // Again and again, for the kernel (663e66410) forgets to wake one that is just about to leave another CPU.
            if round.is_multiple_of(PATIENCE) {
                // SAFETY: it has done its work, or is a process of its own: nobody waits for what it holds.
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

/// A view of a context that only the holder of the root of all contexts gets.
fn privileged(context: &Fd, what: &str) -> Result<Fd> {
    context.dup(&format!("auth-{}-{what}", root(Scheme::Proc)?))
}

/// Makes a context that has not started one of this user.
fn set_user(context: &Fd, uid: u32) -> Result<()> {
    /// `ProcSchemeAttrs`: four numbers of 32 bits, process, user, group and priority, and a name of 32 bytes.
    const PRIORITY: u32 = 20;
    let mut attributes = [0; 48];
    for (to, number) in attributes.chunks_exact_mut(4).zip([0, uid, uid, PRIORITY]) {
        to.copy_from_slice(&number.to_ne_bytes());
    }
    attributes[16..20].copy_from_slice(b"init");
    let control = privileged(context, "attrs")?;
    // SAFETY: it changes whose context it is.
    unsafe { sys::write(control.number(), &attributes) }.map(drop)
}

/// First instructions of a context.
#[unsafe(naked)]
unsafe extern "C" fn begin() {
    naked_asm!("mov rdi, [rsp]", "and rsp, -16", "xor ebp, ebp", "call {run}", "ud2", run = sym run)
}

/// Does the work of a context, and waits for its end.
extern "C" fn run(start: *mut Start) -> ! {
    // SAFETY: `spawn` made it of a box, for this context alone.
    let Start { work, done } = *unsafe { Box::from_raw(start) };
    work();
    // SAFETY: it outlives the context.
    unsafe { (*done).store(true, Release) };
    loop {
        sys::sleep(u64::MAX / 2);
    }
}
