//! Writer for the pcap format of tcpdump and Wireshark (draft-ietf-opsawg-pcap).

use std::io::{self, Write};
use std::time::Duration;

use crate::record_file::RecordFile;

/// Magic number of files with timestamps in nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Version 2.4, the only version in use.
const VERSION: (u16, u16) = (2, 4);
/// Link type `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// Snapshot length: maximum size of a recorded packet in bytes.
const SNAP_LENGTH: u32 = 0x4_0000;

/// pcap file to which frames are appended as they are sent and received.
#[derive(Debug)]
pub(super) struct Pcap<W = RecordFile> {
    file: W,
}

impl<W: Write> Pcap<W> {
    /// Writes the file header.
    pub(super) fn new(mut file: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC_NANOSECONDS.to_le_bytes());
        header.extend(VERSION.0.to_le_bytes());
        header.extend(VERSION.1.to_le_bytes());
        header.extend([0; 8]);
        header.extend(SNAP_LENGTH.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        file.write_all(&header)?;
        Ok(Self { file })
    }

    /// Returns the underlying file.
    pub(super) fn file(&self) -> &W {
        &self.file
    }

    /// Appends a frame with the timestamp `now`, the time since the Unix epoch.
    pub(super) fn record(&mut self, now: Duration, frame: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(16 + frame.len());
        // The seconds field is an unsigned 32-bit number, which overflows in 2106.
        record.extend((now.as_secs() as u32).to_le_bytes());
        record.extend(now.subsec_nanos().to_le_bytes());
        record.extend((frame.len() as u32).to_le_bytes());
        record.extend((frame.len() as u32).to_le_bytes());
        record.extend(frame);
        // One write per record, so that a concurrent reader of the file sees only whole records.
        self.file.write_all(&record)
    }
}
