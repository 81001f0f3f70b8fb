//! Hypercalls without a signal.
//!
//! An `out` in the child raises a signal, which costs more than the hand-over. Therefore the `mov
//! edx, port` before the `out` of each recognized [site](super::sites) becomes a jump to a
//! trampoline, which does the same as the site up to the `out` and then enters the stub. The stub
//! stores the guest's registers in [`Header::direct`], hands over, and returns behind the `out`.
//!
//! The `out` stays in place: a jump to it still raises a signal. The child executes a copy of the
//! pages with sites. Guest memory itself, which hypercalls, core dumps and the emulator read, stays
//! unmodified. A guest whose code is readable sees the jumps in its own code.
//!
//! Trampolines and copies are executable and never writable in the child. A guest that jumps to any
//! byte of them gains nothing: they contain no system call, and they access the exchange pages,
//! which the guest can access itself.

use std::io;
use std::mem::offset_of;

use hvt_abi::x86_64::Registers;
use hvt_abi::{GUEST_MIN_BASE, Gpa, GuestRange, PAGE_SIZE};

use super::RELAXED;
use super::exchange::Exchange;
use super::protocol::{DirectCall, EXCHANGE_ADDRESS, Header};
use super::sites::{self, AHEAD, BEHIND, BETWEEN_MAX, MOV};
use super::stub;
use crate::memory::{GuestMemory, MappedMemory, MemoryMap, Permissions, Region};

/// Lowest address at which Linux lets an unprivileged process map memory (`vm.mmap_min_addr`).
const LOWEST: u64 = 0x1_0000;
/// Bytes of a trampoline.
const TRAMPOLINE: u64 = 64;
/// Largest number of trampolines: one page of them.
const SITES_MAX: usize = (PAGE_SIZE / TRAMPOLINE) as usize;
/// Bytes of code that are copied for a search, few enough for the CPU's caches.
const SEARCHED_AT_ONCE: u64 = 64 << 10;
/// Largest number of code bytes that are searched.
const SEARCHED_MAX: u64 = 16 << 20;

/// Hypercall site with its trampoline.
#[derive(Clone, Copy, Debug)]
struct Site {
    /// Address of the `mov`.
    at: u64,
    /// Address of the `out`.
    out: u64,
    port: u16,
    trampoline: u64,
}

/// Pages that replace pages of guest memory in the child, and the page of trampolines.
#[derive(Clone, Debug, Default)]
pub(super) struct Direct {
    sites: Vec<Site>,
    /// Address of the page of trampolines in the child.
    trampolines: u64,
    /// Addresses of the pages with sites, in ascending order.
    pages: Vec<u64>,
}

/// Pages of the file of the exchange pages that the child maps for execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) range: GuestRange,
    pub(super) access: Permissions,
    /// Index of the first page behind the exchange pages.
    pub(super) index: u64,
}

impl Direct {
    /// Finds the sites in the guest's code.
    pub(super) fn new(memory: &MappedMemory, memory_map: &MemoryMap) -> Self {
        let Some(trampolines) = place(memory, memory_map) else { return Self::default() };
        let mut direct = Self { trampolines, ..Self::default() };
        let mut left = SEARCHED_MAX;
        let code = memory_map.regions().iter().filter(|region| region.access.contains(Permissions::EXECUTE));
        for region in code {
            let len = region.range.len().min(left);
            left -= len;
            direct.search(region, len, memory);
        }
        direct.pages.sort_unstable();
        direct.pages.dedup();
        log::debug!("{} hypercall sites in {} pages of code", direct.sites.len(), direct.pages.len());
        direct
    }

    /// Adds the sites in the first `len` bytes of a region.
    fn search(&mut self, region: &Region, len: u64, memory: &MappedMemory) {
        let mut code = Vec::new();
        for part in (0..len).step_by(SEARCHED_AT_ONCE as usize) {
            let end = len.min(part + SEARCHED_AT_ONCE);
            let from = part.saturating_sub(BEHIND as u64);
            let start = region.range.start().0 + from;
            code.resize((len.min(end + AHEAD as u64) - from) as usize, 0);
            if memory.read(Gpa(start), &mut code).is_err() {
                return;
            }
            let outs = (part - from) as usize..(end - from) as usize;
            for site in sites::find(&code, outs, SITES_MAX - self.sites.len()) {
                self.add(start + site.at as u64, start + site.out as u64, site.port);
            }
        }
    }

    /// Adds a site, unless a jump does not reach the trampolines from there.
    fn add(&mut self, at: u64, out: u64, port: u16) {
        let trampoline = self.trampolines + self.sites.len() as u64 * TRAMPOLINE;
        if jump(at, trampoline).is_some() {
            self.sites.push(Site { at, out, port, trampoline });
            let page = |address| address & !(PAGE_SIZE - 1);
            self.pages.extend([page(at), page(at + MOV as u64 - 1)]);
        }
    }

    /// Number of pages of the file behind the exchange pages.
    pub(super) fn page_count(&self) -> u64 {
        if self.sites.is_empty() { 0 } else { 1 + self.pages.len() as u64 }
    }

    /// Returns true if no site has a trampoline.
    pub(super) fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Returns true if the child executes a copy of a page in `range`.
    pub(super) fn replaces(&self, range: GuestRange) -> bool {
        self.pages.iter().any(|page| *page < range.end().0 && range.start().0 < page + PAGE_SIZE)
    }

    /// Mappings of the pages in the child, ordered by their indices in the file.
    pub(super) fn mappings(&self, memory_map: &MemoryMap) -> Vec<Mapping> {
        let mut mappings: Vec<Mapping> = Vec::new();
        let trampolines = (self.trampolines, Permissions::READ | Permissions::EXECUTE);
        let copies = self.pages.iter().filter_map(|page| Some((*page, memory_map.region_at(Gpa(*page))?.access)));
        let pages = (!self.is_empty()).then_some(trampolines).into_iter().chain(copies);
        for (index, (page, access)) in (0..).zip(pages) {
            match mappings.last_mut() {
                Some(last) if last.index > 0 && last.range.end().0 == page && last.access == access => {
                    last.range = GuestRange::between(last.range.start(), Gpa(page + PAGE_SIZE)).unwrap_or(last.range);
                }
                _ => {
                    mappings.extend(GuestRange::new(Gpa(page), PAGE_SIZE).map(|range| Mapping { range, access, index }))
                }
            }
        }
        mappings
    }

    /// Writes the trampolines and the copies of the pages with sites.
    pub(super) fn write(&self, exchange: &Exchange, memory: &MappedMemory) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(PAGE_SIZE as usize);
        for site in &self.sites {
            bytes.resize((site.trampoline - self.trampolines) as usize, INT3);
            bytes.extend(site.trampoline(memory)?);
        }
        bytes.resize(PAGE_SIZE as usize, INT3);
        exchange.write_direct(0, &bytes)?;
        for (index, page) in (1..).zip(&self.pages) {
            memory.read(Gpa(*page), &mut bytes).map_err(io::Error::other)?;
            for site in &self.sites {
                let Some(jump) = jump(site.at, site.trampoline) else { continue };
                for (address, byte) in (site.at..).zip(jump) {
                    if let Some(place) = address.checked_sub(*page).and_then(|at| bytes.get_mut(at as usize)) {
                        *place = byte;
                    }
                }
            }
            exchange.write_direct(index, &bytes)?;
        }
        Ok(())
    }

    /// Moves a guest that has executed the jump of a site, and no instruction of its trampoline,
    /// behind the `mov` of the site. A guest that sets RFLAGS.TF is there after a step.
    pub(super) fn leave_trampoline(&self, registers: &mut Registers) {
        if let Some(site) = self.sites.iter().find(|site| site.trampoline == registers.rip) {
            registers.rdx = site.port.into();
            registers.rip = site.at + MOV as u64;
        }
    }
}

impl Site {
    /// Code of the trampoline.
    fn trampoline(&self, memory: &MappedMemory) -> io::Result<Vec<u8>> {
        const DIRECT: u64 = EXCHANGE_ADDRESS + offset_of!(Header, direct) as u64;
        // mov edx, port, and the instructions between `mov` and `out`
        let mut original = [0; MOV + BETWEEN_MAX];
        let original = &mut original[..(self.out - self.at) as usize];
        memory.read(Gpa(self.at), original).map_err(io::Error::other)?;
        let mut code = original.to_vec();
        // mov [rax of the call], rax
        code.extend(b"\x48\xa3");
        code.extend((DIRECT + offset_of!(DirectCall, rax) as u64).to_le_bytes());
        // mov eax, address behind the `out`, which is below 4 GiB
        code.push(0xb8);
        code.extend((self.out as u32 + 1).to_le_bytes());
        // mov [rip of the call], rax
        code.extend(b"\x48\xa3");
        code.extend((DIRECT + offset_of!(DirectCall, rip) as u64).to_le_bytes());
        // mov rax, stub; jmp rax
        code.extend(b"\x48\xb8");
        code.extend(stub::direct().to_le_bytes());
        code.extend(b"\xff\xe0");
        Ok(code)
    }
}

/// `int3`, which fills the page of trampolines.
const INT3: u8 = 0xcc;

const _: () = assert!(MOV + BETWEEN_MAX + 10 + 5 + 10 + 10 + 2 <= TRAMPOLINE as usize);

/// Returns `jmp rel32` from `from` to `to`, if the distance fits.
fn jump(from: u64, to: u64) -> Option<[u8; MOV]> {
    let distance = i64::try_from(to).ok()? - i64::try_from(from).ok()? - MOV as i64;
    let [a, b, c, d] = i32::try_from(distance).ok()?.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

/// Returns the page that holds the trampolines: the last unused page below 1 MiB, which a jump from
/// any code below 2 GiB reaches. Guests own only the memory above 1 MiB. A guest that reads the page
/// would otherwise read zeros.
fn place(memory: &MappedMemory, memory_map: &MemoryMap) -> Option<u64> {
    let is_unused = |page: &u64| match memory_map.region_at(Gpa(*page)) {
        None => true,
        Some(region) if region.access == Permissions::READ => {
            let mut bytes = [1; PAGE_SIZE as usize];
            memory.read(Gpa(*page), &mut bytes).is_ok() && bytes.iter().all(|byte| *byte == 0)
        }
        Some(_) => false,
    };
    (LOWEST / PAGE_SIZE..GUEST_MIN_BASE.0 / PAGE_SIZE).rev().map(|index| index * PAGE_SIZE).find(is_unused)
}

/// Registers of the guest at a call through a trampoline.
pub(super) fn registers(exchange: &Exchange) -> Registers {
    let call = &exchange.header().direct;
    Registers {
        rax: call.rax.load(RELAXED),
        rbx: call.rbx.load(RELAXED),
        rcx: call.rcx.load(RELAXED),
        rdx: call.rdx.load(RELAXED),
        rsi: call.rsi.load(RELAXED),
        rdi: call.rdi.load(RELAXED),
        rbp: call.rbp.load(RELAXED),
        rsp: call.rsp.load(RELAXED),
        r8: call.r8.load(RELAXED),
        r9: call.r9.load(RELAXED),
        r10: call.r10.load(RELAXED),
        r11: call.r11.load(RELAXED),
        r12: call.r12.load(RELAXED),
        r13: call.r13.load(RELAXED),
        r14: call.r14.load(RELAXED),
        r15: call.r15.load(RELAXED),
        rip: call.rip.load(RELAXED),
        rflags: call.rflags.load(RELAXED),
    }
}
