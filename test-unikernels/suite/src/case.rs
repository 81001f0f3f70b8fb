//! Types of the conformance table.

use crate::{Contents, Exchange};

/// A guest, its input, and the expected results.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Unique name of the case.
    pub name: &'static str,
    /// Name of the guest's binary.
    pub guest: &'static str,
    /// Arguments of the guest. The tender joins them with single spaces.
    pub arguments: &'static [&'static str],
    /// Guest memory in MiB.
    pub memory: u32,
    /// Architecture of the case, or `None` if the case does not depend on the CPU.
    pub architecture: Option<Architecture>,
    /// Devices to attach: all devices in the guest's manifest.
    pub devices: &'static [Device],
    /// Condition for the case.
    pub when: When,
    /// Permitted ends. The run must end in one of them.
    pub ends: &'static [End],
    /// Expected console output at the end.
    pub console: Console,
}

impl Case {
    /// Default case: no arguments, no devices, 32 MiB, prints SUCCESS and exits with 0.
    pub const ORDINARY: Self = Self {
        name: "",
        guest: "",
        arguments: &[],
        memory: 32,
        architecture: None,
        devices: &[],
        when: When::Always,
        ends: &[End::Status(0)],
        console: Console::SUCCESS,
    };
}

/// CPU architecture of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86_64.
    X86_64,
    /// aarch64.
    Aarch64,
}

impl Architecture {
    /// Architecture of this program, and thus of the tenders and kernels that it tests.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };
}

/// End of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest exits. The value is the tender's exit status.
    Status(u8),
    /// The tender stops the guest with an error. The tender's exit status is 1.
    Stopped(Reason),
    /// The guest does not end by itself. The runner waits for the expected console output and then
    /// terminates the tender, which must end immediately with all its processes.
    Never,
}

/// Reason of a tender for stopping a guest. The tender's message contains the item in parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A hypercall named memory that does not exist or forbids the access (the address).
    Pointer,
    /// The hypercall number is unassigned (the number).
    Hypercall,
    /// The guest accessed an I/O port in a way that is not a hypercall (the port).
    Port,
    /// The guest accessed device memory in a way that is not a hypercall (the address).
    Device,
    /// The guest kicked a network ring that it was not offered (the ring).
    RingKick,
    /// The guest halted the CPU (`hlt`), and no interrupt can wake it.
    Halted,
    /// The guest raised an exception without a usable handler.
    NoHandler,
    /// The guest made a memory access that the second-level translation forbids (the address, if
    /// known).
    Memory,
    /// The guest executed an instruction that the CPU supports and this backend does not (the
    /// instruction).
    Unsupported,
}

/// Expected console output at the end, compared byte by byte.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Complete output.
    pub exact: Option<&'static [u8]>,
    /// Texts that the output must contain.
    pub holds: &'static [&'static str],
    /// Texts that the output must not contain.
    pub lacks: &'static [&'static str],
}

impl Console {
    /// Output of a successful guest.
    pub const SUCCESS: Self = Self::holds(&["SUCCESS\n"]);

    /// Output that contains these texts.
    #[must_use]
    pub const fn holds(texts: &'static [&'static str]) -> Self {
        Self { exact: None, holds: texts, lacks: &[] }
    }

    /// Output that contains these texts and neither SUCCESS nor FAILURE: the guest was stopped
    /// earlier.
    #[must_use]
    pub const fn cut_short(texts: &'static [&'static str]) -> Self {
        Self { exact: None, holds: texts, lacks: &["SUCCESS", "FAILURE"] }
    }

    /// Output that equals these bytes.
    #[must_use]
    pub const fn exact(bytes: &'static [u8]) -> Self {
        Self { exact: Some(bytes), holds: &[], lacks: &[] }
    }

    /// Returns the first difference between `console` and the expected output, or `None`.
    #[must_use]
    pub fn complaint(&self, console: &[u8]) -> Option<Complaint> {
        let shows = |text: &str| text.is_empty() || console.windows(text.len()).any(|window| window == text.as_bytes());
        if self.exact.is_some_and(|exact| exact != console) {
            return Some(Complaint::Differs);
        }
        let missing = self.holds.iter().find(|text| !shows(text)).map(|text| Complaint::Lacks(text));
        missing.or_else(|| self.lacks.iter().find(|text| shows(text)).map(|text| Complaint::Holds(text)))
    }
}

/// Difference between a console and the expected output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The output does not equal [`Console::exact`].
    Differs,
    /// The output lacks one of [`Console::holds`].
    Lacks(&'static str),
    /// The output contains one of [`Console::lacks`].
    Holds(&'static str),
}

/// Condition for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The case always applies.
    Always,
    /// The case applies if backend and machine have this ability.
    Can(Ability),
    /// The case applies if backend and machine lack this ability.
    Cannot(Ability),
}

/// Ability that some backends on some machines lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Execute-only memory.
    ExecuteOnly,
    /// 4 GiB of guest memory, the maximum.
    FourGib,
    /// Exceptions exactly as in the vendors' manuals. QEMU 7.2 emulating x86 (TCG) raises no #XM,
    /// raises #GP instead of #SS, stores twice the vector in the error code of an `int` beyond the
    /// table, and accepts non-canonical bases.
    ExactExceptions,
    /// CPUID emulated by the tender or its kernel. Otherwise the CPU executes CPUID directly.
    AnsweredCpuid,
    /// `vmcall` and `vmmcall` reach no hypervisor. On the process backend they reach the machine's
    /// hypervisor, if there is one. On KVM without `CONFIG_KVM_XEN` they reach KVM.
    InterceptedHypervisorCalls,
}

/// A device to attach.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Name of the device in the manifest.
    pub name: &'static str,
    /// Type of the device.
    pub kind: DeviceKind,
}

/// Type of a device.
#[derive(Clone, Copy, Debug)]
pub enum DeviceKind {
    /// A block device.
    Block(Disk),
    /// A network device.
    Net(Link),
}

/// A block device.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Size in bytes.
    pub capacity: u64,
    /// Block size in bytes.
    pub block_size: u16,
    /// Contents at the start.
    pub before: Contents,
    /// Expected contents at the end.
    pub after: Contents,
}

/// A network device, and the behaviour of its peer.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// MAC address of the guest.
    pub mac: [u8; 6],
    /// MTU: largest payload of a frame in bytes, excluding the Ethernet header.
    pub mtu: u16,
    /// Exchanges of the peer, in order. Other frames are ignored, because the kernel of a host
    /// also sends frames on a tap.
    pub exchanges: &'static [Exchange],
}
