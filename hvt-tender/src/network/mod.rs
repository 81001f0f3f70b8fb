//! In-memory networks for tests: they need no privileges and no host interface, and no frame leaves
//! the process.
//!
//! A [`Link`] connects two [`Port`]s, a [`Switch`] any number of ports. A port is either the
//! network device of a guest, or an endpoint through which a test sends and receives frames:
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
//! With a [`VirtualTime`](crate::VirtualTime), delays pass in virtual time and cost no time of the
//! host. With a seed, an [`Impairment`] drops the same frames in every run:
//!
//! ```
//! use std::time::Duration;
//! use hvt_tender::network::{Impairment, Link};
//! use hvt_tender::{Script, VirtualTime};
//!
//! let answered = |seed: u64| -> Result<usize, Box<dyn std::error::Error>> {
//!     let time = VirtualTime::new();
//!     let lossy = Impairment::new().loss(0.1).delay(Duration::from_millis(20)).seed(seed);
//!     let (ours, theirs) = Link::new().impairment(lossy).virtual_time(&time).ports()?;
//!     let sends = Script::new().repeat(100, |script| script.net_write("service", [1; 60])).halt(0);
//!     sends.unikernel()?.virtual_time(&time).net("service", theirs).run()?;
//!     Ok(std::iter::from_fn(|| ours.receive(Duration::ZERO).ok()).count())
//! };
//! assert!((80..100).contains(&answered(1)?));
//! assert_eq!(answered(1)?, answered(1)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Bridge`] connects a port to a tap interface of the host. [`Port::with_pcap`] writes the
//! frames of a port to a pcap file; [`Recorded`] does the same for any other network device.
//!
//! With the feature `user-net`, a [`Host`] on a port is a TCP/IP peer for the guests, and
//! [user-mode networking](user) connects a guest to the outside without privileges.

mod bridge;
#[cfg(feature = "user-net")]
mod host;
mod impairment;
mod inbox;
#[cfg(feature = "user-net")]
mod ip;
mod link;
mod pcap;
mod port;
mod recorded;
mod switch;
#[cfg(test)]
mod tests;
#[cfg(feature = "user-net")]
pub mod user;

pub use bridge::Bridge;
#[cfg(feature = "user-net")]
pub use host::{Host, HostBuilder, HostHold, HostListener, HostStream};
pub use impairment::Impairment;
pub use link::Link;
pub use port::Port;
pub use recorded::Recorded;
pub use switch::Switch;

/// Size of an Ethernet header in bytes, which is the minimum size of a frame.
const HEADER: usize = hvt_abi::hypercall::FRAME_HEADER_SIZE as usize;
/// Size of a VLAN tag in bytes (IEEE 802.1Q).
const VLAN_TAG: usize = 4;
/// Default MTU: maximum payload of a frame in bytes.
const DEFAULT_MTU: u16 = 1500;
/// Default capacity of a port's queue in frames. A full queue drops new frames.
const DEFAULT_QUEUE: usize = 1024;

/// Returns the locally administered MAC address of the port with this number.
fn mac(number: usize) -> [u8; 6] {
    let [.., a, b, c, d] = (number as u64 + 1).to_be_bytes();
    [2, 0, a, b, c, d]
}
