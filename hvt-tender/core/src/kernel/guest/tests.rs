#![expect(unsafe_code, reason = "pages that this process shares with a kernel")]

use super::*;

use std::string::ToString;
use std::vec::Vec;

use hvt_abi::kernel::{Direction, Exit as KernelExit, Io, KernelError, MemoryViolation};
use proptest::prelude::*;

use crate::kernel::fake::{Asked, FakeKernel, MAP_STEP};
use crate::memory::Region;

const SIZE: u64 = 0x20_0000;
const HOST: usize = 0x7000_0000;

fn memory_map(regions: &[(u64, u64, Permissions)]) -> MemoryMap {
    let region = |&(start, end, access): &(u64, u64, Permissions)| {
        let range = GuestRange::between(Gpa(start), Gpa(end)).unwrap();
        Region { range, access }
    };
    MemoryMap::new(regions.iter().map(region)).unwrap()
}

/// Starts a guest whose memory is never accessed.
fn start(kernel: &FakeKernel, memory_map: &MemoryMap) -> Result<Guest<FakeKernel>, Refused> {
    let hypervisor = Hypervisor::open(kernel.clone())?;
    let memory = NonNull::new(core::ptr::without_provenance_mut(HOST)).unwrap();
    // SAFETY: the kernel is a fake and never dereferences the address.
    unsafe { Guest::start(&hypervisor, memory, SIZE, memory_map, &EntryState::new(SIZE, Gpa(0x10_1000))) }
}

fn io(port: u16, value: u32) -> KernelExit {
    KernelExit::Io(Io { port, size: 4, direction: Direction::Out, string: false, value })
}

/// Mappings of the kernel, with neighbours joined.
fn mapped(kernel: &FakeKernel) -> Vec<(u64, u64, u32)> {
    let mut joined: Vec<(u64, u64, u32)> = Vec::new();
    for map in &kernel.account().mapped {
        assert_eq!(map.address, HOST as u64 + map.gpa.0);
        assert!(map.len <= MAP_STEP);
        match joined.last_mut() {
            Some(last) if last.1 == map.gpa.0 && last.2 == map.permissions => last.1 += map.len,
            _ => joined.push((map.gpa.0, map.gpa.0 + map.len, map.permissions)),
        }
    }
    joined
}

#[test]
fn memory_is_mapped_with_the_permissions_of_the_layout() {
    let kernel = FakeKernel::new();
    let (read, text, data) =
        (Permissions::READ, Permissions::READ | Permissions::EXECUTE, Permissions::READ | Permissions::WRITE);
    let memory_map =
        memory_map(&[(0x1_0000, 0x10_0000, read), (0x10_0000, 0x10_3000, text), (0x10_5000, 0x1f_0000, data)]);
    let guest = start(&kernel, &memory_map).unwrap();
    let expected = [(0, 0x1_0000, 3), (0x1_0000, 0x10_0000, 1), (0x10_0000, 0x10_3000, 5), (0x10_3000, SIZE, 3)];
    assert_eq!(mapped(&kernel), expected);
    let state = kernel.account().state.unwrap();
    assert_eq!((state.general.rip, state.general.rsp), (0x10_1000, SIZE - 8));
    assert_eq!(guest.registers().unwrap().rip, 0x10_1000);
}

proptest! {
    /// For every memory map, each byte is mapped once, and nothing is writable and executable.
    #[test]
    fn all_of_memory_is_mapped_once(cuts in prop::collection::btree_set(0..SIZE / 4096, 0..12), kinds in any::<[u8; 12]>()) {
        let cuts: Vec<u64> = cuts.into_iter().map(|page| page * 4096).collect();
        let access = |kind| match kind % 4 {
            0 => Permissions::READ,
            1 => Permissions::READ | Permissions::WRITE,
            2 => Permissions::READ | Permissions::EXECUTE,
            _ => Permissions::EXECUTE,
        };
        let regions: Vec<_> = cuts
            .windows(2)
            .zip(kinds)
            .filter(|(_, kind)| kind % 5 != 0)
            .map(|(ends, kind)| (ends[0], ends[1], access(kind)))
            .collect();
        let mut at = 0;
        for (range, permissions) in pieces(SIZE, &memory_map(&regions)) {
            prop_assert_eq!(range.start().0, at);
            prop_assert!(!permissions.contains(Permissions::WRITE | Permissions::EXECUTE));
            at = range.end().0;
        }
        prop_assert_eq!(at, SIZE);
    }
}

#[test]
fn exits_are_converted() {
    let kernel = FakeKernel::new();
    let mut guest = start(&kernel, &memory_map(&[])).unwrap();
    let violation =
        MemoryViolation { gpa: Gpa(0x4000), access: hvt_abi::Permissions::WRITE, page_walk: false, gva: None };
    kernel.exits_with([io(0x501, 0x1000), KernelExit::Interrupted, KernelExit::MemoryViolation(violation)]);
    assert_eq!(guest.run(), Ok(Exit::Hypercall { number: 1, argument: Gpa(0x1000) }));
    assert_eq!(guest.run(), Ok(Exit::Interrupted));
    let Ok(Exit::Fault(fault)) = guest.run() else { panic!("no fault") };
    assert_eq!(fault.cause, Cause::Memory { address: Some(Gpa(0x4000)), access: Permissions::WRITE });
    assert_eq!(fault.registers.unwrap().rip, 0x10_1000);
}

#[test]
fn an_unknown_record_ends_the_guest() {
    let kernel = FakeKernel::new();
    let mut guest = start(&kernel, &memory_map(&[])).unwrap();
    kernel.account().exits.push_back(ExitRecord { reason: 99, ..ExitRecord::default() });
    let Ok(Exit::Fault(Fault { cause: Cause::Unknown { what }, .. })) = guest.run() else { panic!("no fault") };
    assert!(what.contains("exit 99"), "{what}");
}

#[test]
fn an_interrupt_reaches_the_virtual_cpu_from_elsewhere() {
    let kernel = FakeKernel::new();
    let interrupter = start(&kernel, &memory_map(&[])).unwrap().interrupter();
    interrupter.interrupt().unwrap();
    assert_eq!(kernel.interrupts(), 1);
}

#[test]
fn everything_is_closed_whenever_it_ends() {
    let kernel = FakeKernel::new();
    drop(start(&kernel, &memory_map(&[])).unwrap());
    assert_eq!(kernel.account().open, [""; 0]);
    // The virtual CPU is closed before its virtual machine.
    let closed = kernel.account().closed.clone();
    assert!(closed.iter().position(|name| *name == redox::VCPU) < closed.iter().position(|name| *name == redox::VM));
    let steps = [
        (Asked::Object(redox::PATH_IN_SYS), "opening the hypervisor"),
        (Asked::Object(redox::VM), "creating a virtual machine"),
        (Asked::Operation(Operation::Map), "mapping the guest's memory"),
        (Asked::Object(redox::VCPU), "creating a virtual CPU"),
        (Asked::Operation(Operation::SetState), "setting the guest's registers"),
        (Asked::Page, "mapping the run page"),
    ];
    for (asked, what) in steps {
        let kernel = FakeKernel::new();
        let errno = Errno(redox::errno(KernelError::LimitReached));
        kernel.fail(asked, errno);
        let Err(error) = start(&kernel, &memory_map(&[])) else { panic!("{asked:?}") };
        assert_eq!(error, Refused { what, errno });
        assert!(error.to_string().contains("a limit is reached"), "{error}");
        assert_eq!(kernel.account().open, [""; 0]);
    }
}

#[test]
fn a_kernel_that_maps_nothing_is_not_asked_for_ever() {
    let kernel = FakeKernel::new();
    kernel.account().maps_nothing = true;
    assert!(start(&kernel, &memory_map(&[])).is_err());
    assert_eq!(kernel.account().mapped.len(), 1);
}

#[test]
fn obstacles_are_reported() {
    let kernel = FakeKernel::new();
    let hypervisor = Hypervisor::open(kernel.clone()).unwrap();
    assert_eq!(hypervisor.obstacle(), Ok(None));
    kernel.account().capabilities.obstacle = Obstacle::DisabledByFirmware as u32;
    assert!(hypervisor.obstacle().unwrap().unwrap().contains("firmware"));
    kernel.account().capabilities.version = 2;
    assert!(hypervisor.obstacle().unwrap().unwrap().contains("version"));
}
