//! Cost of operations in TSC ticks. Under QEMU's `-icount shift=0` a tick is an instruction, and
//! the figures are reproducible to the last digit.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::{boxed::Box, string::String, vec::Vec};

use hvt_abi::{Gpa, GuestRange, kernel, x86_64::EntryState};
use hvt_bare::frames::{CHUNK_SIZE, FRAME_SIZE};
use hvt_core::{
    device::{Devices, Slot, in_memory::ConsoleBuffer},
    memory::{MemoryMap, Region},
    monitor,
};
use hvt_harness::{clock::tsc, suite::Wires};
use kernel_hvt_glue::{Frames, Hpa, Hypervisor, Permissions, Vm};

use crate::{
    clock,
    console::println,
    host::{self, Context, Kernel},
    interrupts,
    probes::{DATA, MEMORY, Machine, hypercall_loop},
    ram::{Blocks, GuestRam},
    sleep::Sleeper,
    unikernel::Running,
};

/// Rounds per measurement.
const ROUNDS: u64 = 16;
/// Guest memory in bytes of the VM that is created and destroyed.
const VM_MEMORY: u64 = 32 << 20;

/// Prints every figure.
pub(crate) fn print(context: &mut Context<'_>) -> Result<(), String> {
    // Timer interrupts would distort the figures.
    interrupts::hear_timer(false);
    let figures = figures(context);
    interrupts::hear_timer(true);
    for (name, cost) in figures? {
        println!("bare: cost {name}: {cost}");
    }
    Ok(())
}

fn figures(context: &mut Context<'_>) -> Result<[(&'static str, u64); 11], String> {
    let small = map(context.hypervisor, FRAME_SIZE)?;
    let large = map(context.hypervisor, CHUNK_SIZE)?;
    Ok([
        ("hypercall, exit to entry", exit_to_entry(context)?),
        ("hypercall, bound to the CPU for each", bound_anew(context)?),
        ("walltime hypercall, with the tender", walltime(context)?),
        ("create and destroy a VM of 32 MiB", create_and_destroy(context.hypervisor)?),
        ("zero 32 MiB, part of that", zero()?),
        ("map 4 KiB", small[0]),
        ("map 4 KiB, one of 128 at once", small[1]),
        ("unmap 4 KiB", small[2]),
        ("map 2 MiB", large[0]),
        ("map 2 MiB, one of 128 at once", large[1]),
        ("unmap 2 MiB", large[2]),
    ])
}

/// Returns the mean duration of [`ROUNDS`] calls of `each`, after three warm-up calls.
fn mean(mut each: impl FnMut() -> Result<(), String>) -> Result<u64, String> {
    for _ in 0..3 {
        each()?;
    }
    let start = tsc();
    for _ in 0..ROUNDS {
        each()?;
    }
    Ok((tsc() - start) / ROUNDS)
}

/// Measures a guest's `out`, its VM exit and the following VM entry, without serving the hypercall.
/// The figure includes the guest's own instructions, two per round.
fn exit_to_entry(context: &mut Context<'_>) -> Result<u64, String> {
    let mut machine = Machine::new(context.hypervisor, hypercall_loop())?;
    host::set_time_slice(u64::MAX);
    let mut bound = machine.vcpu.bind(context.cpu, &machine.vm).map_err(text)?;
    mean(|| match bound.run() {
        kernel::Exit::Io(_) => Ok(()),
        exit => Err(text(exit)),
    })
}

/// Measures the same exit and entry if the virtual CPU is bound for each entry. A kernel whose
/// monitor is a process does so, and swaps the FPU state at every entry and exit.
fn bound_anew(context: &mut Context<'_>) -> Result<u64, String> {
    let mut machine = Machine::new(context.hypervisor, hypercall_loop())?;
    host::set_time_slice(u64::MAX);
    mean(|| match machine.vcpu.run(context.cpu, &machine.vm).map_err(text)? {
        kernel::Exit::Io(_) => Ok(()),
        exit => Err(text(exit)),
    })
}

/// Measures a walltime hypercall that the tender decodes and serves.
fn walltime(context: &mut Context<'_>) -> Result<u64, String> {
    let mut machine = Machine::new(context.hypervisor, hypercall_loop())?;
    machine.set(|registers| {
        registers.rdx = 0x501;
        registers.rax = DATA.0;
    });
    let range = GuestRange::new(Gpa(0x10_0000), 0x10_0000).ok_or("wraps around")?;
    let memory_map =
        MemoryMap::new([Region { range, access: Permissions::READ | Permissions::WRITE }]).ok_or("no memory map")?;
    let mut devices = Devices {
        console: Box::new(ConsoleBuffer::default()),
        clock: Box::new(clock::get()),
        poller: Box::new(Sleeper::new(Wires::default(), u64::MAX)),
        slots: Vec::from([Slot::Reserved]),
    };
    let blocks = Blocks::of(&machine.vm, MEMORY);
    host::set_time_slice(u64::MAX);
    let bound = machine.vcpu.bind(context.cpu, &machine.vm).map_err(text)?;
    let mut running = Running::new(bound, GuestRam::new(&machine.vm, &blocks), u64::MAX);
    mean(|| match monitor::step(&mut running, &memory_map, &mut devices, None, &mut ()) {
        Ok(None) => Ok(()),
        Ok(Some(outcome)) => Err(text(outcome)),
    })
}

/// Measures creating a VM with all of its memory and destroying it.
fn create_and_destroy(hypervisor: &Hypervisor<Kernel>) -> Result<u64, String> {
    let memory = GuestRange::new(Gpa(0), VM_MEMORY).ok_or("wraps around")?;
    let entry = EntryState::new(VM_MEMORY, Gpa(0x10_0000));
    mean(|| {
        let mut vm = Vm::new(hypervisor).map_err(text)?;
        vm.allocate(memory, Permissions::READ | Permissions::WRITE).map_err(text)?;
        let vcpu = vm.create_vcpu(&entry).map_err(text)?;
        drop(vcpu);
        drop(vm);
        Ok(())
    })
}

/// Measures allocating the same amount of memory from the kernel, which zeroes it, and freeing it.
fn zero() -> Result<u64, String> {
    let order = (VM_MEMORY / FRAME_SIZE).trailing_zeros();
    mean(|| Frames::allocate(&Kernel, order).map(drop).map_err(text))
}

/// Measures mapping and unmapping pages of `size` bytes in an address space whose tables exist
/// already. Returns the cost per page of mapping one page, of mapping many at once, and of
/// unmapping one.
fn map(hypervisor: &Hypervisor<Kernel>, size: u64) -> Result<[u64; 3], String> {
    const PAGES: u64 = 128;
    let mut vm = Vm::new(hypervisor).map_err(text)?;
    let pages = |first: u64, count: u64| GuestRange::new(Gpa(first * size), count * size).ok_or("wraps around");
    // The guest gets all of the first 4 GiB, including the kernel's own memory, and never runs. The
    // addresses are offset by one page, so that no larger page size fits.
    let map = |vm: &mut Vm<Kernel>, first, count| {
        let hpa = Hpa((first + 1) * size);
        // SAFETY: the memory is mapped in the kernel; no guest accesses it through this address
        // space.
        unsafe { vm.map(pages(first, count)?, hpa, Permissions::READ) }.map_err(text)
    };
    // A neighbouring page keeps the tables allocated.
    map(&mut vm, 511, 1)?;
    let start = tsc();
    for page in 0..PAGES {
        map(&mut vm, page, 1)?;
    }
    let mapped = tsc();
    map(&mut vm, PAGES, PAGES)?;
    let mapped_at_once = tsc();
    for page in 0..PAGES {
        vm.unmap(pages(page, 1)?).map_err(text)?;
    }
    let unmapped = tsc();
    Ok([mapped - start, mapped_at_once - mapped, unmapped - mapped_at_once].map(|ticks| ticks / PAGES))
}

fn text(error: impl core::fmt::Display) -> String {
    alloc::format!("{error}")
}
