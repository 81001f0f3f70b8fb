//! Answers ARP requests and ICMP echos in place: a minimal host.

use core::time::Duration;

use guest_bindings::clock::Instant;
use guest_bindings::{DeviceError, Net, yield_until};

use crate::failure;

/// Timeout of a guest that waits for echos.
const PATIENCE: Duration = Duration::from_secs(60);

/// Maximum length in bytes of a frame of any device.
pub const FRAME: usize = 14 + 65535;

/// A network device and its IPv4 address.
#[derive(Debug)]
pub struct Interface {
    /// The device.
    pub net: Net,
    /// IPv4 address of the device.
    pub ip: [u8; 4],
}

/// Parses an IPv4 address in dotted decimal notation.
pub fn ip(text: &str) -> [u8; 4] {
    let mut ip = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut ip {
        *byte = parts
            .next()
            .and_then(|part| part.parse().ok())
            .unwrap_or_else(|| failure(format_args!("'{text}' is not an address")));
    }
    ip
}

/// Serves the interfaces until `echos` echos have been answered, or forever if it is `None`.
pub fn serve(interfaces: &[Interface], echos: Option<u64>) {
    let mut frame = [0; FRAME];
    let mut answered = 0;
    while echos.is_none_or(|echos| answered < echos) {
        let ready = yield_until(Instant::now() + PATIENCE);
        if ready.is_empty() && echos.is_some() {
            failure(format_args!("no frame in {PATIENCE:?}, {answered} echos answered"));
        }
        for Interface { net, ip } in interfaces.iter().filter(|interface| ready.contains(interface.net.handle())) {
            loop {
                let len = match net.read(&mut frame) {
                    Ok(len) => len,
                    Err(DeviceError::Again) => break,
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

/// Type of an answered frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An ARP request.
    Arp,
    /// An ICMP echo.
    Echo,
}

/// Converts a request for `ip` to its reply in place.
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

/// Converts an ARP request (RFC 826): swaps the two hosts and fills in the requested address.
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

/// Converts an ICMP echo (RFC 792): swaps the two hosts. The checksums do not change, except that
/// the type is 8 less.
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
