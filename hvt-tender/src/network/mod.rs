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
//! With a [`VirtualTime`](crate::VirtualTime) what frames take is no time of the host's, and with a seed the same frames
//! get lost each time:
//!
//! ```
//! use std::time::Duration;
//! use hvt_tender::network::{Conditions, Link};
//! use hvt_tender::{VirtualTime, script::Script};
//!
//! let answered = |seed: u64| -> Result<usize, Box<dyn std::error::Error>> {
//!     let time = VirtualTime::new();
//!     let lossy = Conditions::new().loss(0.1).delay(Duration::from_millis(20)).seed(seed);
//!     let (ours, theirs) = Link::new().conditions(lossy).virtual_time(&time).ports()?;
//!     let sends = Script::new().repeat(100, |script| script.net_write("service", [1; 60])).halt(0);
//!     sends.unikernel()?.virtual_time(&time).net("service", theirs).run()?;
//!     Ok(std::iter::from_fn(|| ours.receive(Duration::ZERO).ok()).count())
//! };
//! assert!((80..100).contains(&answered(1)?));
//! assert_eq!(answered(1)?, answered(1)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Bridge`] joins a port and a tap of the host. What passes is written to a file by a port
//! [itself](Port::with_pcap), and by any other device that is [`Recorded`].
//!
//! With the feature `smoltcp` a port can also be that of a [`Host`], which speaks TCP/IP, and a guest's network device one
//! in [user-mode networking](user), the way to the world outside that needs no rights.

mod bridge;
#[cfg(feature = "smoltcp")]
mod host;
mod impairment;
mod inbox;
#[cfg(feature = "smoltcp")]
mod ip;
mod link;
mod pcap;
mod port;
mod recorded;
mod switch;
#[cfg(test)]
mod tests;
#[cfg(feature = "smoltcp")]
pub mod user;

pub use bridge::Bridge;
#[cfg(feature = "smoltcp")]
pub use host::{Host, HostBuilder, HostHold, HostListener, HostStream};
pub use impairment::Impairment;
pub use link::Link;
pub use port::Port;
pub use recorded::Recorded;
pub use switch::Switch;

/// Bytes of an Ethernet header: no frame is shorter.
const HEADER: usize = hvt_abi::hypercall::FRAME_HEADER_SIZE as usize;
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
