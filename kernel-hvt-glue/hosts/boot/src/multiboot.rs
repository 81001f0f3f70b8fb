//! Multiboot2 boot: information structure of the *Multiboot2 Specification*, section 3.6.

use multiboot2::{BootInformation, CommandLineTag, MemoryAreaType, MemoryMapTag, ModuleTag};

use super::{Boot, BootError, PhysicalRange};

/// Converts a loader's Multiboot2 information.
///
/// # Errors
/// Returns [`BootError`] if the information lacks a memory map or has a malformed string.
pub fn from_multiboot2<'a>(information: &'a BootInformation<'a>) -> Result<Boot<'a>, BootError> {
    let mut boot = Boot::default();
    let start = information.start_address() as u64;
    boot.reserved.push(PhysicalRange { start, end: information.end_address() as u64 });
    if let Some(tag) = information.get_tag::<CommandLineTag>() {
        boot.command_line = tag.cmdline().map_err(|_| BootError::CommandLine)?;
    }
    let map = information.get_tag::<MemoryMapTag>().ok_or(BootError::NoMemoryMap)?;
    for area in map.memory_areas().iter().filter(|area| area.typ() == MemoryAreaType::Available) {
        // An excess area stays unused.
        let _ = boot.memory.try_push(PhysicalRange::new(area.start_address(), area.size()));
    }
    for module in information.get_tags::<ModuleTag>() {
        let (start, end) = (u64::from(module.start_address()), u64::from(module.end_address()));
        boot.add_module(PhysicalRange { start, end })?;
    }
    Ok(boot)
}

#[cfg(test)]
#[expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]
mod tests {
    use multiboot2::{Builder, MaybeDynSized, MemoryArea};

    use super::*;

    #[test]
    fn reads_what_the_loader_wrote() {
        let areas = [
            MemoryArea::new(0, 0x9_f000, MemoryAreaType::Available),
            MemoryArea::new(0xf_0000, 0x1_0000, MemoryAreaType::Reserved),
        ];
        let built = Builder::new()
            .cmdline(CommandLineTag::new("run=all"))
            .mmap(MemoryMapTag::new(&areas))
            .add_module(ModuleTag::new(0x40_0000, 0x40_1000, "pack"))
            .build();
        // SAFETY: the builder's structure is well formed and outlives the test.
        let information = unsafe { BootInformation::load(built.as_bytes().as_ptr().cast()) }.unwrap();
        let boot = from_multiboot2(&information).unwrap();
        assert_eq!(boot.command_line, "run=all");
        assert_eq!(boot.memory[..], [PhysicalRange::new(0, 0x9_f000)]);
        assert_eq!(boot.modules[..], [PhysicalRange::new(0x40_0000, 0x1000)]);
        assert_eq!(boot.reserved[0].len() as usize, size_of_val(&*built));
    }

    #[test]
    fn refuses_a_loader_without_memory_map() {
        let built = Builder::new().build();
        // SAFETY: as above.
        let information = unsafe { BootInformation::load(built.as_bytes().as_ptr().cast()) }.unwrap();
        assert_eq!(from_multiboot2(&information).unwrap_err(), BootError::NoMemoryMap);
    }
}
