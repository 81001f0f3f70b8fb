//! Tests of a hijacked tender: a tender that makes a forbidden system call while its guest runs is
//! killed.
//!
//! The hijacked tender is a second process of this program. A device in this program makes the call
//! when the guest's loop calls the device.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use hvt_tender::BackendChoice;
use hvt_tender::Debugger;
use hvt_tender::Limits;
use hvt_tender::Unikernel;
use hvt_tender::device::{CapturedOutput, Console, Descriptor, Uses};
use hvt_tender::memory::GuestSlice;
use hvt_tender::sandbox::{Sandbox, explain};

/// Environment variable with the call that the hijacked tender makes.
const CALL: &str = "HVT_TEST_FORBIDDEN_CALL";
/// Environment variable with the backend of the hijacked tender.
const BACKEND: &str = "HVT_TEST_BACKEND";
/// Environment variable that is set for a tender with a debugger, which lets the guest run.
const DEBUGGED: &str = "HVT_TEST_DEBUGGED";

/// Text that the hijacked tender prints if it survives the call.
const SURVIVED: &str = "the call has been made";

/// A console that makes a system call as soon as the guest prints.
struct Hijacked {
    call: String,
    file: File,
    /// Descriptor of the vCPU, or -1 if there is none.
    vcpu: AtomicI32,
}

impl Console for Hijacked {
    fn write(&mut self, _: GuestSlice<'_>) {
        let null = std::ptr::null_mut::<libc::c_void>();
        let (file, vcpu) = (self.file.as_raw_fd(), self.vcpu.load(Ordering::Relaxed));
        // SAFETY: The effects of these calls are confined to this process, which exists for no
        // other purpose. Every pointer argument is null or points to the end of a string.
        unsafe {
            match self.call.as_str() {
                "none" => {}
                "socket" => _ = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0),
                "execve" => _ = libc::execve(c"/bin/true".as_ptr(), [null.cast_const().cast()].as_ptr(), null.cast()),
                "openat" => _ = libc::openat(libc::AT_FDCWD, c"/etc/passwd".as_ptr(), libc::O_RDONLY),
                "ptrace" => _ = libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, null, null),
                "ioctl" => _ = libc::ioctl(libc::STDOUT_FILENO, libc::TIOCSTI, c"x".as_ptr()),
                "clone" => _ = libc::syscall(libc::SYS_clone, libc::SIGCHLD, null, null, null, null),
                "kill" => _ = libc::kill(libc::getppid(), 0),
                "setuid" => _ = libc::syscall(libc::SYS_setuid, 0),
                "bpf" => _ = libc::syscall(libc::SYS_bpf, 0, null, 0),
                "io_uring_setup" => _ = libc::syscall(libc::SYS_io_uring_setup, 1, null),
                "userfaultfd" => _ = libc::syscall(libc::SYS_userfaultfd, 0),
                // Allowed calls with forbidden arguments.
                "mmap" => {
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    _ = libc::mmap(null, 4096, libc::PROT_READ | libc::PROT_EXEC, flags, -1, 0);
                }
                "mprotect" => _ = libc::mprotect(null, 4096, libc::PROT_EXEC),
                "write" => _ = libc::write(libc::STDIN_FILENO, c"x".as_ptr().cast(), 1),
                "pwrite64" => _ = libc::pwrite(file, c"x".as_ptr().cast(), 1, 0),
                "futex" => _ = libc::syscall(libc::SYS_futex, null, libc::FUTEX_LOCK_PI, 0, null, null, 0),
                "tgkill" => _ = libc::syscall(libc::SYS_tgkill, 1, 1, 0),
                "recvfrom" => _ = libc::recv(file, null, 0, 0),
                "pidfd_send_signal" => _ = libc::syscall(libc::SYS_pidfd_send_signal, 3, libc::SIGTRAP, null, 0),
                // Requests allowed on the vCPU, made on the vCPU and on another descriptor.
                "read registers" => assert_eq!(kvm::read_registers(vcpu), 0),
                "write registers" => _ = libc::ioctl(vcpu, kvm::WRITE_REGISTERS, null),
                "KVM_SET_MSRS" => _ = libc::ioctl(vcpu, KVM_SET_MSRS, null),
                other => panic!("no call {other}"),
            }
        }
        // Descriptors that were opened in advance stay usable.
        let text = SURVIVED.as_bytes();
        // SAFETY: The pointer and length describe the text.
        assert_eq!(unsafe { libc::pread(file, [0_u8; 1].as_mut_ptr().cast(), 1, 0) }, 1);
        // SAFETY: As above.
        assert_eq!(unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) }, text.len() as isize);
    }

    /// Called after everything except the system call filter is set up.
    fn descriptors(&self) -> Vec<Descriptor> {
        let is_vcpu = |number: &i32| {
            let target = fs::read_link(format!("/proc/self/fd/{number}"));
            target.is_ok_and(|target| target.to_string_lossy().contains("kvm-vcpu"))
        };
        self.vcpu.store((3..100).find(is_vcpu).unwrap_or(-1), Ordering::Relaxed);
        vec![Descriptor::new(&self.file, Uses::READ_AT)]
    }
}

/// A vCPU request that the tender never makes.
const KVM_SET_MSRS: libc::Ioctl = 0x4008_ae89;

/// vCPU requests (`include/uapi/linux/kvm.h`). The tender makes the requests that read registers
/// for its reports.
#[cfg(target_arch = "x86_64")]
mod kvm {
    const KVM_GET_REGS: libc::Ioctl = 0x8090_ae81;
    /// `KVM_SET_REGS`.
    pub(crate) const WRITE_REGISTERS: libc::Ioctl = 0x4090_ae82;

    pub(crate) fn read_registers(vcpu: i32) -> i32 {
        // SAFETY: The structure has this size.
        unsafe { libc::ioctl(vcpu, KVM_GET_REGS, [0_u64; 18].as_mut_ptr()) }
    }
}

#[cfg(target_arch = "aarch64")]
mod kvm {
    const KVM_GET_ONE_REG: libc::Ioctl = 0x4010_aeab;
    /// `KVM_SET_ONE_REG`.
    pub(crate) const WRITE_REGISTERS: libc::Ioctl = 0x4010_aeac;

    pub(crate) fn read_registers(vcpu: i32) -> i32 {
        let mut value = 0_u64;
        // X0.
        let register = [0x6030_0000_0010_0000, (&raw mut value).expose_provenance() as u64];
        // SAFETY: The structure names a 64-bit register and the address of its destination.
        unsafe { libc::ioctl(vcpu, KVM_GET_ONE_REG, register.as_ptr()) }
    }
}

fn guests() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| test_suite::guests::directory(env!("CARGO_BIN_EXE_hvt-elftool")).expect("test unikernels"))
}

/// The hijacked tender. It is not a test by itself; the tests below start it.
#[test]
fn hijacked_tender() {
    let Ok(call) = env::var(CALL) else { return };
    explain("hijacked").unwrap();
    let backend = BackendChoice::from_name(&env::var(BACKEND).unwrap()).unwrap();
    let path = guests().join("hello");
    let file = File::open(&path).unwrap();
    let console = Hijacked { call, file, vcpu: AtomicI32::new(-1) };
    let mut unikernel = Unikernel::load(path).unwrap().mem(16 << 20).backend(backend).console(console);
    if env::var_os(DEBUGGED).is_some() {
        let debugger = Debugger::listen("127.0.0.1:0").unwrap();
        let address = debugger.address().unwrap();
        thread::spawn(move || debug(address));
        unikernel = unikernel.debugger(debugger);
    }
    let outcome = unikernel.sandbox(Sandbox::new()).run();
    // The test harness cannot be used: this thread can no longer reach its threads and streams.
    let status = if outcome.is_ok() { 0 } else { 1 };
    // SAFETY: The call terminates the process.
    unsafe { libc::_exit(status) };
}

/// A debugger that lets the guest run and reads until the end.
fn debug(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"$c#63").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

fn hijacked(call: &str, backend: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "hijacked_tender", "--nocapture", "--test-threads=1"]);
    command.env(CALL, call).env(BACKEND, backend).env("HVT_GUESTS", guests());
    command
}

fn run_hijacked(call: &str, backend: &str) -> Output {
    hijacked(call, backend).output().unwrap()
}

/// Variant of `run_hijacked` with a debugger connected.
fn run_debugged(call: &str, backend: &str) -> Output {
    hijacked(call, backend).env(DEBUGGED, "yes").output().unwrap()
}

/// Returns the backends to test: the backends in `HVT_BACKENDS`, separated by commas, or the
/// backends of this machine.
fn backends() -> Vec<String> {
    if let Ok(names) = env::var("HVT_BACKENDS") {
        return names.split(',').map(str::to_owned).collect();
    }
    let kvm = hvt_tender::machine::has_fast_kvm().then_some("kvm");
    let process = cfg!(target_arch = "x86_64").then_some("process");
    process.into_iter().chain(kvm).map(str::to_owned).collect()
}

#[track_caller]
fn assert_killed(output: &Output, call: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{call}: {}: {said}", output.status);
    let words = format!("hijacked: stopped by its sandbox: system call {call} (number ");
    assert!(said.contains(&words) && !said.contains(SURVIVED), "{call}: {said}");
}

/// Control test: a tender that makes no forbidden call survives.
#[test]
fn a_tender_that_is_not_hijacked_lives() {
    for backend in backends() {
        let output = run_hijacked("none", &backend);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(SURVIVED), "{backend}: {}: {said}", output.status);
    }
}

#[test]
fn a_hijacked_tender_dies_of_a_call_that_it_has_no_business_with() {
    const CALLS: [&str; 11] = [
        "socket",
        "execve",
        "openat",
        "ptrace",
        "ioctl",
        "clone",
        "setuid",
        "bpf",
        "io_uring_setup",
        "userfaultfd",
        "kill",
    ];
    for backend in backends() {
        for call in CALLS {
            // `kill` first queries the process ID, with a call that is also forbidden.
            let name = if call == "kill" { "getppid" } else { call };
            assert_killed(&run_hijacked(call, &backend), name);
        }
    }
}

#[test]
fn a_hijacked_tender_dies_of_arguments_that_it_has_no_business_with() {
    for backend in backends() {
        for call in ["mmap", "mprotect", "write", "pwrite64", "futex", "tgkill"] {
            assert_killed(&run_hijacked(call, &backend), call);
        }
    }
}

#[test]
fn a_hijacked_tender_can_make_its_own_requests_of_a_vcpu_and_no_others() {
    if !backends().iter().any(|backend| backend == "kvm") {
        eprintln!("KVM is not available: use scripts/nested");
        return;
    }
    let output = run_hijacked("read registers", "kvm");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_killed(&run_hijacked("write registers", "kvm"), "ioctl");
}

/// A tender with a debugger additionally has the connection and, on KVM, the requests that set
/// registers of the vCPU.
#[test]
fn a_hijacked_tender_with_a_debugger_dies_too() {
    for backend in backends() {
        let output = run_debugged("none", &backend);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(SURVIVED), "{backend}: {}: {said}", output.status);
        for call in ["socket", "execve", "openat", "ptrace", "clone", "recvfrom", "mmap", "write", "pidfd_send_signal"]
        {
            assert_killed(&run_debugged(call, &backend), call);
        }
        if backend == "kvm" {
            let output = run_debugged("write registers", &backend);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_killed(&run_debugged("KVM_SET_MSRS", &backend), "ioctl");
        }
    }
}

/// A guest on a separate thread confines that thread. The threads of its user keep their
/// privileges.
#[test]
fn only_the_threads_of_the_guest_are_confined() {
    let limits = Limits::new().wall_time(Duration::from_secs(100)).cpu_time(Duration::from_secs(100));
    for backend in backends() {
        let choice = BackendChoice::from_name(&backend).unwrap();
        let console = CapturedOutput::new();
        let guest =
            Unikernel::load(guests().join("hello")).unwrap().mem(16 << 20).backend(choice).limits(limits.clone());
        let guest = guest.console(console.clone()).sandbox(Sandbox::new()).spawn().unwrap();
        let output = guest.wait().unwrap();
        assert_eq!(output.status(), Some(0), "{backend}: {:?}", output.outcome);
        assert!(console.bytes().ends_with(b"SUCCESS\n"));
        assert!(fs::read("/etc/passwd").is_ok());
    }
}

/// The thread that monitors the limits is confined as well.
#[test]
fn limits_work_in_a_sandbox() {
    let limits = Limits::new().wall_time(Duration::from_millis(20));
    for backend in backends() {
        let choice = BackendChoice::from_name(&backend).unwrap();
        let guest = Unikernel::load(guests().join("spin")).unwrap().mem(16 << 20).backend(choice);
        let output = guest.limits(limits.clone()).sandbox(Sandbox::new()).spawn().unwrap().wait().unwrap();
        let expected = hvt_tender::Outcome::Exceeded(hvt_tender::Limit::WallTime);
        assert_eq!(output.outcome, expected, "{backend}");
    }
}
