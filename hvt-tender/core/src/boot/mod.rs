//! Conversion of an image and a configuration to the contents of guest memory and the entry state
//! of the virtual CPU.
//!
//! [`BootPlan::new`] decides everything without touching memory, so that errors are found before
//! memory is allocated; [`BootPlan::load`] writes it. The guest's memory below 1 MiB belongs to the
//! tender:
//!
//! | guest address | contents | guest's permissions |
//! |---|---|---|
//! | 0 | nothing | not mapped |
//! | 0x1000 | descriptor table (x86_64) and page tables | not mapped |
//! | 0x10000 | boot info, manifest, command line | read-only |
//! | below 0x100000 | page tables that do not fit below 0x10000, downward | not mapped |
//! | 0xff000 | exception vectors (aarch64), which report an exception of a guest without vectors to the tender | read-only, executable |
//!
//! From 0x100000 on, segments have the permissions of the file, and all other memory is readable
//! and writable, never executable. On aarch64, 1 GiB of device memory follows at 4 GiB: stores
//! there are hypercalls.

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

/// Least number of bytes between the end of the last segment and the end of memory: the first page
/// of the stack.
pub const STACK_MIN: u64 = PAGE_SIZE;

/// Configuration for booting an image.
#[derive(Clone, Copy, Debug)]
pub struct BootConfig<'a> {
    /// Size of guest memory in bytes: a multiple of 2 MiB, at most 4 GiB.
    pub mem_size: u64,
    /// Command line of the guest.
    pub cmdline: &'a CommandLine,
    /// The guest's copy of its manifest with the device properties, made by
    /// [`attach`](crate::device::attach::attach).
    pub manifest: &'a [u8],
    /// Frequency of the CPU's cycle counter in Hz.
    pub cpu_cycle_freq: u64,
    /// Guest address of the network [ring](hvt_abi::ring), if one is offered: page-aligned, at
    /// `mem_size` or above.
    pub net_ring: Option<Gpa>,
}

/// Loaded guest: everything that a backend needs to run it.
#[derive(Clone, Debug)]
pub struct Booted {
    /// The guest's permissions on its memory. Its page tables grant the same permissions as far as
    /// they can express them.
    pub memory_map: MemoryMap,
    /// State of the virtual CPU at entry.
    pub entry: EntryState,
}

/// Contents of guest memory, decided but not yet written.
#[derive(Debug)]
pub struct BootPlan<'a> {
    image: &'a Image<'a>,
    config: BootConfig<'a>,
    area: InfoArea,
    memory_map: MemoryMap,
    tables: Tables,
}

impl<'a> BootPlan<'a> {
    /// Decides how to boot `image`.
    ///
    /// # Errors
    /// Returns [`BootError`], which names the remedy, if image and configuration do not match.
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

    /// Returns the guest's permissions on its memory.
    #[must_use]
    pub fn memory_map(&self) -> &MemoryMap {
        &self.memory_map
    }

    /// Writes the initial contents of guest memory to `memory`, which must be zero.
    ///
    /// # Errors
    /// Returns [`BootError::Memory`] if `memory` is smaller than configured.
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
        // The terminating NUL is there already.
        memory.write(area.cmdline, config.cmdline.as_bytes())?;
        self.tables.write(memory)?;
        Ok(Booted { entry: EntryState::new(config.mem_size, image.entry()), memory_map: self.memory_map })
    }
}

/// Boots `image` in `memory`: [`BootPlan::new`] followed by [`BootPlan::load`].
///
/// # Errors
/// Returns [`BootError`], which names the remedy, if image, configuration and memory do not match.
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

/// Guest addresses of boot data.
#[derive(Clone, Copy, Debug)]
struct InfoArea {
    manifest: Gpa,
    cmdline: Gpa,
    /// First address after them, page aligned.
    end: Gpa,
}

impl InfoArea {
    /// Lays out the area below `limit`.
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
