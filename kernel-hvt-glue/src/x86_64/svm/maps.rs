//! Permission maps: ports and MSRs that guests access directly. All guests share the maps.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use hvt_abi::x86_64::msr;

use crate::host::{Frames, Host, Hpa, OutOfMemory};

/// The maps of I/O ports and MSRs (APM volume 2, 15.10.1 and 15.11): a set bit intercepts.
#[derive(Debug)]
pub(crate) struct PermissionMaps<H: Host> {
    io: Frames<H>,
    msr: Frames<H>,
}

impl<H: Host> PermissionMaps<H> {
    /// Creates maps that intercept everything except [`msr::OWN`], which VMLOAD and VMSAVE swap,
    /// and reads of the TSC.
    pub(crate) fn new(host: &H) -> Result<Self, OutOfMemory> {
        // 12 KiB, with the last bytes for accesses at the end of the port space; 8 KiB.
        let maps = Self { io: Frames::allocate(host, 2)?, msr: Frames::allocate(host, 1)? };
        for map in [&maps.io, &maps.msr] {
            // SAFETY: the frames have just been allocated.
            unsafe { map.as_ptr().write_bytes(0xff, map.size() as usize) };
        }
        for register in msr::OWN {
            maps.allow_msr(register, 0b11);
        }
        maps.allow_msr(msr::TSC, 0b01);
        Ok(maps)
    }

    /// Allows reads (bit 0) and writes (bit 1) of a register.
    fn allow_msr(&self, register: u32, allowed: u8) {
        let Some((byte, shift)) = msr_position(register) else { return };
        // SAFETY: the maps own the frames, and `msr_position` returns bytes of the map.
        unsafe {
            let byte = self.msr.as_ptr().add(byte);
            byte.write(byte.read() & !(allowed << shift));
        }
    }

    pub(crate) fn io_base(&self) -> Hpa {
        self.io.base()
    }

    pub(crate) fn msr_base(&self) -> Hpa {
        self.msr.base()
    }
}

/// Returns byte and bit of a register in the MSR permission map, or `None` if the map does not
/// cover the register. Accesses to such registers are always intercepted.
const fn msr_position(register: u32) -> Option<(usize, u32)> {
    let (base, first) = match register {
        0..=0x1fff => (0, 0),
        0xc000_0000..=0xc000_1fff => (0x800, 0xc000_0000),
        0xc001_0000..=0xc001_1fff => (0x1000, 0xc001_0000),
        _ => return None,
    };
    let index = register - first;
    Some((base + (index / 4) as usize, index % 4 * 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;

    #[test]
    fn positions_are_those_of_apm_table_15_11() {
        assert_eq!(msr_position(0x10), Some((4, 0)));
        assert_eq!(msr_position(0x1fff), Some((0x7ff, 6)));
        assert_eq!(msr_position(0xc000_0100), Some((0x840, 0)));
        assert_eq!(msr_position(0xc001_0117), Some((0x1045, 6)));
        assert_eq!(msr_position(0x2000), None);
        assert_eq!(msr_position(0x4b56_4d00), None);
    }

    #[test]
    fn everything_is_denied_but_the_guests_own() {
        let host = FakeHost::new(8);
        let maps = PermissionMaps::new(&host).unwrap();
        // SAFETY: the frames belong to the maps and are initialized.
        let (io, msr) = unsafe {
            (
                core::slice::from_raw_parts(maps.io.as_ptr(), 0x3000),
                core::slice::from_raw_parts(maps.msr.as_ptr(), 0x2000),
            )
        };
        assert!(io.iter().all(|&byte| byte == 0xff));
        let allowed = |register| msr_position(register).map(|(byte, shift)| !msr[byte] >> shift & 0b11);
        assert_eq!(allowed(msr::TSC), Some(0b01));
        assert_eq!(allowed(msr::FS_BASE), Some(0b11));
        assert_eq!(allowed(msr::EFER), Some(0));
        let open: u32 = msr.iter().map(|byte| byte.count_zeros()).sum();
        assert_eq!(open, 2 * msr::OWN.len() as u32 + 1);
        drop(maps);
        assert_eq!(host.free_frames(), 8);
    }
}
