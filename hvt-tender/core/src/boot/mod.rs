//! Image and configuration become the contents of guest memory and the state of the virtual CPU at entry.
//!
//! [`BootPlan::new`] decides everything without touching memory, so that what cannot be booted is found before memory is
//! had; [`BootPlan::load`] writes it. Below 1 MiB the guest's memory is the tender's:
//!
//! | guest address | what | for the guest |
//! |---|---|---|
//! | 0 | nothing | not mapped |
//! | 0x1000 | descriptor table (x86_64) and page tables | not mapped |
//! | 0x10000 | boot info, manifest, command line | read-only |
//! | below 0x100000 | page tables for which there is no room below 0x10000, downward | not mapped |
//! | 0xff000 | exception vectors (aarch64): by these the tender learns that a guest has none of its own | read-only, executed |
//!
//! From 0x100000 on the segments have the permissions that their file gives them, and the rest is for reading and
//! writing, never for execution. On aarch64 1 GiB of device memory follows at 4 GiB: hypercalls are stores there.

#[cfg(any(test, target_arch = "aarch64"))]
mod aarch64;
mod cmdline;
mod error;
mod memory_map;
mod paging;
#[cfg(any(test, target_arch = "x86_64"))]
mod x86_64;

#[cfg(test)]
mod tests;

use hvt_abi::boot_info::Features;
use hvt_abi::native::EntryState;
use hvt_abi::{BOOT_INFO_BASE, BootInfo, Gpa, MEM_GRANULE, MEM_MAX, PAGE_SIZE};
use zerocopy::IntoBytes;

use crate::image::Image;
use crate::memory::{GuestMemory, MemoryMap, OutOfMemory};

pub use cmdline::{CommandLine, CommandLineError};
pub use error::BootError;

#[cfg(target_arch = "aarch64")]
use aarch64::Paging as Native;
use paging::{Format, Tables};
#[cfg(target_arch = "x86_64")]
use x86_64::Paging as Native;

/// Least room in bytes between the end of the last segment and the end of memory: the first page of the stack.
pub const STACK_MIN: u64 = PAGE_SIZE;

/// What a guest is booted with, besides its image.
#[derive(Clone, Copy, Debug)]
pub struct BootConfig<'a> {
    /// Size of guest memory in bytes: a multiple of 2 MiB, 4 GiB at most.
    pub mem_size: u64,
    /// What the guest finds as its command line.
    pub cmdline: &'a CommandLine,
    /// The guest's copy of its manifest, devices filled in, as [`attach`](crate::device::attach::attach) makes it.
    pub manifest: &'a [u8],
    /// Frequency of the CPU's cycle counter in Hz.
    pub cpu_cycle_freq: u64,
    /// Where the network [ring](hvt_abi::ring) lies, if one is offered: page aligned, at `mem_size` or above.
    pub net_ring: Option<Gpa>,
}

/// A guest that has been loaded: what a backend must know to run it.
#[derive(Clone, Debug)]
pub struct Booted {
    /// What the guest may do with which part of its memory. Its page tables say the same as far as they can.
    pub memory_map: MemoryMap,
    /// State of the virtual CPU at entry.
    pub entry: EntryState,
}

/// Everything that will be written to guest memory, decided.
#[derive(Debug)]
pub struct BootPlan<'a> {
    image: &'a Image<'a>,
    config: BootConfig<'a>,
    area: InfoArea,
    memory_map: MemoryMap,
    tables: Tables,
}

impl<'a> BootPlan<'a> {
    /// Decides how `image` is booted.
    ///
    /// # Errors
    /// [`BootError`], when image and configuration do not go together; it says what to change.
    pub fn new(image: &'a Image<'a>, config: BootConfig<'a>) -> Result<Self, BootError> {
        Self::with_tables::<Native>(image, config)
    }

    fn with_tables<F: Format>(image: &'a Image<'a>, config: BootConfig<'a>) -> Result<Self, BootError> {
        check_memory(image, config.mem_size)?;
        let area = InfoArea::new(&config, F::LOW_END)?;
        let regions = memory_map::above_1_mib(image, &config)?;
        let (memory_map, tables) = Tables::map::<F>(regions, area.end)?;
        Ok(Self { image, config, area, memory_map, tables })
    }

    /// What the guest may do with which part of its memory.
    #[must_use]
    pub fn memory_map(&self) -> &MemoryMap {
        &self.memory_map
    }

    /// Writes to `memory` what a guest finds there at entry. The memory must be zero.
    ///
    /// # Errors
    /// [`BootError::Memory`], when `memory` is smaller than configured.
    pub fn load(self, memory: &dyn GuestMemory) -> Result<Booted, BootError> {
        let (len, size) = (self.config.mem_size, memory.size());
        if size < len {
            return Err(BootError::Memory(OutOfMemory { at: Gpa(0), len, size }));
        }
        for segment in self.image.segments() {
            memory.write(segment.at, segment.bytes)?;
        }
        let Self { image, config, area, .. } = &self;
        memory.write(BOOT_INFO_BASE, area.info(image, config).as_bytes())?;
        memory.write(area.manifest, config.manifest)?;
        // Its NUL is there already.
        memory.write(area.cmdline, config.cmdline.as_bytes())?;
        self.tables.write(memory)?;
        Ok(Booted { entry: EntryState::new(config.mem_size, image.entry()), memory_map: self.memory_map })
    }
}

/// Boots `image` in `memory`: [`BootPlan::new`] and [`BootPlan::load`] at once.
///
/// # Errors
/// [`BootError`], when image, configuration and memory do not go together; it says what to change.
pub fn load(image: &Image<'_>, config: BootConfig<'_>, memory: &dyn GuestMemory) -> Result<Booted, BootError> {
    BootPlan::new(image, config)?.load(memory)
}

fn check_memory(image: &Image<'_>, mem_size: u64) -> Result<(), BootError> {
    if mem_size == 0 || mem_size > MEM_MAX || !mem_size.is_multiple_of(MEM_GRANULE) {
        return Err(BootError::MemSize(mem_size));
    }
    let needed = image.end().0.saturating_add(STACK_MIN);
    if needed > MEM_MAX {
        return Err(BootError::NoStack { end: image.end() });
    }
    if needed > mem_size {
        return Err(BootError::TooSmall { needed: needed.next_multiple_of(MEM_GRANULE), mem_size });
    }
    Ok(())
}

/// Where the things lie that the guest is told.
#[derive(Clone, Copy, Debug)]
struct InfoArea {
    manifest: Gpa,
    cmdline: Gpa,
    /// First address after them, page aligned.
    end: Gpa,
}

impl InfoArea {
    /// Below `limit`.
    fn new(config: &BootConfig<'_>, limit: Gpa) -> Result<Self, BootError> {
        let error = BootError::Manifest { len: config.manifest.len() };
        let behind = |start: Gpa, len: usize, alignment| start.checked_add(len as u64)?.checked_align_up(alignment);
        let place = || {
            let manifest = behind(BOOT_INFO_BASE, size_of::<BootInfo>(), 8)?;
            let cmdline = behind(manifest, config.manifest.len(), 8)?;
            let end = behind(cmdline, config.cmdline.as_bytes().len() + 1, PAGE_SIZE)?;
            (end <= limit).then_some(Self { manifest, cmdline, end })
        };
        place().ok_or(error)
    }

    fn info(&self, image: &Image<'_>, config: &BootConfig<'_>) -> BootInfo {
        let features = if config.net_ring.is_some() { Features::RING_IO } else { Features::empty() };
        BootInfo {
            mem_size: config.mem_size,
            kernel_end: image.end(),
            cpu_cycle_freq: config.cpu_cycle_freq,
            cmdline: self.cmdline,
            mft: self.manifest,
            host_features: features.bits(),
            guest_features: 0,
            net_ring: config.net_ring.unwrap_or_default(),
        }
    }
}
