//! A port as smoltcp sees it.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::network::{HEADER, Port};

/// A port, and the frame from it that smoltcp is to be given next.
#[derive(Debug)]
pub(super) struct PortDevice {
    pub(super) port: Port,
    frame: Option<Vec<u8>>,
}

impl PortDevice {
    pub(super) fn new(port: Port) -> Self {
        Self { port, frame: None }
    }

    /// Gives smoltcp this frame next.
    pub(super) fn put(&mut self, frame: Vec<u8>) {
        self.frame = Some(frame);
    }
}

impl Device for PortDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Outgoing<'_>)> {
        let frame = self.frame.take()?;
        // The reply, if there is one, may get lost; the peer repeats its request.
        Some((Received(frame), Outgoing(&self.port)))
    }

    /// None while the other end has no room: a frame that is lost makes TCP wait twice as long as before.
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

/// A frame that arrived.
pub(super) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// Leave to send a frame.
pub(super) struct Outgoing<'a>(&'a Port);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        if let Err(error) = self.0.send(&frame) {
            // Nothing that the stack makes: it knows the MTU.
            log::debug!("a frame is lost: {error}");
        }
        result
    }
}
