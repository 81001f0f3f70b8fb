//! Guests that attack the process backend. In every case, the tender ends on a signal, at its
//! `--timeout`, or earlier.
//!
//! Each guest is a page of randomly generated machine code: stores to the exchange pages, jumps
//! into the stub, hypercalls with random arguments, random bytes. `HVT_HOSTILE_GUESTS` is the
//! number of guests (default: as many as take a few seconds), `HVT_HOSTILE_SEED` the number of the
//! first guest, `HVT_TENDER` another build of the tender. A guest depends only on its number, and a
//! failure reports the number.
#![cfg(target_arch = "x86_64")]
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "system calls that no library wraps"))]

use std::env;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hvt_tender::Script;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Address of the stub page in the child. The exchange pages follow it
/// (`backend/process/protocol.rs`).
const STUB: u64 = 0x2000_0000_0000;
const EXCHANGE: u64 = STUB + 0x1000;
/// Page of trampolines for hypercalls, below the guest's code (`backend/process/direct.rs`).
const TRAMPOLINES: u64 = 0xf_f000;
/// Address of the guest's code.
const CODE: u64 = 0x10_0000;
/// `FUTEX_OWNER_DIED`: the bit that the kernel sets when a child has died.
const OWNER_DIED: u64 = 0x4000_0000;

/// Maximum time from a signal or the end of `--timeout` to the end of the tender. It is far more
/// than the tender needs on a busy machine, and still finite.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Default number of guests.
const GUESTS: u64 = 150;

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of(&mut self, values: &[u64]) -> u64 {
        values[self.below(values.len() as u64) as usize]
    }

    /// Returns an address in the exchange pages, mostly in the header, which contains the words
    /// that the tender reads.
    fn exchange(&mut self) -> u64 {
        EXCHANGE
            + match self.below(8) {
                0..3 => 0,
                3..6 => self.below(0x40) * 4,
                6 => self.below(0x1000),
                _ => self.below(0x4000),
            }
    }

    /// Returns a value that is meaningful to tender, stub or kernel, or a random value.
    fn value(&mut self) -> u64 {
        const WORDS: [u64; 14] = [
            0,
            1,
            OWNER_DIED,
            OWNER_DIED | 0x8000_0000,
            0x8000_0000,
            0x2000_0000,
            0x2000_0001,
            0x0fff_ffff,
            0xffff_ffff,
            u64::MAX,
            1 << 63,
            // SIGSEGV, SIGSYS, SIGTRAP.
            11,
            31,
            5,
        ];
        match self.below(8) {
            0..4 => self.one_of(&WORDS),
            4 => EXCHANGE + self.below(0x4000),
            5 => STUB + self.below(0x400),
            6 => CODE + self.below(0x1000),
            _ => self.next(),
        }
    }
}

/// Machine code under construction (SDM volume 2).
struct Code(Vec<u8>);

impl Code {
    fn load(&mut self, register: u8, value: u64) {
        // mov r64, imm64
        self.0.extend([0x48 | register >> 3, 0xb8 | register & 7]);
        self.0.extend(value.to_le_bytes());
    }

    fn store(&mut self, random: &mut Random) {
        let (at, value) = (random.exchange(), random.value());
        self.load(0, value);
        // mov [moffs64], rax or eax
        if random.below(2) == 0 {
            self.0.push(0x48);
        }
        self.0.push(0xa3);
        self.0.extend(at.to_le_bytes());
    }

    /// Inverts one bit of the turn word.
    fn change_turn(&mut self, random: &mut Random) {
        self.load(7, EXCHANGE);
        // mov eax, [rdi]; xor eax, imm32; mov [rdi], eax
        self.0.extend([0x8b, 0x07, 0x35]);
        self.0.extend((1_u32 << random.below(32)).to_le_bytes());
        self.0.extend([0x89, 0x07]);
    }

    fn fill(&mut self, random: &mut Random) {
        let (at, value) = (random.exchange(), random.value());
        self.load(7, at);
        self.load(0, value);
        self.load(1, random.below(0x400));
        // rep stosq
        self.0.extend([0xf3, 0x48, 0xab]);
    }

    fn registers(&mut self, random: &mut Random) {
        // All registers except RSP.
        for register in (0..16).filter(|register| *register != 4) {
            if random.below(2) == 0 {
                let value = random.value();
                self.load(register, value);
            }
        }
    }

    fn jump_into_the_stub(&mut self, random: &mut Random) {
        self.registers(random);
        match random.below(4) {
            // A stack from which rt_sigreturn may read a frame.
            0 => self.load(4, EXCHANGE + random.below(0x4000)),
            // Registers as in the stub.
            1 => self.load(3, EXCHANGE),
            _ => {}
        }
        let target = match random.below(3) {
            0 => TRAMPOLINES + random.below(0x180),
            _ => STUB + random.below(0x500),
        };
        self.load(8, target);
        // jmp r8
        self.0.extend([0x41, 0xff, 0xe0]);
    }

    fn hypercall(&mut self, random: &mut Random) {
        // mov eax, imm32; mov edx, imm32; out dx, eax
        self.0.push(0xb8);
        let argument = match random.below(3) {
            0 => CODE + 0x1000 + random.below(0x1000),
            1 => random.value(),
            _ => random.below(0x40_0000),
        };
        self.0.extend((argument as u32).to_le_bytes());
        self.0.push(0xba);
        // Excludes `halt`, so that the following pieces run; includes a number without a hypercall.
        self.0.extend((0x501 + random.below(8) as u32).to_le_bytes());
        self.0.push(0xef);
    }

    fn privileged(&mut self, random: &mut Random) {
        const INSTRUCTIONS: [&[u8]; 10] = [
            b"\x0f\x0b",     // ud2
            b"\xcc",         // int3
            b"\x0f\x05",     // syscall
            b"\xcd\x80",     // int 0x80
            b"\x0f\x30",     // wrmsr
            b"\x0f\x22\xe0", // mov cr4, rax
            b"\x0f\x01\xd1", // xsetbv
            b"\x0f\x01\x1f", // lidt [rdi]
            b"\x0f\x01\x17", // lgdt [rdi]
            b"\x48\xcf",     // iretq
        ];
        self.registers(random);
        self.0.extend(INSTRUCTIONS[random.below(INSTRUCTIONS.len() as u64) as usize]);
    }

    fn piece(&mut self, random: &mut Random) {
        match random.below(16) {
            0..6 => self.store(random),
            6 | 7 => self.change_turn(random),
            8 => self.fill(random),
            9 | 10 => self.jump_into_the_stub(random),
            11 | 12 => self.hypercall(random),
            13 => self.privileged(random),
            _ => {
                for _ in 0..1 + random.below(16) {
                    let bytes = random.next().to_le_bytes();
                    self.0.extend(&bytes[..1 + random.below(8) as usize]);
                }
            }
        }
    }

    /// Returns a guest that, after its pieces, spins or repeats them.
    fn guest(random: &mut Random) -> Vec<u8> {
        let mut code = Self(Vec::new());
        for _ in 0..1 + random.below(8) {
            code.piece(random);
        }
        match random.below(3) {
            0 => code.0.extend([0xeb, 0xfe]),
            _ => code.again(),
        }
        code.0
    }

    /// Jumps to the first byte of the guest.
    fn again(&mut self) {
        // jmp rel32
        self.0.push(0xe9);
        let back = -(self.0.len() as i32 + 4);
        self.0.extend(back.to_le_bytes());
    }
}

/// Writes a unikernel with this code.
fn write(path: &Path, code: &[u8]) {
    // A unikernel with one page of text, which is replaced.
    let filler = (0..360).fold(Script::new(), |script, _| script.puts("x"));
    let mut file = filler.build();
    // The first program header describes the text: its file offset and its length (System V ABI,
    // chapter 5).
    let field = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let (start, address, len) = (field(64 + 8), field(64 + 16), field(64 + 32));
    assert_eq!(address as u64, CODE);
    assert!(code.len() <= len, "{} bytes of code", code.len());
    file[start..start + len].fill(0xf4);
    file[start..start + code.len()].copy_from_slice(code);
    fs::write(path, file).unwrap();
}

fn tender(guest: &Path, timeout: Option<Duration>) -> Child {
    let program = env::var_os("HVT_TENDER").unwrap_or_else(|| env!("CARGO_BIN_EXE_hvt-tender").into());
    let mut command = Command::new(program);
    command.args(["--mem=4", "--backend=process"]).env_remove("RUST_LOG");
    command.args(timeout.map(|timeout| format!("--timeout={}ms", timeout.as_millis())));
    command.arg(guest).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(tender: &Child, signal: Signal) {
    // The tender may have ended already, but it has not been reaped.
    kill(Pid::from_raw(tender.id().try_into().unwrap()), signal).unwrap();
}

/// Waits for the end of the tender, which must come in time. Returns its status and its messages.
fn end(mut tender: Child, what: &str) -> (ExitStatus, String) {
    // SAFETY: The call takes no pointers, and the descriptor is new.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, tender.id(), 0) };
    // SAFETY: As above.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd.try_into().unwrap()) };
    let deadline = Instant::now() + ENDS_WITHIN;
    let ended = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap()) {
            Ok(ready) => break ready == 1,
            Err(Errno::EINTR) => {}
            Err(errno) => panic!("{errno}"),
        }
    };
    if !ended {
        tender.kill().unwrap();
        tender.wait().unwrap();
        panic!("{what}: the tender did not end");
    }
    let mut said = String::new();
    tender.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (tender.wait().unwrap(), said)
}

/// Runs the guest with this number. Returns the time from the signal to the end.
fn attack(number: u64, folder: &Path) -> Duration {
    let mut random = Random(number);
    let code = Code::guest(&mut random);
    let path = folder.join(format!("guest-{number}"));
    write(&path, &code);
    let after = Duration::from_micros(random.below(60_000));
    let signal = match random.below(6) {
        0 => Some(Signal::SIGINT),
        1 => Some(Signal::SIGTERM),
        2 => Some(Signal::SIGHUP),
        _ => None,
    };
    let timeout = Duration::from_millis(1 + after.as_millis() as u64);
    let tender = tender(&path, signal.is_none().then_some(timeout));
    // The signal arrives at a random instant, hence in a random state of the tender.
    thread::sleep(after);
    if let Some(signal) = signal {
        send(&tender, signal);
    }
    let asked = Instant::now();
    let what = format!("guest {number}, {signal:?} after {after:?}, code {code:02x?}");
    let (status, said) = end(tender, &what);
    // The signal may arrive before the tender installs its handlers.
    let by_signal = status.signal().is_some_and(|number| Some(number) == signal.map(|signal| signal as i32));
    assert!(status.code().is_some() || by_signal, "{what}: {status}: {said}");
    assert!(!said.contains("panicked") && !said.contains("sandbox"), "{what}: {status}: {said}");
    fs::remove_file(path).unwrap();
    asked.elapsed()
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}: bad number '{value}'")))
}

#[test]
fn random_guests_end_when_they_are_asked_to() {
    let (guests, seed) = (number("HVT_HOSTILE_GUESTS", GUESTS), number("HVT_HOSTILE_SEED", 0));
    let folder = TempDir::new().unwrap();
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().unwrap().get();
    let slowest = thread::scope(|scope| {
        let work = || {
            let mut slowest = (Duration::ZERO, 0);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= guests {
                    return slowest;
                }
                let number = seed.wrapping_add(index);
                slowest = slowest.max((attack(number, folder.path()), number));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).max().unwrap()
    });
    println!("{guests} guests; the slowest end, of guest {}, took {:?}", slowest.1, slowest.0);
}

/// A living child writes the bit that the kernel sets for a dead child.
#[test]
fn a_guest_that_reports_its_own_death_is_ended() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("guest");
    // mov rdi, EXCHANGE; mov dword [rdi], OWNER_DIED; jmp to the store
    let mut code = Code(Vec::new());
    code.load(7, EXCHANGE);
    code.0.extend(*b"\xc7\x07\0\0\0\x40\xeb\xf8");
    write(&path, &code.0);

    let (status, said) = end(tender(&path, None), "alone");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("its process was killed: it reported its own death and stayed alive"), "{said}");
    // The time limit is much shorter than the tender's own check interval.
    let (status, said) = end(tender(&path, Some(Duration::from_millis(30))), "--timeout");
    assert_eq!(status.code(), Some(124), "{said}");
}
