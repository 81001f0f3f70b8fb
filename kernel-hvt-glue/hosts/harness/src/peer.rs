//! Far end of a guest's network device: sends the frames of a case of the conformance table.

use hvt_core::device::in_memory::Wire;
use test_suite::Exchange;

/// Peer that sends each frame of a case, and waits for the reply before it sends the next.
pub struct Peer {
    wire: Wire,
    exchanges: &'static [Exchange],
    /// Number of frames sent.
    sent: usize,
}

impl Peer {
    /// Creates the peer at this end of a wire, and sends its first frame.
    #[must_use]
    pub fn new(wire: Wire, exchanges: &'static [Exchange]) -> Self {
        let mut peer = Self { wire, exchanges, sent: 0 };
        peer.send();
        peer
    }

    fn send(&mut self) {
        if let Some(exchange) = self.exchanges.get(self.sent) {
            self.wire.send(exchange.frame.to_vec());
        }
        self.sent += 1;
    }

    /// Handles received frames. Frames other than the expected reply are ignored.
    pub fn poll(&mut self) {
        while let Some(frame) = self.wire.receive() {
            if self.exchanges.get(self.sent - 1).is_some_and(|exchange| frame == exchange.reply) {
                self.send();
            }
        }
    }

    /// Returns the index of the exchange without a reply, if any.
    #[must_use]
    pub fn waiting_for(&self) -> Option<usize> {
        (self.sent <= self.exchanges.len()).then(|| self.sent - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCHANGES: &[Exchange] =
        &[Exchange { frame: b"who?", reply: b"me" }, Exchange { frame: b"ping", reply: b"pong" }];

    #[test]
    fn each_answer_brings_the_next_frame() {
        let (guest, far) = Wire::pair();
        let mut peer = Peer::new(far, EXCHANGES);
        assert_eq!(guest.receive().as_deref(), Some(&b"who?"[..]));
        guest.send(b"noise".to_vec());
        peer.poll();
        assert_eq!((guest.receive(), peer.waiting_for()), (None, Some(0)));
        guest.send(b"me".to_vec());
        guest.send(b"pong".to_vec());
        peer.poll();
        assert_eq!(guest.receive().as_deref(), Some(&b"ping"[..]));
        assert_eq!((guest.is_ready(), peer.waiting_for()), (false, None));
        peer.poll();
        assert_eq!(peer.waiting_for(), None);
    }

    #[test]
    fn a_peer_with_nothing_to_say_is_done() {
        let (guest, far) = Wire::pair();
        let mut peer = Peer::new(far, &[]);
        peer.poll();
        assert_eq!((guest.is_ready(), peer.waiting_for()), (false, None));
    }
}
