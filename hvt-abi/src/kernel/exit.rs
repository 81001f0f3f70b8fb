//! Reasons for a virtual CPU to stop.
//!
//! [`Exit`] is the typed form for Rust code on either side of the interface. [`ExitRecord`] is the
//! same information in 32 bytes of fixed layout, for the page that a kernel shares with user space.
//! A reader must treat that page as untrusted input: [`ExitRecord::exit`] rejects every record that
//! it does not recognize.
//!
//! SDM is Intel's *Software Developer's Manual*. APM is AMD's *Architecture Programmer's Manual*,
//! volume 2.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Gpa, Permissions};

/// Reason for the guest to stop executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest accessed an I/O port. RIP points after the instruction. For an `in`, the monitor
    /// stores the result in RAX before it resumes the guest. A string instruction has transferred
    /// no data yet.
    Io(Io),
    /// The guest executed `hlt`. RIP points after the instruction.
    Halt,
    /// The guest accessed memory that is not mapped, or whose permissions forbid the access. RIP
    /// points to the instruction, which executes again when the guest resumes.
    MemoryViolation(MemoryViolation),
    /// An entry of the second-level page tables is malformed. This is an error of the kernel, not
    /// of the guest.
    Misconfiguration {
        /// Guest-physical address of the access.
        gpa: Gpa,
    },
    /// An exception could not be delivered, not even as a double fault. The vCPU has ended.
    TripleFault,
    /// An interrupt or the scheduler required the CPU. The guest may be resumed at any time and
    /// does not observe the exit.
    Interrupted,
    /// The guest's state violates an architectural rule. No instruction was executed. The vCPU has
    /// ended.
    EntryFailure(EntryFailure),
    /// In compatibility mode, the guest wrote a value to a control register that would leave long
    /// mode. The same write from 64-bit mode raises #GP. The vCPU has ended.
    ControlRegister {
        /// Number of the register: 0 or 4.
        register: u8,
        /// Value that the guest wrote.
        value: u64,
    },
    /// The instruction that caused the exit could not be read, or is not the expected instruction
    /// because its bytes have changed since. This occurs on SVM without decode assists. The vCPU
    /// has ended.
    Undecodable {
        /// Linear address of the instruction.
        rip: u64,
        /// Exit reason reported by the CPU.
        reason: u64,
    },
    /// An exit that this kernel does not expect, as reported by the CPU: VMX exit reason and
    /// qualification, or SVM EXITCODE and EXITINFO1. The vCPU has ended.
    Unknown {
        /// VMX exit reason or SVM EXITCODE.
        reason: u64,
        /// VMX exit qualification or SVM EXITINFO1.
        info: u64,
    },
}

impl Exit {
    /// Returns `true` if the virtual CPU can never run again.
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
    /// Port number.
    pub port: u16,
    /// Width of the access in bytes: 1, 2 or 4.
    pub size: u8,
    /// Direction of the transfer.
    pub direction: Direction,
    /// The instruction is `ins` or `outs`: the data is in memory, not in RAX.
    pub string: bool,
    /// Value of an `out`: RAX, truncated to `size` bytes. 0 for an `in` and for string
    /// instructions.
    pub value: u32,
}

/// Direction of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `in`: from the port to the guest.
    In,
    /// `out`: from the guest to the port.
    Out,
}

/// An access that the second-level page tables do not permit (EPT violation, SDM 29.3.3.2; nested
/// page fault, APM 15.25.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryViolation {
    /// Guest-physical address of the access.
    pub gpa: Gpa,
    /// Type of the access.
    pub access: Permissions,
    /// The access was a walk of the guest's own page tables on behalf of another access.
    pub page_walk: bool,
    /// Linear address of the access, if the CPU reports it.
    pub gva: Option<u64>,
}

/// A field of the guest's state that fails the checks of VM entry, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFailure {
    /// The invalid field.
    pub field: EntryField,
    /// Value of the field.
    pub value: u64,
}

macro_rules! entry_fields {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Fields of the guest's state that are checked before VM entry (SDM 27.3.1, APM 15.5.1).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum EntryField {
            $($(#[$doc])* $name = $number,)*
        }

        impl EntryField {
            /// Returns the field with the given number, or `None` if the number is unassigned.
            #[must_use]
            pub const fn from_u32(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Returns the name of the field in the manuals.
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
    /// The CPU found the error and does not report the field. The value is the exit reason of the
    /// CPU.
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
    /// CS. The value is the access rights.
    Cs = 11, "CS";
    /// SS. The value is the access rights.
    Ss = 12, "SS";
    /// DS. The value is the access rights.
    Ds = 13, "DS";
    /// ES. The value is the access rights.
    Es = 14, "ES";
    /// FS. The value is the access rights.
    Fs = 15, "FS";
    /// GS. The value is the access rights.
    Gs = 16, "GS";
    /// TR. The value is the access rights.
    Tr = 17, "TR";
    /// LDTR. The value is the access rights.
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
    /// A control field of the VMCS or VMCB, which is an error of the kernel. The value is the error
    /// number of the CPU.
    Control = 24, "control";
    /// A host-state field of the VMCS, which is an error of the kernel. The value is the error
    /// number of the CPU.
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

/// Values of [`ExitRecord::reason`].
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

/// Bit of [`ExitRecord::flags`] for an I/O exit: the access is an `out`.
const IO_OUT: u32 = 1 << 0;
/// Bit of [`ExitRecord::flags`] for an I/O exit: the instruction is a string instruction.
const IO_STRING: u32 = 1 << 1;
/// Bit of [`ExitRecord::flags`] for a memory violation: [`MemoryViolation::page_walk`].
const PAGE_WALK: u32 = 1 << 3;
/// Bit of [`ExitRecord::flags`] for a memory violation: [`ExitRecord::value`] holds the linear
/// address.
const GVA_VALID: u32 = 1 << 31;

/// [`Exit`] in a fixed layout of 32 bytes. Fields that the variant does not use are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(32))]
pub struct ExitRecord {
    /// Number of the [`Exit`] variant, counted from 1 in declaration order.
    pub reason: u32,
    /// I/O: bit 0 for `out`, bit 1 for a string instruction. Memory violation: [`Permissions`], bit
    /// 3 for a page walk, bit 31 if `value` holds a linear address. Entry failure: [`EntryField`].
    /// Control register: its number.
    pub flags: u32,
    /// I/O: port number. Memory violation and misconfiguration: guest-physical address.
    /// Undecodable: RIP. Unknown: exit reason of the CPU.
    pub address: u64,
    /// I/O: value of an `out`. Memory violation: linear address. Entry failure and control
    /// register: the invalid value. Undecodable: exit reason of the CPU. Unknown: exit
    /// qualification or EXITINFO1.
    pub value: u64,
    /// I/O: width of the access in bytes.
    pub size: u32,
    /// Reserved; 0.
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
    /// Returns the typed form, or `None` if [`From<Exit>`](Self::from) cannot produce this record.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        if self.reason == reason::IO { self.io().map(Exit::Io) } else { self.other() }
    }

    /// Returns port and value if the record is a 32-bit `out`. This is the most frequent exit of a
    /// guest, and the function avoids the cost of [`exit`](Self::exit).
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

    /// Decodes every exit except [`Exit::Io`].
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
    fn out32_returns_only_an_out_of_32_bits() {
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
