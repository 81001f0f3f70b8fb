//! Fills the heap, checks it, frees it, and fills it again.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;

use guest_bindings::{ExitStatus, StartInfo, println};
use test_unikernels::{check, success};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

/// Size of a piece in bytes.
const PIECE: usize = 16 << 10;

fn main(start: &StartInfo) -> ExitStatus {
    let first = fill(start, 1);
    check(first > start.heap_size / 100 * 95, "less than 95 % of the heap could be allocated");
    let second = fill(start, 2);
    check(second == first, "freed memory could not be allocated again");
    success()
}

/// Allocates the whole heap in pieces, and returns the number of bytes allocated.
fn fill(start: &StartInfo, round: usize) -> usize {
    let heap = start.heap_start..start.heap_start + start.heap_size;
    let mut pieces: Vec<Box<[usize]>> = Vec::with_capacity(start.heap_size / PIECE);
    loop {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(PIECE / size_of::<usize>()).is_err() {
            break;
        }
        piece.resize(PIECE / size_of::<usize>(), 0);
        let address = piece.as_ptr().addr();
        check(heap.contains(&address), "a piece lies outside the heap");
        check(piece.iter().all(|&word| word == 0), "a piece cannot be cleared");
        piece.fill(address ^ round);
        pieces.push(piece.into_boxed_slice());
    }
    println!("{} pieces of {PIECE} bytes", pieces.len());
    for piece in &pieces {
        let word = piece.as_ptr().addr() ^ round;
        check(piece.iter().all(|&found| found == word), "two pieces overlap");
    }
    pieces.len() * PIECE
}
