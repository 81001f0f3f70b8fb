//! Contents of a disk in memory: initial contents, and the pages written since.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::convert::Infallible;

use crate::memory::GuestSlice;

/// Unit of copying in bytes.
const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// Initial contents of a [`Store`].
pub trait Base {
    /// Failure to read the initial contents.
    type Error;

    /// Fills all of `into` with the bytes from `offset` on. Bytes behind the end of the contents
    /// are zero.
    ///
    /// # Errors
    /// Returns [`Self::Error`] if the contents cannot be read.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Self::Error>;
}

impl Base for Vec<u8> {
    type Error = Infallible;

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Infallible> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        into[len..].fill(0);
        Ok(())
    }
}

/// Unbounded byte array. Beside the initial contents, only written pages take memory.
#[derive(Debug)]
pub struct Store<B> {
    base: B,
    written: BTreeMap<u64, Box<Page>>,
}

impl<B: Base> Store<B> {
    /// Creates a store with these initial contents.
    pub const fn new(base: B) -> Self {
        Self { base, written: BTreeMap::new() }
    }

    /// Returns the initial contents.
    pub const fn base(&self) -> &B {
        &self.base
    }

    /// Fills all of `into` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Returns [`Base::Error`] if the initial contents cannot be read.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), B::Error> {
        for piece in pieces(offset, into.len() as u64) {
            let into = &mut into[piece.done..piece.done + piece.len];
            match self.written.get(&piece.page) {
                Some(page) => into.copy_from_slice(&page[piece.start..piece.start + piece.len]),
                None => self.base.read(piece.page * PAGE as u64 + piece.start as u64, into)?,
            }
        }
        Ok(())
    }

    /// Fills the guest's buffer `into` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Returns [`Base::Error`] if the initial contents cannot be read.
    pub fn read_to(&self, offset: u64, into: GuestSlice<'_>) -> Result<(), B::Error> {
        let mut buffer = [0; PAGE];
        for piece in pieces(offset, into.len()) {
            let buffer = &mut buffer[..piece.len];
            self.read(offset + piece.done as u64, buffer)?;
            into.skip(piece.done as u64).write(buffer);
        }
        Ok(())
    }

    /// Writes the guest's buffer `from` from `offset` on.
    ///
    /// # Errors
    /// Returns [`Base::Error`] if a page is partly written and its initial contents cannot be read.
    pub fn write_from(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), B::Error> {
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

/// Part of a transfer that lies in one page.
struct Piece {
    page: u64,
    /// Offset of the first byte in the page.
    start: usize,
    len: usize,
    /// Bytes of the transfer before this piece.
    done: usize,
}

fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let at = offset.checked_add(done)?;
        let start = (at % PAGE as u64) as usize;
        let piece_len = left.min((PAGE - start) as u64) as usize;
        let piece = Piece { page: at / PAGE as u64, start, len: piece_len, done: done as usize };
        done += piece_len as u64;
        Some(piece)
    })
}
