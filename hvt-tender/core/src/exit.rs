//! Reasons for the exit of a virtual CPU.

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

/// Reason for an exit, the same for every backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Hypercall. The next run resumes the guest behind it.
    Hypercall {
        /// Number of the hypercall, possibly unknown.
        number: u32,
        /// Guest address of the argument, an allegation.
        argument: Gpa,
    },
    /// Kick of a ring. The next run resumes the guest behind it.
    RingKick {
        /// Number of the ring, an allegation.
        ring: u32,
    },
    /// The guest waits for an interrupt, and no interrupt will come.
    Halted,
    /// The run was interrupted from outside; the guest can be resumed.
    Interrupted,
    /// The guest cannot continue.
    Fault(Fault),
}

impl Exit {
    /// Decodes a write of `size` bytes to an I/O port (x86_64).
    ///
    /// Returns `None` if the write is neither a hypercall nor a kick; the exit is then a
    /// [`Cause::Port`].
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

    /// Decodes a store of `size` bytes to device memory (aarch64).
    ///
    /// Returns `None` if the store is neither a hypercall nor a kick; the exit is then a
    /// [`Cause::Device`].
    #[must_use]
    pub fn from_store(address: Gpa, size: u32, value: u32) -> Option<Self> {
        use hvt_abi::aarch64::{HYPERCALL_STRIDE, MMIO_BASE, RING_KICK};
        /// Hypercall number that has the address of the kick.
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

/// Fault that ended the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Cause of the fault.
    pub cause: Cause,
    /// Registers at the fault, if the backend could read them. Boxed to keep [`Exit`] small,
    /// because every hypercall moves one.
    pub registers: Option<Box<Registers>>,
}

/// Forbidden or unsupported action of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Access to an I/O port that is not a hypercall.
    Port {
        /// The port.
        port: u16,
        /// Bytes transferred.
        size: u8,
        /// `out`, not `in`.
        write: bool,
    },
    /// Access to device memory that is not a hypercall.
    Device {
        /// Guest address.
        address: Gpa,
        /// Bytes transferred; `None` if the instruction is not a plain load or store of one
        /// register.
        size: Option<u32>,
        /// A store, not a load.
        write: bool,
    },
    /// Access to memory that does not exist, or that the host does not permit.
    Memory {
        /// Guest address, if the machine reports it.
        address: Option<Gpa>,
        /// Kind of access, if the machine reports it.
        access: Permissions,
    },
    /// Neither an exception nor the resulting double fault could be delivered.
    TripleFault,
    /// Exception without a handler: the guest has installed no vectors (aarch64).
    Exception {
        /// ESR_EL1: exception syndrome.
        syndrome: u64,
        /// FAR_EL1: faulting guest-virtual address, if the exception has one.
        address: u64,
    },
    /// Instruction that this backend does not emulate.
    Instruction {
        /// Description of the instruction.
        what: String,
    },
    /// The thread or process that ran the guest died, for example because the sandboxed process was
    /// killed.
    Killed {
        /// Description of its end.
        what: String,
    },
    /// Exit that this project has no name for.
    Unknown {
        /// Description and numbers reported by the machine.
        what: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { port, size, write } => {
                let (verb, way) = if *write { ("wrote", "to") } else { ("read", "from") };
                write!(f, "the guest {verb} {size} bytes {way} I/O port {port:#x}, which is not a hypercall")
            }
            Self::Device { address, size, write } => {
                let (verb, way) = if *write { ("wrote", "to") } else { ("read", "from") };
                match size {
                    Some(size) => write!(f, "the guest {verb} {size} bytes {way} device memory at {address}")?,
                    None => write!(f, "the guest {verb} {way} device memory at {address}, not one register")?,
                }
                f.write_str(", which is not a hypercall")
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
                    Some(address) => write!(f, " {address} without permission"),
                    None => f.write_str(" memory without permission"),
                }
            }
            Self::TripleFault => f.write_str("triple fault: the guest has no handler for an exception it raised"),
            Self::Exception { syndrome, address } => {
                let what = Syndrome { esr: *syndrome, far: *address };
                write!(f, "the guest has no handler for an exception it raised: {what}")
            }
            Self::Instruction { what } => write!(f, "the guest executed {what}, which this backend does not emulate"),
            Self::Killed { what } => write!(f, "the guest's process ended: {what}"),
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
