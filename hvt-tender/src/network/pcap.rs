//! Recordings of frames, in the format that tcpdump and Wireshark read (draft-ietf-opsawg-pcap).

use std::io::{self, Write};
use std::time::Duration;

use crate::record_file::RecordFile;

/// Magic number of files whose times are in nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Version 2.4, the only one.
const VERSION: (u16, u16) = (2, 4);
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;
/// Longest packet in bytes that readers must expect.
const SNAP_LENGTH: u32 = 0x4_0000;

/// A file that frames are written to as they pass.
#[derive(Debug)]
pub(super) struct Pcap<W = RecordFile> {
    file: W,
}

impl<W: Write> Pcap<W> {
    /// Begins the file.
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

    /// Where it goes.
    pub(super) fn file(&self) -> &W {
        &self.file
    }

    /// Adds a frame that passes `now`, which is since the Unix epoch.
    pub(super) fn record(&mut self, now: Duration, frame: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(16 + frame.len());
        // Seconds are unsigned, and last until 2106.
        record.extend((now.as_secs() as u32).to_le_bytes());
        record.extend(now.subsec_nanos().to_le_bytes());
        record.extend((frame.len() as u32).to_le_bytes());
        record.extend((frame.len() as u32).to_le_bytes());
        record.extend(frame);
        // In one call, so that whoever looks meanwhile sees whole records.
        self.file.write_all(&record)
    }
}
