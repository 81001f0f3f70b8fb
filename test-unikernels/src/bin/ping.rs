//! Pings a peer: `count=N` echo requests to `peer=IP`, one after the other, with `deadline=MS` for
//! each reply. It answers requests of the peer in the meantime. With `linger=MS` it also answers
//! requests afterwards, until none has arrived for this time.
#![no_std]
#![no_main]

use core::time::Duration;

use guest_bindings::clock::Instant;
use guest_bindings::{DeviceError, ExitStatus, Net, StartInfo, println, yield_until};
use test_suite::frame::{self, ECHO_HEADERS, Host};
use test_unikernels::responder::{self, FRAME};
use test_unikernels::{check, failure, number, option, success};

guest_bindings::manifest! { net "service" }
guest_bindings::entry!(main);

/// Length of a request's frame in bytes, as sent by ping(8).
const REQUEST: usize = 98;

fn main(start: &StartInfo) -> ExitStatus {
    let net = Net::open("service").unwrap_or_else(|error| failure(error));
    let us = Host { mac: net.info().mac, ip: responder::ip(option(start, "ip").unwrap_or("10.0.0.3")) };
    let text = option(start, "peer").unwrap_or("10.0.0.2");
    let count = option(start, "count").map_or(10, number) as u16;
    let millis = |name, otherwise| Duration::from_millis(option(start, name).map_or(otherwise, number));
    let (patience, linger) = (millis("deadline", 1000), millis("linger", 0));

    let mut pinger = Pinger { net, us, peer: Host { mac: [0; 6], ip: responder::ip(text) }, patience };
    println!("PING {text}");
    check((0..count).any(|_| pinger.resolve()), format_args!("no ARP reply from {text}"));
    let answered = (1..=count).filter(|sequence| pinger.ping(*sequence)).count();
    println!("{count} sent, {answered} answered");
    while pinger.wait(linger, |frame| frame[6..12] == pinger.peer.mac) {}
    check(answered > 0, "no answer");
    success()
}

struct Pinger {
    net: Net,
    us: Host,
    peer: Host,
    /// Timeout of each reply.
    patience: Duration,
}

impl Pinger {
    /// Resolves the peer's MAC address by ARP. Returns `true` if the peer replies.
    fn resolve(&mut self) -> bool {
        let reply = frame::arp_reply(self.peer, self.us);
        self.send(&frame::arp_request(self.us, self.peer));
        let mut mac = None;
        self.wait(self.patience, |frame| {
            // Operation, and the addresses of sender and target.
            let it = frame.len() >= 42 && frame[12..22] == reply[12..22] && frame[28..32] == reply[28..32];
            mac = if it { frame[22..28].try_into().ok() } else { None };
            it
        });
        self.peer.mac = mac.unwrap_or_default();
        mac.is_some()
    }

    /// Returns `true` if the peer replies to an echo request. Header fields that the peer chooses,
    /// such as the TTL, are not compared.
    fn ping(&self, sequence: u16) -> bool {
        let reply: [u8; REQUEST] = frame::echo_reply(self.peer, self.us, sequence);
        self.send(&frame::echo_request::<REQUEST>(self.us, self.peer, sequence));
        let sent = Instant::now();
        let answered = self.wait(self.patience, |frame| {
            frame.len() >= REQUEST && frame[23..24] == [1] && frame[26..REQUEST] == reply[26..]
        });
        match answered {
            true => println!("{} bytes: seq={sequence} time={:?}", REQUEST - ECHO_HEADERS, sent.elapsed()),
            false => println!("seq={sequence}: no answer"),
        }
        answered
    }

    fn send(&self, frame: &[u8]) {
        self.net.write(frame).unwrap_or_else(|error| failure(format_args!("write: {error}")));
    }

    /// Waits for the frame that satisfies `the_one`. Other requests are answered meanwhile.
    fn wait(&self, patience: Duration, mut the_one: impl FnMut(&[u8]) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut frame = [0; FRAME];
        loop {
            match self.net.read(&mut frame) {
                Ok(len) => {
                    let frame = &mut frame[..len];
                    let found = the_one(frame);
                    if responder::answer(frame, self.us.mac, self.us.ip).is_some() {
                        self.send(frame);
                    }
                    if found {
                        return true;
                    }
                }
                Err(DeviceError::Again) if Instant::now() >= deadline => return false,
                Err(DeviceError::Again) => drop(yield_until(deadline)),
                Err(error) => failure(format_args!("read: {error}")),
            }
        }
    }
}
