//! Where the bytes of a disk are: what it began with, and the pages written since.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::memory::GuestSlice;

/// Unit of copying in bytes.
const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// Bytes without an end. Behind what it began with there are zeros.
#[derive(Debug)]
pub(super) struct Store {
    base: Base,
    written: HashMap<u64, Box<Page>>,
}

#[derive(Debug)]
enum Base {
    Bytes(Vec<u8>),
    File(File),
}

impl Store {
    pub(super) fn zeros() -> Self {
        Self::bytes(Vec::new())
    }

    pub(super) fn bytes(bytes: Vec<u8>) -> Self {
        Self { base: Base::Bytes(bytes), written: HashMap::new() }
    }

    /// What a file holds, which is open for reading.
    pub(super) fn file(file: File) -> Self {
        Self { base: Base::File(file), written: HashMap::new() }
    }

    /// The file that it began with, if it was one.
    pub(super) fn base_file(&self) -> Option<&File> {
        match &self.base {
            Base::Bytes(_) => None,
            Base::File(file) => Some(file),
        }
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        for piece in pieces(offset, into.len() as u64) {
            let into = &mut into[piece.done..piece.done + piece.len];
            match self.written.get(&piece.page) {
                Some(page) => into.copy_from_slice(&page[piece.start..piece.start + piece.len]),
                None => self.base.read(piece.page * PAGE as u64 + piece.start as u64, into)?,
            }
        }
        Ok(())
    }

    pub(super) fn read_to(&self, offset: u64, into: GuestSlice<'_>) -> io::Result<()> {
        let mut buffer = [0; PAGE];
        for piece in pieces(offset, into.len()) {
            let buffer = &mut buffer[..piece.len];
            self.read(offset + piece.done as u64, buffer)?;
            into.skip(piece.done as u64).write(buffer);
        }
        Ok(())
    }

    pub(super) fn write_from(&mut self, offset: u64, from: GuestSlice<'_>) -> io::Result<()> {
        for piece in pieces(offset, from.len()) {
            if !self.written.contains_key(&piece.page) {
                let mut page = Box::new([0; PAGE]);
                if piece.len < PAGE {
                    self.base.read(piece.page * PAGE as u64, page.as_mut_slice())?;
                }
                self.written.insert(piece.page, page);
            }
            if let Some(page) = self.written.get_mut(&piece.page) {
                from.skip(piece.done as u64).read(&mut page[piece.start..piece.start + piece.len]);
            }
        }
        Ok(())
    }
}

impl Base {
    /// Fills all of `into`.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        match self {
            Self::Bytes(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
                done = rest.len().min(into.len());
                into[..done].copy_from_slice(&rest[..done]);
            }
            Self::File(file) => {
                while done < into.len() {
                    match file.read_at(&mut into[done..], offset + done as u64) {
                        Ok(0) => break,
                        Ok(read) => done += read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        into[done..].fill(0);
        Ok(())
    }
}

/// A part of a transfer that lies in one page.
struct Piece {
    page: u64,
    /// First byte inside of the page.
    start: usize,
    len: usize,
    /// Bytes of the transfer before it.
    done: usize,
}

fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let at = offset.checked_add(done)?;
        let start = (at % PAGE as u64) as usize;
        let piece_len = left.min((PAGE - start) as u64) as usize;
        let piece = Piece { page: at / PAGE as u64, start, len: piece_len, done: done as usize };
        done += piece_len as u64;
        Some(piece)
    })
}
