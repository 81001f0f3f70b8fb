//! Answers ARP requests and ICMP echos in place: the smallest host there is.

use core::time::Duration;

use guest_bindings::clock::Instant;
use guest_bindings::{Error, Net, yield_until};

use crate::failure;

/// Longest silence before a guest that waits for echos gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of the largest frame that any device carries.
pub const FRAME: usize = 14 + 65535;

/// A network device and the address it answers for.
#[derive(Debug)]
pub struct Interface {
    /// The device.
    pub net: Net,
    /// Its IPv4 address.
    pub ip: [u8; 4],
}

/// Parses four decimal numbers with dots between.
pub fn ip(text: &str) -> [u8; 4] {
    let mut ip = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut ip {
        *byte = parts
            .next()
            .and_then(|part| part.parse().ok())
            .unwrap_or_else(|| failure(format_args!("'{text}' is no address")));
    }
    ip
}

/// Serves the interfaces until `echos` have been answered; forever where that is `None`.
pub fn serve(interfaces: &[Interface], echos: Option<u64>) {
    let mut frame = [0; FRAME];
    let mut answered = 0;
    while echos.is_none_or(|echos| answered < echos) {
        let ready = yield_until(Instant::now() + PATIENCE);
        if ready.is_empty() && echos.is_some() {
            failure(format_args!("no frame for {PATIENCE:?}, {answered} echos answered"));
        }
        for Interface { net, ip } in interfaces.iter().filter(|interface| ready.contains(interface.net.handle())) {
            loop {
                let len = match net.read(&mut frame) {
                    Ok(len) => len,
                    Err(Error::Again) => break,
                    Err(error) => failure(format_args!("read: {error}")),
                };
                let frame = &mut frame[..len];
                let Some(answer) = answer(frame, net.info().mac, *ip) else { continue };
                if let Err(error) = net.write(frame) {
                    failure(format_args!("write of {len} bytes: {error}"));
                }
                answered += u64::from(answer == Answer::Echo);
            }
        }
    }
}

/// What a frame has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to an ARP request.
    Arp,
    /// An ICMP echo.
    Echo,
}

/// Turns a request for `ip` into its answer.
pub fn answer(frame: &mut [u8], mac: [u8; 6], ip: [u8; 4]) -> Option<Answer> {
    let is_for_us = frame.len() >= 42 && (frame[..6] == mac || frame[..6] == [0xff; 6]);
    let answer = match (is_for_us, &frame.get(12..14)?) {
        (true, [0x08, 0x06]) => arp(frame, mac, ip)?,
        (true, [0x08, 0x00]) => echo(frame, ip)?,
        _ => return None,
    };
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&mac);
    Some(answer)
}

/// RFC 826: swaps the two hosts and fills in the address that was asked for.
fn arp(frame: &mut [u8], mac: [u8; 6], ip: [u8; 4]) -> Option<Answer> {
    if frame[14..22] != [0, 1, 8, 0, 6, 4, 0, 1] || frame[38..42] != ip {
        return None;
    }
    frame[21] = 2;
    frame.copy_within(22..32, 32);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&ip);
    Some(Answer::Arp)
}

/// RFC 792: swaps the two hosts; the sums stay, except that the type is 8 less.
fn echo(frame: &mut [u8], ip: [u8; 4]) -> Option<Answer> {
    let is_echo_request = frame[14] == 0x45 && frame[23] == 1 && frame[30..34] == ip && frame[34] == 8;
    if !is_echo_request {
        return None;
    }
    frame.copy_within(26..30, 30);
    frame[26..30].copy_from_slice(&ip);
    frame[34] = 0;
    let (sum, carry) = u16::from_be_bytes([frame[36], frame[37]]).overflowing_add(0x0800);
    frame[36..38].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    Some(Answer::Echo)
}
