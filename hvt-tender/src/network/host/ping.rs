//! ICMP echo (RFC 792).

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress};

use super::core::{Core, Shared};

/// Payload of an echo request.
const PAYLOAD: [u8; 32] = *b"abcdefghijklmnopqrstuvwabcdefghi";

/// Sends an echo request, waits for the reply, and returns the round-trip time.
pub(super) fn ping(shared: &Shared, to: Ipv4Addr, ident: u16, timeout: Duration) -> io::Result<Duration> {
    let start = shared.elapsed();
    let socket = Echo { shared, handle: shared.act(|core| request(core, to, ident))?? };
    let unanswered = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no echo reply from {to} within {timeout:?}"))
        }
        _ => error,
    };
    let answer = shared.wait(timeout, |core| {
        let socket = core.stack.sockets.get_mut::<icmp::Socket<'_>>(socket.handle);
        while let Ok((message, from)) = socket.recv() {
            let Ok(packet) = Icmpv4Packet::new_checked(message) else { continue };
            match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()) {
                Ok(Icmpv4Repr::EchoReply { data, .. }) if from == IpAddress::Ipv4(to) && data == PAYLOAD => {
                    return Some(Ok(()));
                }
                Ok(Icmpv4Repr::DstUnreachable { reason, .. }) => {
                    return Some(Err(io::Error::new(io::ErrorKind::HostUnreachable, format!("{to}: {reason}"))));
                }
                _ => {}
            }
        }
        None
    });
    answer.map(|()| shared.elapsed().saturating_sub(start)).map_err(unanswered)
}

/// Sends an echo request from a new socket and returns the socket.
fn request(core: &mut Core, to: Ipv4Addr, ident: u16) -> io::Result<SocketHandle> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("cannot ping {to}"));
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(ident)).map_err(|_| invalid())?;
    let request = Icmpv4Repr::EchoRequest { ident, seq_no: 1, data: &PAYLOAD };
    let mut message = vec![0; request.buffer_len()];
    request.emit(&mut Icmpv4Packet::new_unchecked(&mut message), &ChecksumCapabilities::default());
    socket.send_slice(&message, IpAddress::Ipv4(to)).map_err(|_| invalid())?;
    Ok(core.stack.sockets.add(socket))
}

/// ICMP socket, removed from the stack on drop.
struct Echo<'a> {
    shared: &'a Shared,
    handle: SocketHandle,
}

impl Drop for Echo<'_> {
    fn drop(&mut self) {
        let _ = self.shared.act(|core| core.stack.sockets.remove(self.handle));
    }
}
