//! Segment descriptors in the guest's tables.

/// Segment descriptor (SDM figure 3-8).
#[derive(Clone, Copy)]
pub(super) struct Descriptor(pub(super) u64);

impl Descriptor {
    pub(super) fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }

    pub(super) fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 >> 55 & 1 == 1 { limit << 12 | 0xfff } else { limit }
    }

    /// Type and S: 5 bits.
    pub(super) fn kind(self) -> u64 {
        self.0 >> 40 & 0x1f
    }

    pub(super) fn is_64_bit_code(self) -> bool {
        const CODE: u64 = 0x18;
        const LONG: u64 = 1 << 53;
        const PRESENT: u64 = 1 << 47;
        self.kind() & CODE == CODE && self.0 & LONG != 0 && self.0 & PRESENT != 0
    }
}
