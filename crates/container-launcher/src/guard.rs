//! Whether what etcd says of environments is believed when it would retire containers. A registry that is empty, or loses
//! half of its environments within seconds, is more likely a fault than anybody's wish; starting again what was retired by
//! mistake takes minutes, and keeping what nobody needs costs little. Pure; the clock is an argument.
//!
//! Counted are only environments that resolve to a unit of ours: with others nothing would be retired, and whoever lets empty
//! ones come and go would keep the launcher from retiring anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// One lost environment is never half of them: two environments of which one is deleted are daily life.
const LEAST_LOSS: usize = 2;

/// What it has seen of the environments, by their keys.
#[derive(Debug)]
pub struct Guard {
    window: Duration,
    /// Those that count and are there.
    counted: BTreeSet<String>,
    /// Those that counted and have vanished, and when: within the window, or since then while it is closed.
    lost: BTreeMap<String, Instant>,
    /// How many there are, whether they count or not.
    total: usize,
    /// Somebody has said that an empty list is meant.
    empty_is_meant: bool,
}

impl Guard {
    /// A guard that takes a loss of half within `window` for a fault.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            counted: BTreeSet::new(),
            lost: BTreeMap::new(),
            total: 0,
            empty_is_meant: false,
        }
    }

    /// Takes which environments count, before some of them vanish.
    pub fn count(&mut self, counted: BTreeSet<String>) {
        self.counted = counted;
    }

    /// Takes how many environments there are now, and whether one of a key is among them.
    pub fn observe(&mut self, total: usize, is_there: impl Fn(&str) -> bool, at: Instant) {
        self.total = total;
        self.empty_is_meant &= total == 0;
        if !self.is_half_lost() {
            let window = self.window;
            self.lost
                .retain(|_, lost| at.saturating_duration_since(*lost) <= window);
        }
        let (back, lost) = std::mem::take(&mut self.lost)
            .into_iter()
            .partition(|(key, _)| is_there(key));
        self.lost = lost;
        let (counted, gone) = std::mem::take(&mut self.counted)
            .into_iter()
            .partition(|key| is_there(key));
        self.counted = counted;
        self.counted.extend(BTreeMap::<String, Instant>::into_keys(back));
        let gone: BTreeSet<String> = gone;
        self.lost.extend(gone.into_iter().map(|key| (key, at)));
    }

    /// An operator's word that the present state is meant.
    pub fn confirm(&mut self) {
        self.lost.clear();
        self.empty_is_meant = self.total == 0;
    }

    /// Why nothing may be retired at present; `None` when it may.
    pub fn closed(&self) -> Option<String> {
        if self.total == 0 {
            return (!self.empty_is_meant).then(|| "etcd has no environment at all".to_owned());
        }
        self.is_half_lost().then(|| {
            format!(
                "{} of {} environments vanished within {}",
                self.lost.len(),
                self.lost.len() + self.counted.len(),
                humantime::format_duration(self.window)
            )
        })
    }

    fn is_half_lost(&self) -> bool {
        let lost = self.lost.len();
        lost >= LEAST_LOSS && lost >= self.counted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0:4 5:2` for four environments that count at second 0 and two at second 5, `6:ok` for an operator's word, `7:4+9`
    /// for nine others beside four; the guard has a window of 30 s.
    fn check(history: &str, closed: &str) {
        let (mut guard, start) = (Guard::new(Duration::from_secs(30)), Instant::now());
        let named = |kind: &str, count: usize| -> BTreeSet<String> {
            (0..count).map(|number| format!("{kind}{number}")).collect()
        };
        let mut before = BTreeSet::new();
        for event in history.split(' ') {
            let (second, what) = event.split_once(':').unwrap();
            let at = start + Duration::from_secs(second.parse().unwrap());
            if what == "ok" {
                guard.confirm();
                continue;
            }
            let (counted, others) = what.split_once('+').unwrap_or((what, "0"));
            let now = named("counted", counted.parse().unwrap());
            let others = named("other", others.parse().unwrap());
            guard.count(std::mem::replace(&mut before, now.clone()));
            let is_there = |key: &str| now.contains(key) || others.contains(key);
            guard.observe(now.len() + others.len(), is_there, at);
        }
        let told = guard.closed().unwrap_or_default();
        assert_eq!(told, closed, "{history}");
    }

    #[test]
    fn an_empty_list_is_not_believed_without_a_word() {
        check("0:0", "etcd has no environment at all");
        check("0:1 100:0 5000:0", "etcd has no environment at all");
        check("0:1 100:0 101:ok", "");
        check("0:1 100:0 101:ok 200:1 300:0", "etcd has no environment at all");
    }

    #[test]
    fn half_of_them_within_seconds_is_not_believed() {
        check("0:4 100:2", "2 of 4 environments vanished within 30s");
        check(
            "0:10 1:9 2:8 3:7 4:6 5:5",
            "5 of 10 environments vanished within 30s",
        );
        check("0:4 100:2 5000:2", "2 of 4 environments vanished within 30s");
        check("0:4 100:2 5000:1", "3 of 4 environments vanished within 30s");
    }

    #[test]
    fn a_slow_end_and_the_daily_life_of_few_are_believed() {
        check("0:4 100:3 200:2 300:1", "");
        check("0:2 100:1", "");
        check("0:10 1:9 2:8 3:7 4:6", "");
        check("0:10 20:7 60:4", "");
    }

    #[test]
    fn environments_that_nothing_of_ours_is_for_do_not_count() {
        check("0:2 10:2+8 12:2 19:1", "");
        check("0:2 10:2+8 12:2 19:0", "etcd has no environment at all");
        check("0:2+8 10:0+8", "2 of 2 environments vanished within 30s");
        check("0:1+8 10:0+8", "");
    }

    #[test]
    fn it_opens_when_they_are_back_or_by_a_word() {
        check("0:4 100:2 101:3", "");
        check("0:4 100:2 101:ok", "");
        check("0:4 100:2 101:ok 102:1", "");
        check(
            "0:8 100:4 101:ok 102:2",
            "2 of 4 environments vanished within 30s",
        );
    }
}
