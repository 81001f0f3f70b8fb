//! MSR bitmap: MSRs that guests access directly (SDM volume 3, 25.6.9). All guests share it.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use hvt_abi::x86_64::msr;

use crate::host::{Frames, Host, Hpa, OutOfMemory};

/// MSR bitmap; a set bit makes the access exit.
#[derive(Debug)]
pub(crate) struct MsrBitmap<H: Host>(Frames<H>);

impl<H: Host> MsrBitmap<H> {
    /// Creates a bitmap that intercepts everything except reads of the TSC and accesses to
    /// [`msr::OWN`]. The VMCS holds those MSRs, or they are swapped when a virtual CPU is bound.
    pub(crate) fn new(host: &H) -> Result<Self, OutOfMemory> {
        let bitmap = Self(Frames::allocate(host, 0)?);
        // SAFETY: the frame has just been allocated.
        unsafe { bitmap.0.as_ptr().write_bytes(0xff, bitmap.0.size() as usize) };
        for register in msr::OWN {
            bitmap.allow(register, READ);
            bitmap.allow(register, WRITE);
        }
        bitmap.allow(msr::TSC, READ);
        Ok(bitmap)
    }

    fn allow(&self, register: u32, access: usize) {
        let Some((byte, bit)) = position(register) else { return };
        // SAFETY: the bitmap owns the frame, and `position` returns a byte of the first half.
        unsafe {
            let byte = self.0.as_ptr().add(byte + access);
            byte.write(byte.read() & !(1 << bit));
        }
    }

    pub(crate) fn base(&self) -> Hpa {
        self.0.base()
    }
}

/// Offset of the bitmaps for reads.
const READ: usize = 0;
/// Offset of the bitmaps for writes.
const WRITE: usize = 0x800;

/// Returns byte and bit of a register in the bitmaps for reads, or `None` if they do not cover the
/// register. Accesses to such registers always exit.
const fn position(register: u32) -> Option<(usize, u32)> {
    let (base, index) = match register {
        0..=0x1fff => (0, register),
        0xc000_0000..=0xc000_1fff => (0x400, register - 0xc000_0000),
        _ => return None,
    };
    Some((base + (index / 8) as usize, index % 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;

    #[test]
    fn everything_is_denied_but_the_guests_own() {
        let host = FakeHost::new(1);
        let bitmap = MsrBitmap::new(&host).unwrap();
        // SAFETY: the frame belongs to the bitmap and is initialized.
        let bytes = unsafe { core::slice::from_raw_parts(bitmap.0.as_ptr(), 0x1000) };
        assert_eq!(bytes[2], !1, "TSC, read");
        assert_eq!(bytes[0x802], !0, "TSC, write");
        assert_eq!((bytes[0x420], bytes[0xc20]), (!7, !7), "FS, GS and KERNEL_GS base");
        let open: u32 = bytes.iter().map(|byte| byte.count_zeros()).sum();
        assert_eq!(open, 2 * msr::OWN.len() as u32 + 1);
        assert_eq!(position(0x2000), None);
        assert_eq!(position(0xc001_0000), None);
    }
}
