//! Why a virtual CPU stopped.

#[cfg(target_arch = "x86_64")]
mod kernel;
mod syndrome;

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use hvt_abi::Gpa;
use hvt_abi::native::Registers;

use crate::memory::Permissions;

#[cfg(target_arch = "x86_64")]
pub use kernel::from_kernel;
use syndrome::Syndrome;

/// Why a virtual CPU stopped running guest code: the same for every backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest made a hypercall. It goes on behind it at the next run.
    Hypercall {
        /// Number of the hypercall; it may be unknown.
        number: u32,
        /// Guest address of its argument, an allegation.
        argument: Gpa,
    },
    /// The guest kicked a ring. It goes on behind the kick at the next run.
    RingKick {
        /// Number of the ring, an allegation.
        ring: u32,
    },
    /// The guest waits for an interrupt; none will ever come.
    Halted,
    /// Somebody asked the run to end; the guest could go on.
    Interrupted,
    /// The guest did something after which it cannot go on.
    Fault(Fault),
}

impl Exit {
    /// What a write of `size` bytes to an I/O port means (x86_64).
    ///
    /// `None` where it is neither a hypercall nor a kick: a [`Cause::Port`].
    #[must_use]
    pub fn from_port_write(port: u16, size: u8, value: u32) -> Option<Self> {
        use hvt_abi::x86_64::{HYPERCALL_PORT, HYPERCALL_PORT_END, RING_KICK_PORT};
        match port {
            _ if size != 4 => None,
            HYPERCALL_PORT..HYPERCALL_PORT_END => {
                Some(Self::Hypercall { number: u32::from(port - HYPERCALL_PORT), argument: Gpa(u64::from(value)) })
            }
            RING_KICK_PORT => Some(Self::RingKick { ring: value }),
            _ => None,
        }
    }

    /// What a store of `size` bytes to device memory means (aarch64).
    ///
    /// `None` where it is neither a hypercall nor a kick: a [`Cause::Device`].
    #[must_use]
    pub fn from_store(address: Gpa, size: u32, value: u32) -> Option<Self> {
        use hvt_abi::aarch64::{HYPERCALL_STRIDE, MMIO_BASE, RING_KICK};
        /// Where the number of a hypercall would be that of the kick.
        const KICK: u64 = (RING_KICK.0 - MMIO_BASE.0) / HYPERCALL_STRIDE;
        if size != 4 || !address.is_aligned(HYPERCALL_STRIDE) {
            return None;
        }
        match address.0.checked_sub(MMIO_BASE.0)? / HYPERCALL_STRIDE {
            KICK => Some(Self::RingKick { ring: value }),
            number @ 0..KICK => Some(Self::Hypercall { number: number as u32, argument: Gpa(u64::from(value)) }),
            _ => None,
        }
    }
}

/// A guest's last act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it did.
    pub cause: Cause,
    /// Its registers at that moment, where the backend could read them. In a box, so that an [`Exit`] stays small: every
    /// hypercall moves one.
    pub registers: Option<Box<Registers>>,
}

/// What a guest did that it may not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// It used an I/O port in a way that is no hypercall.
    Port {
        /// The port.
        port: u16,
        /// Bytes transferred.
        size: u8,
        /// `out`, not `in`.
        write: bool,
    },
    /// It used device memory in a way that is no hypercall.
    Device {
        /// Guest address.
        address: Gpa,
        /// Bytes transferred; unknown where the instruction is no plain load or store of one register.
        size: Option<u32>,
        /// A store, not a load.
        write: bool,
    },
    /// It accessed memory that is not there, or in a way that the host forbids.
    Memory {
        /// Guest address, where the machine tells.
        address: Option<Gpa>,
        /// How, where the machine tells.
        access: Permissions,
    },
    /// An exception could not be delivered, nor the double fault that follows from it.
    TripleFault,
    /// It raised an exception, and has no vectors for it (aarch64).
    Exception {
        /// ESR_EL1: what happened.
        syndrome: u64,
        /// FAR_EL1: the guest-virtual address that it is about, if it is about one.
        address: u64,
    },
    /// It executed an instruction that this backend does not emulate.
    Instruction {
        /// What is known of it.
        what: String,
    },
    /// What ran it died under it: the sandboxed process was killed, say.
    Killed {
        /// By what.
        what: String,
    },
    /// The machine reported something this project has no name for.
    Unknown {
        /// The machine's own words and numbers.
        what: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { port, size, write } => {
                let (verb, way) = if *write { ("wrote", "to") } else { ("read", "from") };
                write!(f, "the guest {verb} {size} bytes {way} I/O port {port:#x}, which is no hypercall")
            }
            Self::Device { address, size, write } => {
                let (verb, way) = if *write { ("wrote", "to") } else { ("read", "from") };
                match size {
                    Some(size) => write!(f, "the guest {verb} {size} bytes {way} device memory at {address}")?,
                    None => write!(f, "the guest {verb} {way} device memory at {address}, not one register")?,
                }
                f.write_str(", which is no hypercall")
            }
            Self::Memory { address, access } => {
                write!(f, "host/guest translation fault: the guest ")?;
                f.write_str(match *access {
                    Permissions::WRITE => "wrote to",
                    Permissions::EXECUTE => "ran code at",
                    Permissions::READ => "read from",
                    _ => "accessed",
                })?;
                match address {
                    Some(address) => write!(f, " {address}, which it may not"),
                    None => f.write_str(" memory in a way it may not"),
                }
            }
            Self::TripleFault => f.write_str("triple fault: the guest has no handler for an exception it raised"),
            Self::Exception { syndrome, address } => {
                let what = Syndrome { esr: *syndrome, far: *address };
                write!(f, "the guest has no handler for an exception it raised: {what}")
            }
            Self::Instruction { what } => write!(f, "the guest executed {what}, which this backend does not emulate"),
            Self::Killed { what } => write!(f, "what ran the guest ended: {what}"),
            Self::Unknown { what } => write!(f, "the machine stopped the guest: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_32_bit_writes_are_hypercalls() {
        let hypercall = Exit::Hypercall { number: 1, argument: Gpa(0xffff_fff0) };
        assert_eq!(Exit::from_port_write(0x501, 4, 0xffff_fff0), Some(hypercall));
        assert_eq!(Exit::from_port_write(0x501, 1, 0), None);
        assert_eq!(Exit::from_port_write(0x600, 4, 3), Some(Exit::RingKick { ring: 3 }));
        assert_eq!(Exit::from_port_write(0x601, 4, 3), None);
        assert_eq!(Exit::from_port_write(0x4ff, 4, 3), None);
    }

    #[test]
    fn only_32_bit_stores_to_the_right_places_are_hypercalls() {
        let store = |offset: u64, size| Exit::from_store(Gpa(0x1_0000_0000 + offset), size, 0xffff_fff0);
        let hypercall = |number| Some(Exit::Hypercall { number, argument: Gpa(0xffff_fff0) });
        assert_eq!([store(0, 4), store(8, 4), store(0xf8, 4)], [hypercall(0), hypercall(1), hypercall(31)]);
        assert_eq!(store(0x100, 4), Some(Exit::RingKick { ring: 0xffff_fff0 }));
        for (offset, size) in [(8, 1), (8, 2), (8, 8), (4, 4), (9, 4), (0x104, 4), (0x108, 4), (0x100, 8)] {
            assert_eq!(store(offset, size), None, "{size} bytes at {offset:#x}");
        }
        assert_eq!(Exit::from_store(Gpa(0xffff_fff8), 4, 0), None);
    }
}
