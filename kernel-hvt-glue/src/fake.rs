//! A kernel for tests: memory in a `Vec`, frames counted.

use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};
use std::sync::{Mutex, MutexGuard};

use crate::{
    host::{FRAME_SIZE, Host, Hpa, OutOfMemory},
    hypervisor::Hypervisor,
    paging::Level,
    x86_64::{
        emulate::Offer,
        machine::X86_64,
        mitigations::Mitigations,
        svm::{capabilities::SvmCapabilities, vendor::Svm},
    },
};

/// Where the fake's memory begins; not 0, so that an address that was never set does not pass for one that was.
const BASE: u64 = 0x4000_0000;

/// What stands in memory that nobody has zeroed.
const RUBBISH: u64 = 0xdead_beef_dead_beef;

/// What guests are offered.
pub(crate) const OFFER: Offer = Offer { components: 0x7, cr4: 0x7ff | 1 << 18 };

/// A frame's worth of memory, aligned like one.
#[derive(Clone)]
#[repr(align(0x1000))]
struct Frame(#[expect(dead_code, reason = "read through pointers")] [u64; FRAME_SIZE as usize / 8]);

struct Memory {
    frames: *mut Frame,
    /// Length and capacity of the `Vec` behind `frames`.
    len: usize,
    taken: Mutex<Vec<bool>>,
}

// SAFETY: the pointer is to memory that this value owns and reads only when it is dropped.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// A handle to the fake kernel.
#[derive(Clone)]
pub(crate) struct FakeHost(Arc<Memory>);

impl FakeHost {
    /// A kernel with so many free frames.
    pub(crate) fn new(frames: usize) -> Self {
        let memory = Vec::leak(vec![Frame([RUBBISH; FRAME_SIZE as usize / 8]); frames]);
        let taken = Mutex::new(vec![false; frames]);
        Self(Arc::new(Memory { frames: memory.as_mut_ptr(), len: memory.len(), taken }))
    }

    /// A hypervisor on a machine with SVM and no optional part of it.
    pub(crate) fn svm(&self) -> Hypervisor<Self> {
        hypervisor(self, |_| {}).unwrap()
    }

    fn taken(&self) -> MutexGuard<'_, Vec<bool>> {
        self.0.taken.lock().unwrap()
    }

    /// How many frames are free.
    pub(crate) fn free_frames(&self) -> usize {
        self.taken().iter().filter(|taken| !**taken).count()
    }
}

/// SVM without any optional part of it.
const SVM: SvmCapabilities = SvmCapabilities {
    asids: 16,
    nrip_save: false,
    decode_assists: false,
    clean_bits: false,
    huge_pages: true,
    root_level: Level::ROOT4,
    physical_address_bits: 40,
    mitigations: Mitigations::NONE,
};

/// [`SVM`], but for a change.
pub(crate) fn svm_capabilities(change: impl FnOnce(&mut SvmCapabilities)) -> SvmCapabilities {
    let mut capabilities = SVM;
    change(&mut capabilities);
    capabilities
}

/// A hypervisor on a machine with SVM and no optional part of it, but for a change.
pub(crate) fn hypervisor<H: Host>(
    host: &H,
    change: impl FnOnce(&mut SvmCapabilities),
) -> Result<Hypervisor<H>, OutOfMemory> {
    let machine = X86_64::new(Box::new(Svm::new(host, svm_capabilities(change))?), OFFER);
    Ok(Hypervisor::assemble(host.clone(), machine))
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: pointer, length and capacity are those of the vector leaked in `new` (`vec![]` allocates exactly).
        drop(unsafe { Vec::from_raw_parts(self.frames, self.len, self.len) });
    }
}

// SAFETY: blocks are handed out once until freed, and lie in memory that lives as long as any handle.
unsafe impl Host for FakeHost {
    fn allocate(&self, order: u32) -> Option<Hpa> {
        let size = 1 << order;
        let mut taken = self.taken();
        let first = (0..taken.len() / size).map(|block| block * size).find(|&i| !taken[i..i + size].contains(&true))?;
        taken[first..first + size].fill(true);
        let base = Hpa(BASE + first as u64 * FRAME_SIZE);
        // SAFETY: the block lies inside the memory and belongs to nobody.
        unsafe { self.phys_to_virt(base).write_bytes(0, size * FRAME_SIZE as usize) };
        Some(base)
    }

    unsafe fn free(&self, base: Hpa, order: u32) {
        let first = ((base.0 - BASE) / FRAME_SIZE) as usize;
        let mut taken = self.taken();
        for frame in &mut taken[first..first + (1 << order)] {
            assert!(*frame, "a frame was freed twice");
            *frame = false;
        }
    }

    fn phys_to_virt(&self, hpa: Hpa) -> *mut u8 {
        let offset = (hpa.0 - BASE) as usize;
        assert!(offset < self.0.len * FRAME_SIZE as usize, "{hpa} is not memory");
        self.0.frames.wrapping_byte_add(offset).cast()
    }

    fn cpu_index(&self) -> u32 {
        0
    }

    fn wants_cpu(&self) -> bool {
        true
    }
}
