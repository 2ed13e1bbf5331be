//! Whether an instance counts as alive, by its checks. Pure: one failed check out of many does not
//! change it; only N failures or M successes in a row do.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Up,
    /// It no longer answers: deregister it.
    Down,
}

/// The state of one instance.
#[derive(Debug, Clone)]
pub struct HealthCounter {
    fall: u32,
    rise: u32,
    up: bool,
    /// Before the first success, one success is enough: a new instance is registered as soon as
    /// possible.
    fresh: bool,
    /// Checks in a row that contradict `up`.
    against: u32,
}

impl HealthCounter {
    /// An instance that has not answered yet. `fall` and `rise` count as 1 where they are 0.
    pub fn new(fall: u32, rise: u32) -> Self {
        Self {
            fall: fall.max(1),
            rise: rise.max(1),
            up: false,
            fresh: true,
            against: 0,
        }
    }

    /// Whether the instance counts as alive.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether it has not answered yet since it is watched.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Takes the outcome of a check, and says whether the state has turned.
    pub fn observe(&mut self, answered: bool) -> Option<Turn> {
        if answered == self.up {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = match (self.up, self.fresh) {
            (true, _) => self.fall,
            (false, true) => 1,
            (false, false) => self.rise,
        };
        if self.against < needed {
            return None;
        }
        (self.up, self.fresh, self.against) = (answered, false, 0);
        Some(if answered { Turn::Up } else { Turn::Down })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One letter a check: `+` answered, `-` did not; `U` and `D` where the state turned.
    fn check(fall: u32, rise: u32, checks: &str, expected: &str) {
        let mut health = HealthCounter::new(fall, rise);
        let turns: String = checks
            .chars()
            .map(|letter| match health.observe(letter == '+') {
                Some(Turn::Up) => 'U',
                Some(Turn::Down) => 'D',
                None => '.',
            })
            .collect();
        assert_eq!(turns, expected, "fall {fall}, rise {rise}: {checks}");
    }

    #[test]
    fn turns() {
        check(3, 2, "--+++", "..U..");
        check(3, 2, "+--+--+---++", "U........D.U");
        check(3, 2, "+---+-++", "U..D...U");
        check(1, 1, "+-+-", "UDUD");
        check(0, 0, "+-+", "UDU");
    }

    proptest! {
        #[test]
        fn turns_alternate_and_need_as_many_in_a_row(fall in 1u32..5, rise in 1u32..5, checks: Vec<bool>) {
            let mut health = HealthCounter::new(fall, rise);
            let (mut row, mut last) = (0, None);
            for answered in checks {
                row = if last == Some(answered) { row + 1 } else { 1 };
                last = Some(answered);
                let before = health.is_up();
                if let Some(turn) = health.observe(answered) {
                    prop_assert_eq!(turn == Turn::Up, answered);
                    prop_assert_ne!(before, health.is_up());
                    prop_assert!(answered || row >= fall);
                }
            }
        }
    }
}
