//! What a network does to the frames that pass.

use std::time::Duration;

use fastrand::Rng;

/// What a network does to frames on their way to a port. The default is to deliver each at once, once and in order.
///
/// All chances come from a seed: the same frames in the same order meet the same fate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impairment {
    loss: f64,
    duplication: f64,
    reordering: f64,
    delay: Duration,
    seed: u64,
}

impl Impairment {
    /// How much longer a frame takes that others are to overtake.
    const DETOUR: Duration = Duration::from_millis(1);

    /// A network without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Share of the frames that are lost, from 0 to 1.
    #[must_use]
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = probability;
        self
    }

    /// Share of the frames that arrive twice, from 0 to 1.
    #[must_use]
    pub fn duplication(mut self, probability: f64) -> Self {
        self.duplication = probability;
        self
    }

    /// Share of the frames that take 1 ms longer than the others, so that those overtake them; from 0 to 1.
    #[must_use]
    pub fn reordering(mut self, probability: f64) -> Self {
        self.reordering = probability;
        self
    }

    /// How long every frame takes.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Where chance begins; 0 where nobody says otherwise.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Whether a frame may arrive later than it was sent.
    pub(super) fn delays(&self) -> bool {
        !self.delay.is_zero() || self.reordering > 0.0
    }
}

/// The conditions on the way to one port.
#[derive(Debug)]
pub(super) struct Way {
    impairment: Impairment,
    chance: Rng,
}

impl Way {
    /// The way to the port of this number.
    pub(super) fn new(impairment: Impairment, number: usize) -> Self {
        // The ways of a network share a seed but not their luck.
        let chance =
            Rng::with_seed(impairment.seed.wrapping_add((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Self { impairment, chance }
    }

    /// How long each copy of the next frame takes: none, one, or two of them.
    ///
    /// Every frame takes as many draws as any other, so that changing one share leaves the others' luck as it is.
    pub(super) fn next(&mut self) -> [Option<Duration>; 2] {
        let mut drawn = |probability: f64| self.chance.f64() < probability;
        let (lost, twice, late) =
            (drawn(self.impairment.loss), drawn(self.impairment.duplication), drawn(self.impairment.reordering));
        let detour = if late { Impairment::DETOUR } else { Duration::ZERO };
        let arrives = (!lost).then_some(self.impairment.delay.saturating_add(detour));
        [arrives, arrives.filter(|_| twice)]
    }
}
