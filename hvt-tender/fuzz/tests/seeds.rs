//! Runs the check of each fuzz target on its seeds and on mutations of the seeds, without a fuzzer.
//! The inputs are the same in every run and limited in number.

use std::collections::BTreeSet;
use std::path::Path;

use arbitrary::Arbitrary;
use hvt_tender_fuzz::mutate::{decode, inputs, seeds};
use hvt_tender_fuzz::{hypercall, image};

/// Checks `count` mutations of a target's seeds and of inputs that a fuzzer has found on this
/// machine. Returns the outcomes.
fn run<T: for<'a> Arbitrary<'a>>(target: &str, count: usize, check: impl Fn(T) -> Vec<String>) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = seeds(&root.join("seeds").join(target)).unwrap();
    assert!(!known.is_empty(), "{target} has no seeds");
    known.extend(seeds(&root.join("corpus").join(target)).unwrap());
    inputs(&known, count).filter_map(|input| decode(&input).map(&check)).flatten().collect()
}

#[test]
fn image() {
    let outcomes = run("image", 5_000, image::check);
    assert!(outcomes.contains("booted"), "{outcomes:#?}");
    assert!(outcomes.len() >= 30, "{outcomes:#?}");
}

#[test]
fn hypercall() {
    let outcomes = run("hypercall", 5_000, hypercall::check);
    assert!(outcomes.len() >= 18, "{outcomes:#?}");
}
