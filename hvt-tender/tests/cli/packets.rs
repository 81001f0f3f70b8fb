//! Guests under a debugger other than `gdb`: tests of the packets. They run on the backend that
//! every machine has, or on the backend in `HVT_BACKENDS`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use goblin::elf::Elf;

use super::debugger::Waiting;
use super::{cpu, guest};

/// Returns the address of the function or variable with this path.
fn symbol(name: &str) -> u64 {
    let file = fs::read(guest("debuggee")).unwrap();
    let elf = Elf::parse(&file).unwrap();
    let found =
        elf.syms.iter().find(|symbol| elf.strtab.get_at(symbol.st_name).is_some_and(|full| full.contains(name)));
    found.expect(name).st_value
}

/// The debugger stops in a function, reads registers and memory, steps, and continues to the end.
#[test]
fn breaks_steps_and_goes_on_to_the_end() {
    let waiting = Waiting::new("rounds");
    let mut debugger = Packets::connect(&waiting);
    let (function, variable) = (symbol("8debuggee9innermost"), symbol("8debuggee7WATCHED"));
    let kind = cpu::BREAKPOINT;
    assert_eq!(debugger.ask("?"), "T05thread:01;");
    let code = debugger.ask(&format!("m{function:x},4"));
    assert_eq!(debugger.ask(&format!("Z0,{function:x},{kind}")), "OK");
    assert_eq!(debugger.ask(&format!("m{function:x},4")), code, "the breakpoint is not seen");
    for round in 1_u64..=5 {
        assert_eq!(debugger.ask("vCont;c"), "T05thread:01;swbreak:;");
        let registers = debugger.registers();
        assert_eq!((registers[cpu::PC], registers[cpu::ARGUMENT]), (function, 2 * round));
        assert_eq!(debugger.ask(&format!("z0,{function:x},{kind}")), "OK");
        assert_eq!(debugger.ask("vCont;s"), "S05");
        assert_ne!(debugger.registers()[cpu::PC], function);
        assert_eq!(debugger.ask(&format!("Z0,{function:x},{kind}")), "OK");
    }
    assert_eq!(debugger.ask(&format!("m{variable:x},2")), "0800", "the value of the previous round");
    assert_eq!(debugger.ask("m20,1"), "E0e", "not mapped: EFAULT");
    assert_eq!(debugger.ask("vCont;c"), "W07");
    let (status, printed, _) = waiting.end();
    assert_eq!((status, printed.as_str()), (Some(7), "35\n"));
}

/// Repeated ctrl-C in quick succession, before and while the guest runs.
#[test]
fn interrupts_again_and_again() {
    for argument in ["spin", "sleep"] {
        let waiting = Waiting::new(argument);
        let mut debugger = Packets::connect(&waiting);
        for _ in 0..20 {
            debugger.send("vCont;c");
            debugger.0.write_all(b"\x03").unwrap();
            assert_eq!(debugger.receive(), "S02");
        }
        debugger.send("k");
        assert_eq!(waiting.end().0, Some(1));
    }
}

/// The threads that serve the debugger are confined like all others: the guest's thread, and the
/// thread that listens meanwhile.
#[test]
fn threads_are_confined() {
    let waiting = Waiting::new("spin");
    let mut debugger = Packets::connect(&waiting);
    assert_eq!(debugger.ask("?"), "T05thread:01;");
    let threads = waiting.threads();
    assert_eq!(threads.len(), 2, "{threads:?}");
    for thread in threads {
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
            assert!(thread.lines().any(|found| found == line), "{line}: {thread}");
        }
    }
    debugger.send("k");
    assert_eq!(waiting.end().0, Some(1));
}

/// Client of the remote serial protocol, as far as the tests need it.
struct Packets(TcpStream);

impl Packets {
    fn connect(waiting: &Waiting) -> Self {
        Self(TcpStream::connect(&waiting.address).unwrap())
    }

    /// Sends a packet and returns the reply.
    fn ask(&mut self, body: &str) -> String {
        self.send(body);
        self.receive()
    }

    /// Returns the general-purpose registers and the program counter.
    fn registers(&mut self) -> Vec<u64> {
        let all = expand(&self.ask("g"));
        let value = |text: &str| u64::from_str_radix(text, 16).unwrap().swap_bytes();
        (0..cpu::REGISTERS).map(|index| value(&all[index * 16..][..16])).collect()
    }

    fn send(&mut self, body: &str) {
        let sum = body.bytes().fold(0_u8, u8::wrapping_add);
        self.0.write_all(format!("${body}#{sum:02x}").as_bytes()).unwrap();
    }

    /// Returns the body of the next packet and skips acknowledgements.
    fn receive(&mut self) -> String {
        let mut packet = Vec::new();
        while packet.len() < 3 || packet[packet.len() - 3] != b'#' {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            packet.extend(byte);
        }
        self.0.write_all(b"+").unwrap();
        let text = String::from_utf8(packet).unwrap();
        let (_, body) = text.split_once('$').unwrap();
        body[..body.len() - 3].to_owned()
    }
}

/// Expands the run lengths in a packet's body: `*` and a character encode the number of repetitions
/// of the previous character.
fn expand(body: &str) -> String {
    let mut expanded = String::new();
    let mut bytes = body.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, expanded.chars().last()) {
            (b'*', Some(last)) => {
                let times = bytes.next().unwrap() - 29;
                expanded.extend((0..times).map(|_| last));
            }
            _ => expanded.push(byte.into()),
        }
    }
    expanded
}

/// The tender drops a client that is not a debugger and runs the guest without a debugger.
#[test]
fn takes_nonsense() {
    for nonsense in [&b"\0\xff$$$###GET / HTTP/1.1\r\n\r\n"[..], b"+$m0,ffffffffffffffff#00$vCont;s:p1.1;c#zz", b""] {
        let waiting = Waiting::new("rounds");
        let mut stream = TcpStream::connect(&waiting.address).unwrap();
        stream.write_all(nonsense).unwrap();
        drop(stream);
        let (status, printed, said) = waiting.end();
        assert_eq!((status, printed.as_str()), (Some(7), "35\n"), "{said}");
    }
}
