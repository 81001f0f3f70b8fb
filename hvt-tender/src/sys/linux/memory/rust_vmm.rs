//! The traits of [`vm_memory`] over [`MappedMemory`].
//!
//! A `VolatileSlice` carries no permissions. [`GuestMemory::get_slices`] names the access, so it returns slices of
//! read-only pages for reading. [`GuestMemoryRegion::get_slice`] does not, so it refuses them. `MappedMemory` is not a
//! `GuestMemoryBackend` itself, because every backend is a `GuestMemory` that ignores the access.

use std::iter::FusedIterator;
use std::sync::atomic::Ordering;

use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    AtomicAccess, Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryRegion, GuestMemoryResult,
    GuestRegionCollection, GuestUsize, MemoryRegionAddress, Permissions, ReadVolatile, VolatileMemory, VolatileSlice,
    WriteVolatile,
};

use super::MappedMemory;

impl GuestMemory for MappedMemory {
    type PhysicalMemory = GuestRegionCollection<Self>;
    type Bitmap = ();

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        self.accessible(addr.0, count, access.has_write()) == count
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<impl GuestMemorySliceIterator<'a, ()>> {
        Ok(Slices { memory: self, at: addr, left: count, access })
    }
}

/// Accessible bytes from the start of a range on, then an error if bytes are left.
struct Slices<'m> {
    memory: &'m MappedMemory,
    at: GuestAddress,
    left: usize,
    access: Permissions,
}

impl<'m> Iterator for Slices<'m> {
    type Item = GuestMemoryResult<VolatileSlice<'m>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let len = self.memory.accessible(self.at.0, self.left, self.access.has_write());
        if len == 0 {
            self.left = 0;
            return Some(Err(GuestMemoryError::InvalidGuestAddress(self.at)));
        }
        let slice = slice(self.memory, self.at.0, len);
        self.left -= len;
        // The sum is at most the size of memory.
        self.at.0 += len as u64;
        Some(slice)
    }
}

impl FusedIterator for Slices<'_> {}

impl<'m> GuestMemorySliceIterator<'m, ()> for Slices<'m> {}

fn slice(memory: &MappedMemory, at: u64, len: usize) -> GuestMemoryResult<VolatileSlice<'_>> {
    let at = usize::try_from(at).map_err(|_| GuestMemoryError::InvalidBackendAddress)?;
    Ok(memory.region().get_slice(at, len)?)
}

impl GuestMemoryRegion for MappedMemory {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.region().size() as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(0)
    }

    fn bitmap(&self) {}

    fn get_host_address(&self, addr: MemoryRegionAddress) -> GuestMemoryResult<*mut u8> {
        Ok(slice(self, addr.0, 1)?.ptr_guard_mut().as_ptr())
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.region().file_offset()
    }

    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> GuestMemoryResult<VolatileSlice<'_>> {
        if self.accessible(offset.0, count, true) == count {
            slice(self, offset.0, count)
        } else {
            Err(GuestMemoryError::InvalidBackendAddress)
        }
    }
}

/// Addresses of the region are guest addresses, because the region starts at 0.
impl Bytes<MemoryRegionAddress> for MappedMemory {
    type E = GuestMemoryError;

    fn write(&self, buf: &[u8], addr: MemoryRegionAddress) -> GuestMemoryResult<usize> {
        self.write(buf, GuestAddress(addr.0))
    }

    fn read(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> GuestMemoryResult<usize> {
        self.read(buf, GuestAddress(addr.0))
    }

    fn write_slice(&self, buf: &[u8], addr: MemoryRegionAddress) -> GuestMemoryResult<()> {
        self.write_slice(buf, GuestAddress(addr.0))
    }

    fn read_slice(&self, buf: &mut [u8], addr: MemoryRegionAddress) -> GuestMemoryResult<()> {
        self.read_slice(buf, GuestAddress(addr.0))
    }

    fn read_volatile_from<F: ReadVolatile>(
        &self,
        addr: MemoryRegionAddress,
        src: &mut F,
        count: usize,
    ) -> GuestMemoryResult<usize> {
        self.read_volatile_from(GuestAddress(addr.0), src, count)
    }

    fn read_exact_volatile_from<F: ReadVolatile>(
        &self,
        addr: MemoryRegionAddress,
        src: &mut F,
        count: usize,
    ) -> GuestMemoryResult<()> {
        self.read_exact_volatile_from(GuestAddress(addr.0), src, count)
    }

    fn write_volatile_to<F: WriteVolatile>(
        &self,
        addr: MemoryRegionAddress,
        dst: &mut F,
        count: usize,
    ) -> GuestMemoryResult<usize> {
        self.write_volatile_to(GuestAddress(addr.0), dst, count)
    }

    fn write_all_volatile_to<F: WriteVolatile>(
        &self,
        addr: MemoryRegionAddress,
        dst: &mut F,
        count: usize,
    ) -> GuestMemoryResult<()> {
        self.write_all_volatile_to(GuestAddress(addr.0), dst, count)
    }

    fn store<T: AtomicAccess>(&self, val: T, addr: MemoryRegionAddress, order: Ordering) -> GuestMemoryResult<()> {
        self.store(val, GuestAddress(addr.0), order)
    }

    fn load<T: AtomicAccess>(&self, addr: MemoryRegionAddress, order: Ordering) -> GuestMemoryResult<T> {
        self.load(GuestAddress(addr.0), order)
    }
}

#[cfg(test)]
mod tests {
    use hvt_abi::{Gpa, GuestRange};
    use vm_memory::GuestMemoryBackend;

    use super::*;
    use crate::memory::{MemoryMap, Permissions, Region};

    const SIZE: u64 = 0x20_0000;
    const CODE: u64 = 0x10_0000;
    const DATA: u64 = 0x10_1000;

    fn protected() -> MappedMemory {
        let memory = MappedMemory::anonymous(SIZE).unwrap();
        memory.write_slice(&[7; 8], GuestAddress(CODE)).unwrap();
        let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
        let memory_map = MemoryMap::new([
            region(CODE, DATA, Permissions::READ | Permissions::EXECUTE),
            region(DATA, SIZE, Permissions::READ | Permissions::WRITE),
        ]);
        memory.protect(&memory_map.unwrap()).unwrap();
        memory
    }

    fn refused<T: std::fmt::Debug>(result: GuestMemoryResult<T>, at: u64) {
        assert!(
            matches!(result, Err(GuestMemoryError::InvalidGuestAddress(GuestAddress(address))) if address == at),
            "{result:?}"
        );
    }

    #[test]
    fn writes_to_read_only_pages_fail_and_reads_succeed() {
        let memory = protected();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(CODE)).unwrap(), 7);
        assert_eq!(memory.load::<u32>(GuestAddress(CODE), Ordering::Relaxed).unwrap(), 0x0707_0707);
        refused(memory.write_obj(1_u8, GuestAddress(CODE)), CODE);
        refused(memory.store(1_u32, GuestAddress(DATA - 4), Ordering::Relaxed), DATA - 4);
        refused(memory.read_volatile_from(GuestAddress(CODE), &mut &[1_u8; 4][..], 4), CODE);
        refused(Bytes::write_obj(&memory, 1_u8, MemoryRegionAddress(CODE)), CODE);
        memory.write_obj(0x11_u8, GuestAddress(DATA)).unwrap();
        memory.write_obj(0x22_u8, MemoryRegionAddress(CODE - 1)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(CODE)).unwrap(), 7, "no write has reached the page");

        let writable = |at, count| memory.check_range(GuestAddress(at), count, vm_memory::Permissions::Write);
        assert!(writable(CODE - 4, 4) && writable(DATA, 4) && !writable(CODE - 4, 5) && !writable(DATA - 1, 2));
        assert!(memory.check_range(GuestAddress(0), SIZE as usize, vm_memory::Permissions::Read));
    }

    #[test]
    fn copies_stop_at_read_only_pages_and_at_the_end() {
        let memory = protected();
        assert_eq!(memory.write(&[1; 8], GuestAddress(CODE - 4)).unwrap(), 4);
        assert!(matches!(
            memory.write_slice(&[1; 8], GuestAddress(CODE - 4)),
            Err(GuestMemoryError::PartialBuffer { expected: 8, completed: 4 })
        ));
        let mut back = [0; 8];
        assert_eq!(memory.read(&mut back, GuestAddress(CODE - 4)).unwrap(), 8);
        assert_eq!(back, [1, 1, 1, 1, 7, 7, 7, 7]);
        assert_eq!(memory.read(&mut back, GuestAddress(SIZE - 2)).unwrap(), 2);
        refused(memory.read(&mut back, GuestAddress(SIZE)), SIZE);
        refused(memory.write(&[1], GuestAddress(u64::MAX)), u64::MAX);
        assert_eq!(memory.write(&[], GuestAddress(u64::MAX)).unwrap(), 0, "an empty copy touches nothing");
    }

    #[test]
    fn slices_of_a_region_are_writable() {
        let backend = GuestRegionCollection::from_regions(vec![protected()]).unwrap();
        assert_eq!((backend.num_regions(), backend.last_addr()), (1, GuestAddress(SIZE - 1)));
        assert!(backend.get_slice(GuestAddress(CODE), 1).is_err());
        assert!(backend.write_obj(1_u8, GuestAddress(CODE)).is_err());
        backend.get_slice(GuestAddress(DATA), 4).unwrap().write_obj(0x1234_u16, 2).unwrap();
        assert_eq!(backend.read_obj::<u32>(GuestAddress(DATA)).unwrap(), 0x1234_0000);

        let region = backend.find_region(GuestAddress(CODE)).unwrap();
        let start = region.get_host_address(MemoryRegionAddress(0)).unwrap();
        let code = region.get_host_address(MemoryRegionAddress(CODE)).unwrap();
        assert_eq!(code as usize - start as usize, CODE as usize);
        assert!(region.get_host_address(MemoryRegionAddress(SIZE)).is_err());
        assert!(region.as_volatile_slice().is_err(), "read-only pages are a part of the region");
    }
}
