//! Contexts of the kernel's: threads of this process, and processes of their own.

use alloc::{boxed::Box, format};
use core::arch::naked_asm;

use crate::{
    fd::{Fd, Scheme, root},
    memory::Mapping,
    sys::{self, Result},
};

/// Bytes of a stack.
const STACK_SIZE: usize = 256 * 1024;

/// `ContextStatus::Dead`.
const DEAD: usize = 3;
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
    _stack: Mapping,
}

/// What a new context does.
type Work = Box<dyn FnOnce() + Send>;

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
        let start: Box<(usize, Work)> = Box::new((context.number(), Box::new(work)));
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
        Ok(Self { context, _stack: stack })
    }

    /// Waits until it has ended by itself.
    pub(crate) fn join(self) -> Result<()> {
        let status = self.context.dup("status")?;
        let mut word = [0; size_of::<usize>()];
        loop {
            status.read(&mut word)?;
            if usize::from_ne_bytes(word) == DEAD {
                return Ok(());
            }
            sys::yield_now();
        }
    }

    /// Ends it wherever it is.
    pub(crate) fn kill(self) -> Result<()> {
        let control = privileged(&self.context, "status")?;
        // SAFETY: it is a process of its own, or holds nothing that others wait for.
        unsafe { sys::write(control.number(), &FORCE_KILL.to_ne_bytes()) }?;
        let mut word = [0; size_of::<usize>()];
        let runnable = 0;
        // A context that is being killed says so until it is gone, and then has no address space to be read.
        while control.read(&mut word).is_ok() && usize::from_ne_bytes(word) == runnable {
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

/// Does the work of a context, and ends it.
extern "C" fn run(start: *mut (usize, Work)) -> ! {
    // SAFETY: `spawn` made it of a box, for this context alone.
    let (context, work) = *unsafe { Box::from_raw(start) };
    work();
    // SAFETY: nothing of this context is in use any more but its stack, which whoever joins unmaps.
    let _ = unsafe { sys::write(context, &FORCE_KILL.to_ne_bytes()) };
    loop {
        // The context has ended by now.
        sys::yield_now();
    }
}
