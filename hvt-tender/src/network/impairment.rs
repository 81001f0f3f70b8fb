//! Loss, duplication, reordering and delay of frames.

use std::time::Duration;

use fastrand::Rng;

/// Loss, duplication, reordering and delay of the frames that a network delivers to a port, as with
/// `tc netem`. By default every frame is delivered immediately, once, and in order.
///
/// All random numbers derive from the [seed](Self::seed): the same frames in the same order are
/// impaired in the same way in every run.
///
/// A probability below 0 or NaN counts as 0, a probability above 1 as 1.
///
/// ```
/// use hvt_tender::network::{Impairment, Link};
///
/// let lossy = Impairment::new().loss(0.5).seed(7);
/// let (ours, theirs) = Link::new().impairment(lossy).ports()?;
/// (0..100).try_for_each(|_| ours.send(&[0; 60]))?;
/// let received = std::iter::from_fn(|| theirs.try_receive()).count();
/// assert!((30..70).contains(&received), "{received}");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impairment {
    loss: f64,
    duplication: f64,
    reordering: f64,
    delay: Duration,
    seed: u64,
}

impl Impairment {
    /// Extra delay of a reordered frame.
    const DETOUR: Duration = Duration::from_millis(1);

    /// Creates an impairment that delivers every frame immediately, once, and in order.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the probability that a frame is lost, from 0 to 1.
    #[must_use]
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = probability;
        self
    }

    /// Sets the probability that a frame arrives twice, from 0 to 1.
    #[must_use]
    pub fn duplication(mut self, probability: f64) -> Self {
        self.duplication = probability;
        self
    }

    /// Sets the probability that a frame is reordered, from 0 to 1. A reordered frame arrives 1 ms
    /// late, so that the frames behind it overtake it.
    #[must_use]
    pub fn reordering(mut self, probability: f64) -> Self {
        self.reordering = probability;
        self
    }

    /// Sets the delay of every frame.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets the seed of the random number generator (default: 0).
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Returns whether a frame may arrive later than it was sent.
    pub(super) fn delays(&self) -> bool {
        !self.delay.is_zero() || self.reordering > 0.0
    }
}

/// Impairment of the frames to one port, with its random number generator.
#[derive(Debug)]
pub(super) struct Way {
    impairment: Impairment,
    chance: Rng,
}

impl Way {
    /// Creates the path to the port with this number.
    pub(super) fn new(impairment: Impairment, number: usize) -> Self {
        // The paths of a network share a seed but draw different random numbers.
        let chance =
            Rng::with_seed(impairment.seed.wrapping_add((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Self { impairment, chance }
    }

    /// Returns the delays of the next frame's copies: no copy, one copy, or two copies.
    ///
    /// Every frame takes the same number of draws, so that a change of one probability does not
    /// change the outcome of the others.
    pub(super) fn next(&mut self) -> [Option<Duration>; 2] {
        let mut drawn = |probability: f64| self.chance.f64() < probability;
        let (lost, twice, late) =
            (drawn(self.impairment.loss), drawn(self.impairment.duplication), drawn(self.impairment.reordering));
        let detour = if late { Impairment::DETOUR } else { Duration::ZERO };
        let arrives = (!lost).then_some(self.impairment.delay.saturating_add(detour));
        [arrives, arrives.filter(|_| twice)]
    }
}
