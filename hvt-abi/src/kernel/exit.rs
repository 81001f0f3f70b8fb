//! Why a virtual CPU stopped.
//!
//! [`Exit`] is the typed form, for Rust on either side. [`ExitRecord`] is the same in 32 bytes of fixed layout, for the
//! page that a kernel shares with user space; whoever reads such a page treats it as any other untrusted input
//! ([`ExitRecord::exit`] refuses what it does not know).
//!
//!
//! SDM is Intel's *Software Developer's Manual*, APM is AMD's *Architecture Programmer's Manual*, volume 2.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Gpa, Permissions};

/// Why the guest stopped executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest accessed an I/O port. RIP already stands behind the instruction. For an `in`, the monitor puts the
    /// answer into RAX before it runs the guest again; a string instruction has moved nothing.
    Io(Io),
    /// `hlt`. RIP stands behind it.
    Halt,
    /// The guest touched memory that it does not have, or not in this way. RIP stands at the instruction, which runs
    /// again when the guest does.
    MemoryViolation(MemoryViolation),
    /// An entry of the second-level page tables is malformed: an error of the kernel, not of the guest.
    Misconfiguration {
        /// What the guest accessed.
        gpa: Gpa,
    },
    /// An exception could not be delivered, not even as a double fault. The guest has ended.
    TripleFault,
    /// An interrupt or the scheduler wanted the CPU. Run the guest again at will; it has noticed nothing.
    Interrupted,
    /// The guest's state breaks a rule of the architecture; not one instruction was executed. The guest has ended.
    EntryFailure(EntryFailure),
    /// The guest, in compatibility mode, wrote a value to a control register that would leave long mode; from 64-bit
    /// mode that is a #GP of its own. The guest has ended.
    ControlRegister {
        /// Number of the register: 0 or 4.
        register: u8,
        /// What it wrote.
        value: u64,
    },
    /// The instruction that left the guest could not be read or is not the one it should be (SVM without decode
    /// assists; its bytes have changed since). The guest has ended.
    Undecodable {
        /// Linear address of the instruction.
        rip: u64,
        /// The CPU's reason for the exit.
        reason: u64,
    },
    /// An exit that this kernel does not expect, as the CPU reported it: VMX exit reason and qualification, or SVM
    /// EXITCODE and EXITINFO1. The guest has ended.
    Unknown {
        /// The CPU's reason for the exit.
        reason: u64,
        /// What the CPU adds to it.
        info: u64,
    },
}

impl Exit {
    /// Whether the virtual CPU can never run again.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Io(_) | Self::Halt | Self::MemoryViolation(_) | Self::Interrupted => false,
            Self::Misconfiguration { .. }
            | Self::TripleFault
            | Self::EntryFailure(_)
            | Self::ControlRegister { .. }
            | Self::Undecodable { .. }
            | Self::Unknown { .. } => true,
        }
    }
}

/// An access to an I/O port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// The port.
    pub port: u16,
    /// Width of the access in bytes: 1, 2 or 4.
    pub size: u8,
    /// Which way the data goes.
    pub direction: Direction,
    /// `ins` or `outs`: the data is in memory, not in RAX.
    pub string: bool,
    /// What an `out` sends: RAX, truncated to `size`. 0 for an `in` and for string instructions.
    pub value: u32,
}

/// Which way data goes through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `in`: to the guest.
    In,
    /// `out`: from the guest.
    Out,
}

/// An access that the second-level page tables do not allow (EPT violation, SDM 29.3.3.2; nested page fault, APM
/// 15.25.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryViolation {
    /// Where, guest-physical.
    pub gpa: Gpa,
    /// What was tried.
    pub access: Permissions,
    /// The access was to the guest's own page tables, on behalf of another one.
    pub page_walk: bool,
    /// The linear address that led there, where the CPU tells.
    pub gva: Option<u64>,
}

/// A field of the guest's state that VM entry refuses, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFailure {
    /// Which field.
    pub field: EntryField,
    /// What stands in it.
    pub value: u64,
}

macro_rules! entry_fields {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Parts of the guest's state that are checked before VM entry (SDM 27.3.1, APM 15.5.1).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum EntryField {
            $($(#[$doc])* $name = $number,)*
        }

        impl EntryField {
            /// The field with this number, if there is one.
            #[must_use]
            pub const fn from_u32(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The manuals' name of the field.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

entry_fields! {
    /// Found by the CPU, which does not say what; the value is its reason for the exit.
    Unspecified = 0, "unspecified";
    /// CR0.
    Cr0 = 1, "CR0";
    /// CR3.
    Cr3 = 2, "CR3";
    /// CR4.
    Cr4 = 3, "CR4";
    /// IA32_EFER.
    Efer = 4, "EFER";
    /// RFLAGS.
    Rflags = 5, "RFLAGS";
    /// RIP.
    Rip = 6, "RIP";
    /// RSP.
    Rsp = 7, "RSP";
    /// DR6.
    Dr6 = 8, "DR6";
    /// DR7.
    Dr7 = 9, "DR7";
    /// IA32_PAT.
    Pat = 10, "PAT";
    /// CS; the value is its access rights.
    Cs = 11, "CS";
    /// SS; the value is its access rights.
    Ss = 12, "SS";
    /// DS; the value is its access rights.
    Ds = 13, "DS";
    /// ES; the value is its access rights.
    Es = 14, "ES";
    /// FS; the value is its access rights.
    Fs = 15, "FS";
    /// GS; the value is its access rights.
    Gs = 16, "GS";
    /// TR; the value is its access rights.
    Tr = 17, "TR";
    /// LDTR; the value is its access rights.
    Ldtr = 18, "LDTR";
    /// Base address of the GDT.
    GdtrBase = 19, "GDTR base";
    /// Base address of the IDT.
    IdtrBase = 20, "IDTR base";
    /// Base address of FS.
    FsBase = 21, "FS base";
    /// Base address of GS.
    GsBase = 22, "GS base";
    /// Base address of TR.
    TrBase = 23, "TR base";
    /// A control field of the VMCS or VMCB: an error of the kernel; the value is the CPU's error number.
    Control = 24, "control";
    /// A host-state field of the VMCS: an error of the kernel; the value is the CPU's error number.
    Host = 25, "host state";
    /// IA32_KERNEL_GS_BASE.
    KernelGsBase = 26, "KERNEL_GS base";
}

impl fmt::Display for EntryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:#x} is not allowed at VM entry", self.field.name(), self.value)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(io) => {
                let (verb, string) = (if io.direction == Direction::In { "in" } else { "out" }, io.string);
                let suffix = if string { "s" } else { "" };
                write!(f, "{verb}{suffix} of {} bytes, port {:#x}, value {:#x}", io.size, io.port, io.value)
            }
            Self::Halt => f.write_str("hlt"),
            Self::MemoryViolation(violation) => {
                write!(f, "guest memory at {} does not allow:", violation.gpa)?;
                for (name, _) in violation.access.iter_names() {
                    write!(f, " {name}")?;
                }
                if violation.page_walk {
                    f.write_str(" PAGE_WALK")?;
                }
                violation.gva.map_or(Ok(()), |gva| write!(f, ", linear address {gva:#x}"))
            }
            Self::Misconfiguration { gpa } => write!(f, "second-level page tables are malformed at {gpa}"),
            Self::TripleFault => f.write_str("triple fault"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::EntryFailure(failure) => failure.fmt(f),
            Self::ControlRegister { register, value } => {
                write!(f, "CR{register} = {value:#x} would leave long mode")
            }
            Self::Undecodable { rip, reason } => {
                write!(f, "the instruction at {rip:#x} cannot be read, exit reason {reason:#x}")
            }
            Self::Unknown { reason, info } => write!(f, "unexpected exit, reason {reason:#x}, info {info:#x}"),
        }
    }
}

/// Numbers in [`ExitRecord::reason`].
mod reason {
    pub(super) const IO: u32 = 1;
    pub(super) const HALT: u32 = 2;
    pub(super) const MEMORY_VIOLATION: u32 = 3;
    pub(super) const MISCONFIGURATION: u32 = 4;
    pub(super) const TRIPLE_FAULT: u32 = 5;
    pub(super) const INTERRUPTED: u32 = 6;
    pub(super) const ENTRY_FAILURE: u32 = 7;
    pub(super) const CONTROL_REGISTER: u32 = 8;
    pub(super) const UNDECODABLE: u32 = 9;
    pub(super) const UNKNOWN: u32 = 10;
}

/// Bits of [`ExitRecord::flags`] for an I/O exit: the data goes out.
const IO_OUT: u32 = 1 << 0;
/// Bits of [`ExitRecord::flags`] for an I/O exit: a string instruction.
const IO_STRING: u32 = 1 << 1;
/// Bit of [`ExitRecord::flags`] for a memory violation: [`MemoryViolation::page_walk`].
const PAGE_WALK: u32 = 1 << 3;
/// Bit of [`ExitRecord::flags`] for a memory violation: [`ExitRecord::value`] is the linear address.
const GVA_VALID: u32 = 1 << 31;

/// [`Exit`] with a fixed layout: 32 bytes, what is not used is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(32))]
pub struct ExitRecord {
    /// Which variant of [`Exit`], counted from 1 in the order of their declaration.
    pub reason: u32,
    /// I/O: bit 0 out, bit 1 string. Memory violation: [`Permissions`], bit 3 for a page walk, bit 31 if `value` is
    /// a linear address. Entry failure: [`EntryField`]. Control register: its number.
    pub flags: u32,
    /// I/O: the port. Memory violation, misconfiguration: guest-physical address. Undecodable: RIP. Unknown: the
    /// CPU's reason.
    pub address: u64,
    /// I/O: what was sent. Memory violation: linear address. Entry failure, control register: the value refused.
    /// Undecodable: the CPU's reason. Unknown: what the CPU adds.
    pub value: u64,
    /// I/O: width in bytes.
    pub size: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<ExitRecord>() == 32);
    assert!(offset_of!(ExitRecord, flags) == 4);
    assert!(offset_of!(ExitRecord, address) == 8);
    assert!(offset_of!(ExitRecord, value) == 16);
    assert!(offset_of!(ExitRecord, size) == 24);
};

impl From<Io> for ExitRecord {
    #[inline]
    fn from(io: Io) -> Self {
        let out = if io.direction == Direction::Out { IO_OUT } else { 0 };
        let string = if io.string { IO_STRING } else { 0 };
        Self {
            reason: reason::IO,
            flags: out | string,
            address: io.port.into(),
            value: io.value.into(),
            size: io.size.into(),
            reserved: 0,
        }
    }
}

impl From<Exit> for ExitRecord {
    fn from(exit: Exit) -> Self {
        let record = |reason, flags, address, value| Self { reason, flags, address, value, ..Self::default() };
        match exit {
            Exit::Io(io) => Self::from(io),
            Exit::Halt => record(reason::HALT, 0, 0, 0),
            Exit::MemoryViolation(MemoryViolation { gpa, access, page_walk, gva }) => {
                let valid = if gva.is_some() { GVA_VALID } else { 0 };
                let walk = if page_walk { PAGE_WALK } else { 0 };
                record(reason::MEMORY_VIOLATION, access.bits() | walk | valid, gpa.0, gva.unwrap_or(0))
            }
            Exit::Misconfiguration { gpa } => record(reason::MISCONFIGURATION, 0, gpa.0, 0),
            Exit::TripleFault => record(reason::TRIPLE_FAULT, 0, 0, 0),
            Exit::Interrupted => record(reason::INTERRUPTED, 0, 0, 0),
            Exit::EntryFailure(EntryFailure { field, value }) => record(reason::ENTRY_FAILURE, field as u32, 0, value),
            Exit::ControlRegister { register, value } => record(reason::CONTROL_REGISTER, register.into(), 0, value),
            Exit::Undecodable { rip, reason } => record(reason::UNDECODABLE, 0, rip, reason),
            Exit::Unknown { reason, info } => record(reason::UNKNOWN, 0, reason, info),
        }
    }
}

impl ExitRecord {
    /// The typed form, or `None` where the record is not one that [`From<Exit>`](Self::from) makes.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        if self.reason == reason::IO { self.io().map(Exit::Io) } else { self.other() }
    }

    /// Port and value of an `out` of 32 bits, if the record is one: what guests do most, without the detour through
    /// [`exit`](Self::exit).
    #[must_use]
    #[inline]
    pub fn out32(&self) -> Option<(u16, u32)> {
        let Self { reason, flags, address, value, size, reserved } = *self;
        let is_out = reason == reason::IO && flags == IO_OUT && size == 4 && reserved == 0;
        let (port, value) = (u16::try_from(address).ok()?, u32::try_from(value).ok()?);
        is_out.then_some((port, value))
    }

    fn io(&self) -> Option<Io> {
        let is_known = self.flags & !(IO_OUT | IO_STRING) == 0 && matches!(self.size, 1 | 2 | 4) && self.reserved == 0;
        if !is_known || self.address > u16::MAX.into() || self.value > u32::MAX.into() {
            return None;
        }
        Some(Io {
            port: self.address as u16,
            size: self.size as u8,
            direction: if self.flags & IO_OUT != 0 { Direction::Out } else { Direction::In },
            string: self.flags & IO_STRING != 0,
            value: self.value as u32,
        })
    }

    /// Every exit but [`Exit::Io`].
    fn other(&self) -> Option<Exit> {
        let exit = match self.reason {
            reason::HALT => Exit::Halt,
            reason::MEMORY_VIOLATION => Exit::MemoryViolation(MemoryViolation {
                gpa: Gpa(self.address),
                access: Permissions::from_bits(self.flags & !(PAGE_WALK | GVA_VALID))?,
                page_walk: self.flags & PAGE_WALK != 0,
                gva: (self.flags & GVA_VALID != 0).then_some(self.value),
            }),
            reason::MISCONFIGURATION => Exit::Misconfiguration { gpa: Gpa(self.address) },
            reason::TRIPLE_FAULT => Exit::TripleFault,
            reason::INTERRUPTED => Exit::Interrupted,
            reason::ENTRY_FAILURE => {
                Exit::EntryFailure(EntryFailure { field: EntryField::from_u32(self.flags)?, value: self.value })
            }
            reason::CONTROL_REGISTER => {
                Exit::ControlRegister { register: self.flags.try_into().ok()?, value: self.value }
            }
            reason::UNDECODABLE => Exit::Undecodable { rip: self.address, reason: self.value },
            reason::UNKNOWN => Exit::Unknown { reason: self.address, info: self.value },
            _ => return None,
        };
        (Self::from(exit) == *self).then_some(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind_of_exit() -> [Exit; 13] {
        let io = Io { port: 0x501, size: 4, direction: Direction::Out, string: false, value: 0x1000 };
        let violation = MemoryViolation { gpa: Gpa(0x4000), access: Permissions::WRITE, page_walk: true, gva: None };
        [
            Exit::Io(io),
            Exit::Io(Io { direction: Direction::In, size: 1, value: 0, ..io }),
            Exit::Io(Io { string: true, size: 2, value: 0, ..io }),
            Exit::Halt,
            Exit::MemoryViolation(violation),
            Exit::MemoryViolation(MemoryViolation { gva: Some(u64::MAX), ..violation }),
            Exit::Misconfiguration { gpa: Gpa(1) },
            Exit::TripleFault,
            Exit::Interrupted,
            Exit::EntryFailure(EntryFailure { field: EntryField::Efer, value: 0x500 }),
            Exit::ControlRegister { register: 4, value: 0 },
            Exit::Undecodable { rip: 5, reason: 6 },
            Exit::Unknown { reason: 7, info: 8 },
        ]
    }

    #[test]
    fn an_out_of_32_bits_is_told_apart() {
        for exit in every_kind_of_exit() {
            let is_out = matches!(exit, Exit::Io(Io { size: 4, direction: Direction::Out, string: false, .. }));
            let expected = if let Exit::Io(io) = exit { Some((io.port, io.value)).filter(|_| is_out) } else { None };
            assert_eq!(ExitRecord::from(exit).out32(), expected, "{exit}");
        }
        let out = ExitRecord::from(every_kind_of_exit()[0]);
        assert!(out.out32().is_some());
        for malformed in [
            ExitRecord { address: 1 << 16 | 0x501, ..out },
            ExitRecord { value: 1 << 32, ..out },
            ExitRecord { flags: 1 << 2 | out.flags, ..out },
            ExitRecord { size: 3, ..out },
            ExitRecord { reserved: 1, ..out },
        ] {
            assert_eq!((malformed.out32(), malformed.exit()), (None, None));
        }
    }

    #[test]
    fn records_round_trip() {
        for exit in every_kind_of_exit() {
            assert_eq!(ExitRecord::from(exit).exit(), Some(exit));
        }
    }

    #[test]
    fn records_that_no_kernel_writes_are_refused() {
        assert_eq!(ExitRecord::default().exit(), None);
        for exit in every_kind_of_exit() {
            let good = ExitRecord::from(exit);
            assert_eq!(ExitRecord { reason: good.reason + 100, ..good }.exit(), None);
            assert_eq!(ExitRecord { reserved: 1, ..good }.exit(), None);
            assert_eq!(ExitRecord { size: 3, ..good }.exit(), None);
            assert_eq!(ExitRecord { flags: good.flags | 1 << 30, ..good }.exit(), None);
        }
    }

    #[test]
    fn entry_fields_round_trip() {
        for number in 0..=26 {
            assert_eq!(EntryField::from_u32(number).map(|field| field as u32), Some(number));
        }
        assert_eq!(EntryField::from_u32(27), None);
    }
}
