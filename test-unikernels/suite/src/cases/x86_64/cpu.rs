//! Privileged instructions: permitted instructions work, and others end in the guest's own report.

use crate::cases::{stopped, trap};
use crate::{Ability, Case, Console, End, Reason, When};

const fn works(name: &'static str, mode: &'static [&'static str]) -> Case {
    Case { name, guest: "cpu", arguments: mode, ..Case::ORDINARY }
}

const fn undefined(name: &'static str, mode: &'static [&'static str]) -> Case {
    trap(name, "cpu", mode, &["Solo5: trap: type=#UD ec=0x0 rip=0x1"])
}

const fn refused(name: &'static str, mode: &'static [&'static str]) -> Case {
    trap(name, "cpu", mode, &["Solo5: trap: type=#GP ec=0x0 rip=0x1"])
}

/// Creates a case in which an instruction that calls a hypervisor raises #UD, or the tender stops
/// the guest.
const fn intercepted(name: &'static str, mode: &'static [&'static str]) -> Case {
    let ends = &[End::Status(255), End::Stopped(Reason::Unsupported)];
    Case { when: When::Can(Ability::InterceptedHypervisorCalls), ..stopped(name, "cpu", mode, ends) }
}

/// Creates a case in which a call of the machine's hypervisor has no effect on the host: the guest
/// reports that the instruction had no effect, or reports an exception.
const fn forwarded(name: &'static str, mode: &'static [&'static str]) -> Case {
    Case {
        name,
        guest: "cpu",
        arguments: mode,
        when: When::Cannot(Ability::InterceptedHypervisorCalls),
        ends: &[End::Status(255), End::Status(1)],
        console: Console { exact: None, holds: &[], lacks: &["SUCCESS"] },
        ..Case::ORDINARY
    }
}

/// The cases. Section numbers refer to the Intel SDM, volume 3.
pub const CASES: &[Case] = &[
    // Operations that a Solo5 guest performs at the start, executed again.
    works("reload-segments", &["segments"]),
    works("reload-descriptor-tables", &["tables"]),
    works("interrupt-flag", &["interrupt-flag"]),
    works("segment-bases", &["segment-bases"]),
    works("swap-gs", &["swap-gs"]),
    works("harmless", &["harmless"]),
    works("entry-state", &["entry-state"]),
    works("flush-tlb", &["flush-tlb"]),
    works("cpuid", &["cpuid"]),
    Case { when: When::Can(Ability::AnsweredCpuid), ..works("cpuid-of-a-guest", &["cpuid-of-a-guest"]) },
    Case { name: "resume-after-exceptions", guest: "resume", ..Case::ORDINARY },
    Case { when: When::Can(Ability::AnsweredCpuid), ..works("msrs", &["msrs", "1"]) },
    // On the process backend, an exit is several times as expensive.
    Case { when: When::Cannot(Ability::AnsweredCpuid), ..works("msrs-of-a-process", &["msrs", "16"]) },
    intercepted("vmcall", &["vmcall"]),
    intercepted("vmmcall", &["vmmcall"]),
    forwarded("vmcall-forwarded", &["vmcall"]),
    forwarded("vmmcall-forwarded", &["vmmcall"]),
    // CPUID reports neither counters nor MONITOR. On AMD, KVM has a counter nevertheless (at least
    // up to Linux 6.1), which a guest cannot start.
    Case {
        name: "rdpmc",
        guest: "cpu",
        arguments: &["rdpmc"],
        ends: &[End::Status(255), End::Status(0)],
        console: Console { exact: None, holds: &[], lacks: &["FAILURE"] },
        ..Case::ORDINARY
    },
    undefined("monitor", &["monitor"]),
    undefined("mwait", &["mwait"]),
    // EFER.SCE is 0: 5.8.8.
    undefined("syscall", &["syscall"]),
    // CR4.VMXE is 0: 24.7. AMD CPUs have no such instruction.
    undefined("vmxon", &["vmxon"]),
    // EFER.SVME is 0: AMD APM volume 2, 15.4. Intel CPUs have no such instruction.
    undefined("vmrun", &["vmrun"]),
    // CR4.OSXSAVE is 0: 2.6. If the CPU executes CPUID directly, the host determines the bit, and
    // CR4 matches it.
    Case { when: When::Can(Ability::AnsweredCpuid), ..undefined("xsetbv", &["xsetbv"]) },
    works("xsave", &["xsave"]),
    works("cr4-features", &["cr4-features"]),
    // Volume 2, XSETBV.
    refused("xcr0-without-x87", &["xcr0-without-x87"]),
    refused("read-unknown-register", &["rdmsr", "0x12345"]),
    refused("write-unknown-register", &["wrmsr", "0x12345"]),
    // 4.1.2: paging, PAE and long mode can be disabled only in a certain order.
    refused("paging-off", &["cr0-clear", "0x80000000"]),
    refused("protection-off", &["cr0-clear", "0x1"]),
    refused("pae-off", &["cr4-clear", "0x20"]),
    refused("long-mode-off", &["efer-clear", "0x100"]),
    // 2.5: NW without CD, and a reserved bit.
    refused("cr0-not-write-through", &["cr0-set", "0x20000000"]),
    refused("cr4-reserved", &["cr4-set", "0x80000000"]),
    // 2.2.1.
    refused("efer-reserved", &["efer-set", "0x2"]),
    // Volume 2, WRMSR: the address is non-canonical.
    Case {
        when: When::Can(Ability::ExactExceptions),
        ..refused("segment-base-not-canonical", &["wrmsr", "0xc0000100"])
    },
    trap("segment-beyond-the-table", "cpu", &["load-data-segment", "0xfff8"], &["type=#GP ec=0xfff8 rip=0x1"]),
    trap("task-register-of-code", "cpu", &["load-task-register", "0x8"], &["type=#GP ec=0x8 rip=0x1"]),
    stopped("halt-the-cpu", "cpu", &["hlt"], &[End::Stopped(Reason::Halted)]),
    stopped("no-interrupt-table", "cpu", &["triple-fault"], &[End::Stopped(Reason::NoHandler)]),
    // A table of zeros maps nothing, not even the next instruction.
    stopped(
        "no-page-table",
        "cpu",
        &["no-page-table"],
        &[End::Stopped(Reason::NoHandler), End::Stopped(Reason::Unsupported)],
    ),
];
