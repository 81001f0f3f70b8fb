//! Checks beyond a single guest: concurrent guests, endless guests, and processes that die.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use hvt_core::{
    device::{
        Slot,
        in_memory::{Wire, WireNet},
    },
    kernel::Interrupter,
    monitor::Outcome,
};
use hvt_harness::{
    pack::Pack,
    suite::{Wires, run_case},
    tally::Tally,
};
use spin::Mutex;

use crate::{
    clock,
    guests::Usage,
    hostile,
    hypervisor::{self, Kernel},
    println,
    suite::{LIMIT, Runner},
    sys,
    thread::{Context, Kind},
    unikernel::{Setup, Unikernel},
    watch,
};

/// Archive with unikernels, shared by all threads.
type Archive = &'static Pack<'static>;

/// Guest memory in bytes.
const MEMORY: u64 = 8 << 20;
/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;

/// Runs every check.
pub(crate) fn run(runner: &mut Runner, pack: Archive, tally: &mut Tally) {
    tally.add_result("check", "four guests at once", leaves_nothing(runner, |_| four_at_once(pack)));
    tally.add_result("check", "two guests on one wire", leaves_nothing(runner, |_| two_on_a_wire(pack)));
    tally.add_result("check", "an endless guest", leaves_nothing(runner, |runner| endless(runner, pack)));
    tally.add_result(
        "check",
        "an interrupt before the guest",
        leaves_nothing(runner, |runner| interrupted_before(runner, pack)),
    );
    tally.add_result("check", "a process that dies", leaves_nothing(runner, |runner| process_dies(runner, pack)));
    tally.add_result(
        "check",
        "memory that goes away under a guest",
        leaves_nothing(runner, |runner| memory_goes(runner, pack)),
    );
    tally.add_result(
        "check",
        "the caller's registers",
        leaves_nothing(runner, |_| watch::registers_are_left_alone(pack)),
    );
    hostile::run(runner, tally);
}

/// Results of threads, by name.
type Answers = Arc<Mutex<Vec<(&'static str, Result<(), String>)>>>;

/// Four cases of the conformance table run several times, each in its own thread. Each must have
/// the same result as alone.
fn four_at_once(pack: Archive) -> Result<(), String> {
    const CASES: [&str; 4] = ["hello-in-2-mib", "fpu", "output", "block-512"];
    const ROUNDS: u32 = 3;
    let answers = Answers::default();
    let ready = Arc::new(AtomicU32::new(0));
    let mut threads = Vec::new();
    for name in CASES {
        let (answers, ready) = (answers.clone(), ready.clone());
        let work = move || {
            let all = || -> Result<(), String> {
                let mut runner = Runner::new()?;
                let mut silent = Tally::new(|_| ());
                (0..ROUNDS).try_for_each(|_| run_case(&mut runner, name, pack, &mut silent))
            };
            ready.fetch_add(1, SeqCst);
            while ready.load(SeqCst) < CASES.len() as u32 {
                sys::yield_now();
            }
            let answer = all();
            answers.lock().push((name, answer));
        };
        threads.push(Context::spawn(Kind::Thread, 0, work).map_err(|errno| format!("no thread: {errno}"))?);
    }
    for thread in threads {
        thread.join().map_err(|errno| format!("cannot wait for a thread: {errno}"))?;
    }
    for (name, answer) in core::mem::take(&mut *answers.lock()) {
        answer.map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// Two guests at the two ends of one wire ping each other, each in its own thread. Every echo must
/// be answered. A guest that has its replies continues until the other has been silent for a while.
fn two_on_a_wire(pack: Archive) -> Result<(), String> {
    const ECHOS: u32 = 20;
    let guests = [("10.0.0.2", "10.0.0.3", 2), ("10.0.0.3", "10.0.0.2", 3)];
    let file = pack.suite("ping")?;
    let (left, right) = Wire::pair();
    let answers = Answers::default();
    let mut threads = Vec::new();
    for ((us, peer, last), wire) in guests.into_iter().zip([left, right]) {
        let answers = answers.clone();
        let work = move || {
            let device = WireNet::new(wire.clone(), [0x02, 0, 0, 0, 0, last], 1500);
            let words = [format!("ip={us}"), format!("peer={peer}"), format!("count={ECHOS}"), "linger=500".into()];
            let setup = Setup {
                arguments: &words.each_ref().map(String::as_str),
                slots: vec![("service".into(), Slot::Net(Box::new(device)))],
                wires: Wires::of(1, wire),
                ..Setup::plain(MEMORY, LIMIT)
            };
            let answer = ping(file, setup, ECHOS);
            answers.lock().push((us, answer));
        };
        threads.push(Context::spawn(Kind::Thread, 0, work).map_err(|errno| format!("no thread: {errno}"))?);
    }
    for thread in threads {
        thread.join().map_err(|errno| format!("cannot wait for a thread: {errno}"))?;
    }
    let answers = core::mem::take(&mut *answers.lock());
    if answers.len() != guests.len() {
        return Err(format!("{} of {} guests ended", answers.len(), guests.len()));
    }
    answers.into_iter().try_for_each(|(name, answer)| answer.map_err(|error| format!("{name}: {error}")))
}

/// Runs a guest that pings another one, until it has received this number of replies.
fn ping(file: &[u8], setup: Setup<'_>, echos: u32) -> Result<(), String> {
    let hypervisor = hypervisor::open()?;
    let mut guest = Unikernel::load(&hypervisor, file, setup)?;
    let outcome = guest.run()?;
    let transcript = guest.transcript();
    let said = String::from_utf8_lossy(&transcript);
    let all = format!("{echos} sent, {echos} answered");
    if outcome.is_success() && said.lines().any(|line| line == all) {
        Ok(())
    } else {
        Err(format!("{outcome}: {said}"))
    }
}

/// A guest in an endless loop, in its own thread, does not block other guests or this thread. It
/// ends after an interrupt.
fn endless(runner: &mut Runner, pack: Archive) -> Result<(), String> {
    let file = pack.suite("spin")?;
    let stop = Arc::new(AtomicBool::new(false));
    let exits = Arc::new(AtomicU32::new(0));
    let interrupter: Arc<Mutex<Option<Interrupter<Kernel>>>> = Arc::default();
    let end: Arc<Mutex<Option<Result<Outcome, String>>>> = Arc::default();
    let work = {
        let (stop, exits, interrupter, end) = (stop.clone(), exits.clone(), interrupter.clone(), end.clone());
        move || {
            let over = || {
                exits.fetch_add(1, SeqCst);
                stop.load(SeqCst)
            };
            let spin = || -> Result<Outcome, String> {
                let hypervisor = hypervisor::open()?;
                let mut spinning = Unikernel::load(&hypervisor, file, Setup::plain(MEMORY, LIMIT))?;
                *interrupter.lock() = Some(spinning.interrupter());
                spinning.run_until(over)
            };
            let ended = spin();
            *end.lock() = Some(ended);
        }
    };
    let thread = Context::spawn(Kind::Thread, 0, work).map_err(|errno| format!("no thread: {errno}"))?;
    let started = clock::get().now();
    while exits.load(SeqCst) < 3 {
        if clock::get().now() - started > 20 * SECOND {
            return Err("the endless guest does not give the CPU back".into());
        }
        sys::yield_now();
    }
    let mut silent = Tally::new(|_| ());
    run_case(runner, "fpu", pack, &mut silent).map_err(|error| format!("beside an endless guest: {error}"))?;
    stop.store(true, SeqCst);
    let interrupter = interrupter.lock().take().ok_or("there is nothing to interrupt the guest with")?;
    interrupter.interrupt().map_err(|errno| format!("interrupting: {errno}"))?;
    drop(interrupter);
    thread.join().map_err(|errno| format!("cannot wait for the thread: {errno}"))?;
    let end = end.lock().take();
    if end != Some(Ok(Outcome::Interrupted)) {
        return Err(format!("the endless guest ended: {end:?}"));
    }
    println!("an endless guest left its CPU {} times", exits.load(SeqCst));
    Ok(())
}

/// An interrupt that arrives before a guest runs is kept.
fn interrupted_before(runner: &Runner, pack: Archive) -> Result<(), String> {
    let mut guest = Unikernel::load(&runner.hypervisor, pack.suite("hello")?, Setup::plain(MEMORY, LIMIT))?;
    guest.interrupter().interrupt().map_err(|errno| format!("interrupting: {errno}"))?;
    let over = AtomicU32::new(0);
    let outcome = guest.run_until(|| over.fetch_add(1, SeqCst) == 0)?;
    if outcome == Outcome::Interrupted && guest.transcript().is_empty() {
        Ok(())
    } else {
        Err(format!("the guest ran: {outcome}"))
    }
}

/// A process that is killed while its guest runs leaks no resources.
fn process_dies(runner: &mut Runner, pack: Archive) -> Result<(), String> {
    let file = pack.suite("spin")?;
    let work = move || {
        let spin = || -> Result<Outcome, String> {
            let hypervisor = hypervisor::open()?;
            Unikernel::load(&hypervisor, file, Setup::plain(MEMORY, u64::MAX))?.run()
        };
        let end = spin();
        println!("the process that is to be killed: {end:?}");
    };
    let before = Usage::now(runner)?;
    let process = Context::spawn(Kind::Process, 0, work).map_err(|errno| format!("no process: {errno}"))?;
    let started = clock::get().now();
    let running = |usage: Usage| usage.machines > before.machines && usage.pinned >= before.pinned + MEMORY;
    while !running(Usage::now(runner)?) {
        if clock::get().now() - started > 20 * SECOND {
            return Err("the process does not start its guest".into());
        }
        sys::yield_now();
    }
    // All of its memory is allocated and it only runs. Wait for some of its time slices.
    sys::sleep(SECOND / 20);
    process.kill().map_err(|errno| format!("killing: {errno}"))
}

/// A guest keeps its memory when the process unmaps it, and the memory is freed when the guest
/// ends.
fn memory_goes(runner: &mut Runner, pack: Archive) -> Result<(), String> {
    let guest = Unikernel::load(&runner.hypervisor, pack.suite("spin")?, Setup::plain(MEMORY, LIMIT))?;
    let interrupter = guest.interrupter();
    let mut guest = guest.without_memory();
    let mut interrupted = 0;
    let started = clock::get().now();
    while interrupted < 3 {
        match guest.run() {
            Ok(hvt_core::Exit::Interrupted) => interrupted += 1,
            // The hypercall's data is in memory that has been unmapped.
            Ok(hvt_core::Exit::Hypercall { .. }) => {}
            other => return Err(format!("{other:?}")),
        }
        if clock::get().now() - started > 20 * SECOND {
            return Err("the guest does not get to its loop".into());
        }
    }
    drop((guest, interrupter));
    Ok(())
}

/// Runs a check twice. All resources must be freed, except that the kernel's heap may grow once in
/// the first run.
fn leaves_nothing(runner: &mut Runner, mut check: impl FnMut(&mut Runner) -> Result<(), String>) -> Result<(), String> {
    check(runner)?;
    let before = Usage::now(runner)?;
    check(runner)?;
    let after = Usage::now(runner)?;
    if after == before { Ok(()) } else { Err(format!("something is left: {before:?}, then {after:?}")) }
}
