//! Runs every case of the conformance table on every backend of this machine, through the command
//! line.
//!
//! Each pair of case and backend is a test with the name `BACKEND::CASE`. Environment variables:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `HVT_BACKENDS` | backends to test, separated by commas | `process`, and `kvm` if the CPU has VMX or SVM |
//! | `HVT_GUESTS` | directory of the test unikernels | the unikernels are built |
//! | `HVT_TENDER` | the tender's binary | the binary that cargo has built |
//! | `CI` | if set, a case that this user may not run fails | the case is marked as ignored |

#![expect(unsafe_code, reason = "system calls that no library wraps")]

mod disk;
mod link;
mod run;
mod tap;

use std::env;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use test_suite::{Ability, Case, SUITE, When};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let directory = match test_suite::guests::directory(env!("CARGO_BIN_EXE_hvt-elftool")) {
        Ok(directory) => directory,
        Err(why) => {
            eprintln!("test unikernels are not available: {why}");
            return ExitCode::FAILURE;
        }
    };
    let tender = env::var_os("HVT_TENDER").map_or_else(|| env!("CARGO_BIN_EXE_hvt-tender").into(), PathBuf::from);
    let mut trials = Vec::new();
    for backend in backends() {
        for case in SUITE.iter().filter(|case| applies(case, &backend)) {
            let name = format!("{backend}::{}", case.name);
            let ignored = link::missing_right(case).is_some() && env::var_os("CI").is_none();
            let run = run::Run { case, backend: backend.clone(), tender: tender.clone(), directory: directory.clone() };
            trials.push(Trial::test(name, move || Ok(run.check()?)).with_ignored_flag(ignored));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Returns the names of the backends to test.
fn backends() -> Vec<String> {
    if let Ok(names) = env::var("HVT_BACKENDS") {
        return names.split(',').map(str::to_owned).collect();
    }
    let mut backends = Vec::new();
    if cfg!(target_arch = "x86_64") {
        backends.push("process".to_owned());
    }
    if hvt_tender::machine::has_fast_kvm() {
        backends.push("kvm".to_owned());
    }
    backends
}

/// Returns `true` if the case applies to this backend on this machine.
fn applies(case: &Case, backend: &str) -> bool {
    match case.when {
        When::Always => true,
        When::Can(ability) => can(backend, ability),
        When::Cannot(ability) => !can(backend, ability),
    }
}

fn can(backend: &str, ability: Ability) -> bool {
    match ability {
        // Linux implements PROT_EXEC alone as execute-only memory with protection keys. KVM maps
        // guest memory through the guest's page tables, which have no protection keys.
        Ability::ExecuteOnly => backend == "process" && has_protection_keys(),
        Ability::FourGib => available_memory() > 5 << 30,
        Ability::ExactExceptions => !is_emulated(),
        // A guest of the process backend executes CPUID directly on the CPU.
        Ability::AnsweredCpuid => backend == "kvm",
        Ability::InterceptedHypervisorCalls => backend == "kvm" && intercepts_hypervisor_calls(),
    }
}

/// Returns `true` if KVM can intercept `vmcall`, as it does for Xen guests (`KVM_CAP_XEN_HVM`).
fn intercepts_hypervisor_calls() -> bool {
    // Linux, include/uapi/linux/kvm.h.
    const KVM_CHECK_EXTENSION: libc::Ioctl = libc::_IO(0xae, 0x03);
    const KVM_CAP_XEN_HVM: libc::c_ulong = 38;
    const INTERCEPT_HCALL: libc::c_int = 1 << 1;
    let Ok(kvm) = std::fs::File::open("/dev/kvm") else { return false };
    // SAFETY: The request takes a number and writes nothing.
    let offered = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CHECK_EXTENSION, KVM_CAP_XEN_HVM) };
    offered > 0 && offered & INTERCEPT_HCALL != 0
}

/// Returns CR4.PKE from CPUID: leaf 7, ECX bit 4, OSPKE.
#[cfg(target_arch = "x86_64")]
fn has_protection_keys() -> bool {
    std::arch::x86_64::__cpuid_count(7, 0).ecx & 1 << 4 != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn has_protection_keys() -> bool {
    false
}

/// Returns `true` if QEMU emulates this machine (TCG), according to the hypervisor leaf of CPUID.
#[cfg(target_arch = "x86_64")]
fn is_emulated() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat();
    name == b"TCGTCGTCGTCG"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_emulated() -> bool {
    false
}

/// Returns `MemAvailable` of this machine in bytes, or 0 if it cannot be read.
fn available_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
