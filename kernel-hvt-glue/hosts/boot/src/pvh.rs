//! PVH boot: `struct hvm_start_info` of Xen's public header `arch-x86/hvm/start_info.h`.

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, little_endian};

use super::{Boot, BootError, PhysicalRange};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const RAM: u32 = 1;

/// `struct hvm_start_info`, version 1.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StartInfo {
    magic: little_endian::U32,
    version: little_endian::U32,
    flags: little_endian::U32,
    nr_modules: little_endian::U32,
    modlist_paddr: little_endian::U64,
    cmdline_paddr: little_endian::U64,
    rsdp_paddr: little_endian::U64,
    memmap_paddr: little_endian::U64,
    memmap_entries: little_endian::U32,
    reserved: little_endian::U32,
}

/// `struct hvm_modlist_entry`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Module {
    paddr: little_endian::U64,
    size: little_endian::U64,
    cmdline_paddr: little_endian::U64,
    reserved: little_endian::U64,
}

/// `struct hvm_memmap_table_entry`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct MemoryMapEntry {
    addr: little_endian::U64,
    size: little_endian::U64,
    kind: little_endian::U32,
    reserved: little_endian::U32,
}

/// Reads the PVH start info at `address` through `physical`, which returns the bytes at a
/// host-physical address.
///
/// # Errors
/// Returns [`BootError`] if there is no PVH start info at `address`, or if it has no memory map.
pub fn from_pvh<'a>(address: u64, physical: impl Fn(u64, usize) -> &'a [u8]) -> Result<Boot<'a>, BootError> {
    let info = StartInfo::ref_from_bytes(physical(address, size_of::<StartInfo>()));
    let info = info.ok().filter(|info| info.magic == MAGIC).ok_or(BootError::UnknownLoader)?;
    if info.version < 1 {
        return Err(BootError::PvhVersion(info.version.get()));
    }
    let mut boot = Boot { rsdp: Some(info.rsdp_paddr.get()).filter(|address| *address != 0), ..Boot::default() };
    let command_line = info.cmdline_paddr.get();
    if command_line != 0 {
        let len = (0..).find(|&i| physical(command_line + i, 1) == [0]).unwrap_or(0);
        let bytes = physical(command_line, len as usize);
        boot.command_line = core::str::from_utf8(bytes).map_err(|_| BootError::CommandLine)?;
        boot.reserved.push(PhysicalRange::new(command_line, len + 1));
    }
    let bytes = physical(info.memmap_paddr.get(), info.memmap_entries.get() as usize * size_of::<MemoryMapEntry>());
    let map = <[MemoryMapEntry]>::ref_from_bytes(bytes).unwrap_or_default();
    for area in map.iter().filter(|area| area.kind == RAM) {
        // An excess area stays unused.
        let _ = boot.memory.try_push(PhysicalRange::new(area.addr.get(), area.size.get()));
    }
    if boot.memory.is_empty() {
        return Err(BootError::NoMemoryMap);
    }
    let bytes = physical(info.modlist_paddr.get(), info.nr_modules.get() as usize * size_of::<Module>());
    for module in <[Module]>::ref_from_bytes(bytes).unwrap_or_default() {
        boot.add_module(PhysicalRange::new(module.paddr.get(), module.size.get()))?;
    }
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// 8 KiB of "physical memory" with a start info at 0, map at 0x100, modules at 0x200, command line at 0x300.
    fn memory(version: u32) -> Vec<u8> {
        let mut memory = std::vec![0u8; 0x2000];
        let mut put = |at: usize, words: &[u64]| {
            for (i, word) in words.iter().enumerate() {
                memory[at + 8 * i..][..8].copy_from_slice(&word.to_le_bytes());
            }
        };
        put(0, &[u64::from(version) << 32 | u64::from(MAGIC), 1 << 32, 0x200, 0x300, 0xf_5000, 0x100, 3]);
        put(0x100, &[0, 0x9_fc00, 1, 0xf_0000, 0x1_0000, 2, 0x10_0000, 0x3ff0_0000, 1]);
        put(0x200, &[0x40_0000, 0x1234, 0, 0]);
        memory[0x300..0x305].copy_from_slice(b"a=b c");
        memory
    }

    #[test]
    fn reads_what_the_loader_wrote() {
        let memory = memory(1);
        let boot = from_pvh(0, |address, len| &memory[address as usize..][..len]).unwrap();
        assert_eq!((boot.command_line, boot.rsdp), ("a=b c", Some(0xf_5000)));
        assert_eq!(boot.memory[..], [PhysicalRange::new(0, 0x9_fc00), PhysicalRange::new(0x10_0000, 0x3ff0_0000)]);
        assert_eq!(boot.modules[..], [PhysicalRange::new(0x40_0000, 0x1234)]);
        assert_eq!(boot.reserved[..], [PhysicalRange::new(0x300, 6)]);
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        let physical = memory(0);
        let read = |address: u64, len: usize| &physical[address as usize..][..len];
        assert_eq!(from_pvh(0, read).unwrap_err(), BootError::PvhVersion(0));
        assert_eq!(from_pvh(0x1000, read).unwrap_err(), BootError::UnknownLoader);
    }
}
