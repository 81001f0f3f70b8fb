//! Fake kernel for tests: memory in a `Vec`, with tracked frames.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

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

/// First address of the fake's memory. Not 0, so that an uninitialized address is not a valid one.
const BASE: u64 = 0x4000_0000;

/// Contents of memory that has not been zeroed.
const RUBBISH: u64 = 0xdead_beef_dead_beef;

/// Features offered to guests.
pub(crate) const OFFER: Offer = Offer { components: 0x7, cr4: 0x7ff | 1 << 18 };

/// Memory of the size and alignment of a frame.
#[derive(Clone)]
#[repr(align(0x1000))]
struct Frame(#[expect(dead_code, reason = "read through pointers")] [u64; FRAME_SIZE as usize / 8]);

struct Memory {
    frames: *mut Frame,
    /// Length and capacity of the `Vec` behind `frames`.
    len: usize,
    taken: Mutex<Vec<bool>>,
}

// SAFETY: the pointer is to memory that this value owns and accesses only when it is dropped.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Handle of the fake kernel.
#[derive(Clone)]
pub(crate) struct FakeHost(Arc<Memory>);

impl FakeHost {
    /// Creates a kernel with this number of free frames.
    pub(crate) fn new(frames: usize) -> Self {
        let memory = Vec::leak(vec![Frame([RUBBISH; FRAME_SIZE as usize / 8]); frames]);
        let taken = Mutex::new(vec![false; frames]);
        Self(Arc::new(Memory { frames: memory.as_mut_ptr(), len: memory.len(), taken }))
    }

    /// Creates a hypervisor on a machine with SVM and none of its optional features.
    pub(crate) fn svm(&self) -> Hypervisor<Self> {
        hypervisor(self, |_| {}).unwrap()
    }

    fn taken(&self) -> MutexGuard<'_, Vec<bool>> {
        self.0.taken.lock().unwrap()
    }

    /// Returns the number of free frames.
    pub(crate) fn free_frames(&self) -> usize {
        self.taken().iter().filter(|taken| !**taken).count()
    }
}

/// SVM without optional features.
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

/// Returns [`SVM`] after `change`.
pub(crate) fn svm_capabilities(change: impl FnOnce(&mut SvmCapabilities)) -> SvmCapabilities {
    let mut capabilities = SVM;
    change(&mut capabilities);
    capabilities
}

/// Creates a hypervisor on a machine with the capabilities [`SVM`] after `change`.
pub(crate) fn hypervisor<H: Host>(
    host: &H,
    change: impl FnOnce(&mut SvmCapabilities),
) -> Result<Hypervisor<H>, OutOfMemory> {
    let machine = X86_64::new(Box::new(Svm::new(host, svm_capabilities(change))?), OFFER);
    Ok(Hypervisor::assemble(host.clone(), machine))
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: pointer, length and capacity belong to the vector leaked in `new` (`vec![]`
        // allocates exactly).
        drop(unsafe { Vec::from_raw_parts(self.frames, self.len, self.len) });
    }
}

// SAFETY: a block is handed out once until it is freed, and lies in memory that lives as long as
// any handle.
unsafe impl Host for FakeHost {
    fn allocate(&self, order: u32) -> Option<Hpa> {
        let size = 1 << order;
        let mut taken = self.taken();
        let first = (0..taken.len() / size).map(|block| block * size).find(|&i| !taken[i..i + size].contains(&true))?;
        taken[first..first + size].fill(true);
        let base = Hpa(BASE + first as u64 * FRAME_SIZE);
        // SAFETY: the block lies inside the memory, and has no owner yet.
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
