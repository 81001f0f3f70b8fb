//! What a case is made of.

use crate::{Contents, Exchange};

/// A guest, what it is given, and what must come of it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name of the case, unique.
    pub name: &'static str,
    /// Name of the binary.
    pub guest: &'static str,
    /// Its arguments, which the tender joins with single spaces.
    pub arguments: &'static [&'static str],
    /// Guest memory in MiB.
    pub memory: u32,
    /// The one architecture that it is about; `None` where it is about no CPU.
    pub architecture: Option<Architecture>,
    /// Devices to attach; those that the guest's manifest names, all of them.
    pub devices: &'static [Device],
    /// Where the case applies.
    pub when: When,
    /// How it must end: in one of these ways.
    pub ends: &'static [End],
    /// What its console must have shown by then.
    pub console: Console,
}

impl Case {
    /// The ordinary case: no arguments, no devices, 32 MiB, says SUCCESS and exits with 0.
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

/// What a guest is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86_64.
    X86_64,
    /// aarch64.
    Aarch64,
}

impl Architecture {
    /// That of this program, and so of the tenders and kernels that it tests.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest ends itself, and this is the tender's exit status.
    Status(u8),
    /// The tender stops the guest with an error; its exit status is 1.
    Stopped(Reason),
    /// Not by itself: the runner waits for what the console must show, then ends it, and the tender with all that
    /// belongs to it is gone at once.
    Never,
}

/// Why a tender stops a guest. Its message names what stands in brackets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A hypercall named memory that the guest does not have, or may not access that way (the address).
    Pointer,
    /// There is no hypercall of that number (the number).
    Hypercall,
    /// It used an I/O port in a way that is no hypercall (the port).
    Port,
    /// It used device memory in a way that is no hypercall (its address).
    Device,
    /// It kicked a network ring that it was not offered (the ring).
    RingKick,
    /// It halted the CPU (`hlt`), and nothing will ever wake it.
    Halted,
    /// It raised an exception, and has no handler that the CPU could get to.
    NoHandler,
    /// It accessed memory in a way that the machine below its page tables forbids (the address, where known).
    Memory,
    /// It did what the CPU can do, but this backend does not (the instruction).
    Unsupported,
}

/// What the console must have shown at the end, byte for byte.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// All of it.
    pub exact: Option<&'static [u8]>,
    /// Texts that are in it.
    pub holds: &'static [&'static str],
    /// Texts that are not.
    pub lacks: &'static [&'static str],
}

impl Console {
    /// A guest that is content.
    pub const SUCCESS: Self = Self::holds(&["SUCCESS\n"]);

    /// These texts are in it.
    #[must_use]
    pub const fn holds(texts: &'static [&'static str]) -> Self {
        Self { exact: None, holds: texts, lacks: &[] }
    }

    /// These are in it, and no word of success or failure: the guest did not get so far.
    #[must_use]
    pub const fn cut_short(texts: &'static [&'static str]) -> Self {
        Self { exact: None, holds: texts, lacks: &["SUCCESS", "FAILURE"] }
    }

    /// It is this.
    #[must_use]
    pub const fn exact(bytes: &'static [u8]) -> Self {
        Self { exact: Some(bytes), holds: &[], lacks: &[] }
    }

    /// What is wrong with `console`, or `None` where nothing is.
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

/// How a console differs from what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// It is not [`Console::exact`].
    Differs,
    /// It lacks one of [`Console::holds`].
    Lacks(&'static str),
    /// It holds one of [`Console::lacks`].
    Holds(&'static str),
}

/// Where a case applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Everywhere.
    Always,
    /// Where backend and machine can do this.
    Can(Ability),
    /// Where they cannot.
    Cannot(Ability),
}

/// What not every backend on every machine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Memory that can be executed, but not read.
    ExecuteOnly,
    /// 4 GiB of guest memory, which is as much as there can be.
    FourGib,
    /// Exceptions exactly as the vendors' manuals have them. QEMU 7.2 emulating x86 (TCG) raises no #XM, has #GP for
    /// #SS, has twice the vector in the error code of an `int` beyond the table, and takes bases that are not
    /// canonical.
    ExactExceptions,
    /// CPUID answered by the tender or its kernel. Elsewhere it is the CPU itself that answers.
    AnsweredCpuid,
    /// `vmcall` and `vmmcall` reach no hypervisor. On the process backend they reach the machine's own, if it has one,
    /// and on KVM without `CONFIG_KVM_XEN` they reach KVM.
    InterceptedHypervisorCalls,
}

/// A device to attach.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its name in the manifest.
    pub name: &'static str,
    /// What it is.
    pub kind: DeviceKind,
}

/// What a device is.
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
    /// Bytes of a block.
    pub block_size: u16,
    /// What stands on it at the start.
    pub before: Contents,
    /// What stands on it at the end.
    pub after: Contents,
}

/// A network device, and what happens at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Hardware address of the guest.
    pub mac: [u8; 6],
    /// Largest payload of a frame in bytes, the Ethernet header not counted.
    pub mtu: u16,
    /// What the peer does, one after the other. Frames that are no part of it are nobody's business: a host's kernel
    /// has much to say on a tap.
    pub exchanges: &'static [Exchange],
}
