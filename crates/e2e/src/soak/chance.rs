//! Random numbers from a seed.

use std::time::Duration;

/// SplitMix64: the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// One of several independent sequences of a seed.
    pub fn new(seed: u64, sequence: u64) -> Self {
        let mut chance = Self(seed ^ sequence.wrapping_mul(0xd1b5_4a32_d192_ed03));
        chance.number();
        chance
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// A time between two numbers of milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_its_sequences_differ() {
        let draw = |seed, sequence| {
            let mut chance = Chance::new(seed, sequence);
            [(); 8].map(|()| chance.below(1_000_000))
        };
        assert_eq!(draw(7, 0), draw(7, 0));
        assert_ne!(draw(7, 0), draw(7, 1));
        assert_ne!(draw(7, 0), draw(8, 0));
        let mut chance = Chance::new(1, 0);
        for _ in 0..1000 {
            assert!((2..=5).contains(&chance.millis(2, 5).as_millis()));
        }
    }
}
