//! Checks the boot information, the command line and the manifest.
#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]
#![no_std]
#![no_main]

use core::ffi::CStr;
use core::{ptr, slice};

use guest_bindings::abi::boot_info::{CMDLINE_SIZE, Features};
use guest_bindings::abi::manifest::{Entry, Header, Kind, VERSION};
use guest_bindings::abi::{BOOT_INFO_BASE, BootInfo, GUEST_MIN_BASE, GUEST_VISIBLE_BASE, GuestRange};
use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{check, success};

guest_bindings::manifest! { block "storage", net "service" }
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    // SAFETY: The tender has stored the structure, and it is never modified.
    let boot = unsafe { &*ptr::with_exposed_provenance::<BootInfo>(BOOT_INFO_BASE.0 as usize) };
    check(boot.mem_size == start.memory_size as u64, format_args!("{boot:?}"));
    check((1_000_000..100_000_000_000).contains(&boot.cpu_cycle_freq), format_args!("{} Hz", boot.cpu_cycle_freq));
    check(boot.kernel_end.is_aligned(4096) && boot.kernel_end.0 >= end_of_data(), format_args!("{boot:?}"));
    check(boot.kernel_end.0 <= boot.mem_size, format_args!("{boot:?}"));
    let offered = boot.host_features & Features::RING_IO.bits() != 0;
    check(offered == (boot.net_ring.0 != 0), "a ring is offered that is not there, or the other way round");

    // All boot information lies in memory that the guest can read and cannot write.
    let told = GuestRange::between(GUEST_VISIBLE_BASE, GUEST_MIN_BASE);
    let is_told = |address, len| told.zip(GuestRange::new(address, len)).is_some_and(|(all, part)| all.covers(&part));
    check(is_told(boot.cmdline, 1), format_args!("{boot:?}"));
    // SAFETY: As above. The string ends with a NUL.
    let line = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(boot.cmdline.0 as usize)) };
    check(line.to_bytes() == b"some words", format_args!("the command line is {line:?}"));
    check(
        is_told(boot.cmdline, line.count_bytes() as u64 + 1) && line.count_bytes() < CMDLINE_SIZE,
        "the command line is too long",
    );

    check(is_told(boot.mft, size_of::<(Header, [Entry; 3])>() as u64), format_args!("{boot:?}"));
    let header = ptr::with_exposed_provenance::<Header>(boot.mft.0 as usize);
    // SAFETY: As above. Three entries follow the header.
    let (header, entries) = unsafe { (*header, slice::from_raw_parts(header.add(1).cast::<Entry>(), 3)) };
    check(header == Header { version: VERSION, entries: 3 }, format_args!("{header:?}"));
    let kinds = [Kind::ReservedFirst, Kind::Block, Kind::Net];
    for (entry, kind) in entries.iter().zip(kinds) {
        check(entry.kind == kind as u32, format_args!("{entry:?}"));
        check(entry.private == [0; 8], "private data of the tender is left in the manifest");
        check(entry.attached == u8::from(kind != Kind::ReservedFirst), format_args!("{entry:?}"));
    }
    check(entries[0].name == [0; 68] && entries[0].properties == [0; 16], "the reserved entry is used");
    check(entries[1].name.starts_with(b"storage\0") && entries[2].name.starts_with(b"service\0"), "a name has changed");
    // Capacity and block size, followed by padding; MAC address and MTU, followed by zeros.
    check(entries[1].properties[10..] == [0; 6] && entries[2].properties[8..] == [0; 8], "padding is used");
    success()
}

/// Returns the end of the guest's initialized data. A tender may or may not include zeroed data in
/// `kernel_end`.
fn end_of_data() -> u64 {
    unsafe extern "C" {
        static _edata: u8;
    }
    (&raw const _edata).expose_provenance() as u64
}
