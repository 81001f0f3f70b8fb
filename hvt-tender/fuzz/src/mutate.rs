//! Fuzz inputs without a fuzzer: seeds, and mutations of seeds by a generator with a fixed seed.
//! Every run has the same inputs.

use std::path::Path;
use std::{fs, io};

use arbitrary::{Arbitrary, Unstructured};

/// Maximum length of an input in bytes: libFuzzer's default.
const LONGEST: usize = 4096;

/// Bytes with a frequent special meaning.
const INTERESTING: [u8; 8] = [0, 1, 2, 0x40, 0x7f, 0x80, 0xfe, 0xff];

/// Pseudo-random numbers: xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `end`, which must not be 0. The high bits of the generator are of
    /// better quality.
    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 32) as usize) % end
    }
}

/// Returns the files of a folder, ordered by name. A folder that does not exist yields an empty
/// list.
///
/// # Errors
///
/// Returns the I/O error if the folder or a file cannot be read.
pub fn seeds(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

/// Returns each seed unchanged, then `count` mutations of seeds.
pub fn inputs(seeds: &[Vec<u8>], count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mutations = (0..count).map(move |_| mutation(seeds, &mut random));
    seeds.iter().cloned().chain(mutations)
}

/// Returns a seed with up to eight changes.
fn mutation(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = if seeds.is_empty() { Vec::new() } else { seeds[random.below(seeds.len())].clone() };
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let len = 1 + random.below(16);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = INTERESTING[random.below(INTERESTING.len())],
            2 if at < input.len() => input[at] = random.next() as u8,
            3 => drop(input.drain(at..(at + len).min(input.len()))),
            4 => drop(input.splice(at..at, (0..len).map(|_| (random.next() >> 56) as u8).collect::<Vec<_>>())),
            5 => {
                let chunk = input[at..(at + len).min(input.len())].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, chunk);
            }
            _ if !seeds.is_empty() => {
                let other = &seeds[random.below(seeds.len())];
                input.truncate(at);
                input.extend(&other[random.below(other.len() + 1)..]);
            }
            _ => {}
        }
    }
    input.truncate(LONGEST);
    input
}

/// Decodes an input as libFuzzer does. Returns `None` for an input that libFuzzer would skip.
pub fn decode<'a, T: Arbitrary<'a>>(input: &'a [u8]) -> Option<T> {
    let (least, _) = T::size_hint(0);
    if input.len() < least { None } else { T::arbitrary_take_rest(Unstructured::new(input)).ok() }
}
