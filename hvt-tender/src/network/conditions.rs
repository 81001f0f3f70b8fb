//! What a network does to the frames that pass.

use std::time::Duration;

use fastrand::Rng;

/// What a network does to frames on their way to a port. The default is to deliver each at once, once and in order.
///
/// All chances come from a seed: the same frames in the same order meet the same fate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    loss: f64,
    duplication: f64,
    reordering: f64,
    delay: Duration,
    seed: u64,
}

impl Conditions {
    /// How much longer a frame takes that others are to overtake.
    const DETOUR: Duration = Duration::from_millis(1);

    /// A network without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Share of the frames that are lost, from 0 to 1.
    #[must_use]
    pub fn loss(mut self, share: f64) -> Self {
        self.loss = share;
        self
    }

    /// Share of the frames that arrive twice, from 0 to 1.
    #[must_use]
    pub fn duplication(mut self, share: f64) -> Self {
        self.duplication = share;
        self
    }

    /// Share of the frames that take 1 ms longer than the others, so that those overtake them; from 0 to 1.
    #[must_use]
    pub fn reordering(mut self, share: f64) -> Self {
        self.reordering = share;
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
    conditions: Conditions,
    chance: Rng,
}

impl Way {
    /// The way to the port of this number.
    pub(super) fn new(conditions: Conditions, number: usize) -> Self {
        // The ways of a network share a seed but not their luck.
        let chance =
            Rng::with_seed(conditions.seed.wrapping_add((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Self { conditions, chance }
    }

    /// How long each copy of the next frame takes: none, one, or two of them.
    ///
    /// Every frame takes as many draws as any other, so that changing one share leaves the others' luck as it is.
    pub(super) fn next(&mut self) -> [Option<Duration>; 2] {
        let mut drawn = |share: f64| self.chance.f64() < share;
        let (lost, twice, late) =
            (drawn(self.conditions.loss), drawn(self.conditions.duplication), drawn(self.conditions.reordering));
        let detour = if late { Conditions::DETOUR } else { Duration::ZERO };
        let arrives = (!lost).then_some(self.conditions.delay.saturating_add(detour));
        [arrives, arrives.filter(|_| twice)]
    }
}
