//! Networks that exist in memory only: no root, no interface of the host, no frame that leaves the process.
//!
//! A [`Link`] joins two [`Port`]s, a [`Switch`] joins many. A port goes to a guest as its network device, or stays with
//! the test, which sends and receives frames through it:
//!
//! ```
//! use std::time::Duration;
//! use hvt_tender::network::Switch;
//!
//! let switch = Switch::new();
//! let (ours, theirs) = (switch.port()?, switch.port()?);
//! let frame = [&theirs.mac()[..], &ours.mac(), &[0x88, 0xb5], b"hello"].concat();
//! ours.send(&frame)?;
//! assert_eq!(theirs.receive(Duration::from_secs(1))?, frame);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! With the feature `smoltcp` a port can also be that of a [`Host`], which speaks TCP/IP.

mod bridge;
mod conditions;
#[cfg(feature = "smoltcp")]
mod host;
mod inbox;
#[cfg(feature = "smoltcp")]
mod ip;
mod link;
mod pcap;
mod port;
mod switch;
#[cfg(test)]
mod tests;

pub use bridge::Bridge;
pub use conditions::Conditions;
#[cfg(feature = "smoltcp")]
pub use host::{Host, HostBuilder, HostListener, HostStream};
pub use link::Link;
pub use port::Port;
pub use switch::Switch;

/// Bytes of an Ethernet header: no frame is shorter.
const HEADER: usize = 14;
/// Bytes that a VLAN tag adds to a frame (IEEE 802.1Q).
const VLAN_TAG: usize = 4;
/// Largest payload of a frame in bytes where nobody says otherwise.
const DEFAULT_MTU: u16 = 1500;
/// Frames that wait in a port where nobody says otherwise. What comes when it is full is lost.
const DEFAULT_QUEUE: usize = 1024;

/// The locally administered address of the port with this number.
fn mac(number: usize) -> [u8; 6] {
    let [.., a, b, c, d] = (number as u64 + 1).to_be_bytes();
    [2, 0, a, b, c, d]
}
