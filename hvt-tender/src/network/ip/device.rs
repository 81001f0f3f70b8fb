//! smoltcp device for a port.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::network::{HEADER, Port};

/// smoltcp device for a port. Received frames pass the [`Gate`](super::Gate) first;
/// [`put`](Self::put) hands one on to smoltcp.
#[derive(Debug)]
pub(super) struct PortDevice {
    pub(super) port: Port,
    frame: Option<Vec<u8>>,
}

impl PortDevice {
    pub(super) fn new(port: Port) -> Self {
        Self { port, frame: None }
    }

    /// Sets the frame that smoltcp receives next.
    pub(super) fn put(&mut self, frame: Vec<u8>) {
        self.frame = Some(frame);
    }
}

impl Device for PortDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Outgoing<'_>)> {
        let frame = self.frame.take()?;
        // A reply is sent even if the other end has no room. If it is dropped, the peer repeats its
        // request.
        Some((Received(frame), Outgoing(&self.port)))
    }

    /// Returns `None` while the other end has no room: each dropped frame doubles TCP's
    /// retransmission timeout.
    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        (!self.port.is_full()).then_some(Outgoing(&self.port))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.port.mtu()) + HEADER;
        capabilities
    }
}

/// Received frame.
pub(super) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// Permission to send one frame.
pub(super) struct Outgoing<'a>(&'a Port);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        if let Err(error) = self.0.send(&frame) {
            // The stack respects the port's MTU, so `send` accepts its frames.
            log::debug!("IP stack: frame dropped: {error}");
        }
        result
    }
}
