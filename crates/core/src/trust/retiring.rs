//! Whether environments that vanish may retire what only they needed. A registry that is empty, or
//! loses half of its environments at a stroke, is more likely a fault than a wish; to start again
//! what was retired by mistake takes minutes, and to keep what nobody needs costs little.
//!
//! Only environments count that need something of ours: with others nothing would be retired, and
//! empty ones that come and go would keep a launcher from retiring anything. An end that was meant
//! does not count either: see [`MeantEnds`](super::MeantEnds).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::is_mass;
use crate::names::EnvironmentName;

/// What was seen of the environments.
#[derive(Debug)]
pub struct Retiring {
    window: Duration,
    /// Those that count and are there.
    counted: BTreeSet<EnvironmentName>,
    /// Those that have vanished although nobody meant it: within the window, or since then while
    /// retiring is held back.
    lost: BTreeMap<EnvironmentName, LostEnvironment>,
    /// How many there are, whether they count or not.
    total: usize,
    /// Whether there was ever one.
    has_seen: bool,
    /// An operator has confirmed that there is none.
    empty_is_meant: bool,
}

/// An environment that has vanished.
#[derive(Debug)]
struct LostEnvironment {
    /// The revision at which it was put last.
    changed: i64,
    at: Instant,
    counts: bool,
}

impl Retiring {
    /// Takes a loss of half within `window` for a fault; with none, everything may be retired.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            counted: BTreeSet::new(),
            lost: BTreeMap::new(),
            total: 0,
            has_seen: false,
            empty_is_meant: false,
        }
    }

    /// Takes which environments count, before some of them vanish.
    pub fn count(&mut self, counted: BTreeSet<EnvironmentName>) {
        self.counted = counted;
    }

    /// Takes how many environments there are now, which of them have gone, and at which revision
    /// each of those was put last; whether one is there; and whether the end of one that was put at
    /// a revision was meant.
    pub fn observe(
        &mut self,
        total: usize,
        gone: Vec<(EnvironmentName, i64)>,
        is_there: impl Fn(&EnvironmentName) -> bool,
        is_meant: impl Fn(&EnvironmentName, i64) -> bool,
        at: Instant,
    ) {
        self.total = total;
        self.has_seen |= total > 0;
        self.empty_is_meant &= total == 0;
        if self.window.is_zero() {
            return;
        }
        if total > 0 && !self.is_half_lost() {
            let window = self.window;
            self.lost
                .retain(|_, lost| at.saturating_duration_since(lost.at) <= window);
        }
        for (name, changed) in gone {
            let counts = self.counted.contains(&name);
            self.lost.insert(name, LostEnvironment { changed, at, counts });
        }
        let (back, lost): (BTreeMap<_, _>, _) = std::mem::take(&mut self.lost)
            .into_iter()
            .partition(|(name, _)| is_there(name));
        self.lost = lost;
        self.lost.retain(|name, lost| !is_meant(name, lost.changed));
        self.counted.retain(is_there);
        let back = back.into_iter().filter(|(_, lost)| lost.counts);
        self.counted.extend(back.map(|(name, _)| name));
    }

    /// An operator's confirmation that the present state is meant.
    pub fn confirm(&mut self) {
        self.lost.clear();
        self.empty_is_meant = self.total == 0;
    }

    /// Why nothing may be retired at present; `None` when it may.
    pub fn closed(&self) -> Option<String> {
        if self.window.is_zero() {
            return None;
        }
        if self.total == 0 {
            let is_meant = self.empty_is_meant || (self.has_seen && self.lost.is_empty());
            return (!is_meant).then(|| "etcd has no environment at all".to_owned());
        }
        self.is_half_lost().then(|| {
            format!(
                "{} of {} environments vanished within {}",
                self.lost_count(),
                self.lost_count() + self.counted.len(),
                humantime::format_duration(self.window)
            )
        })
    }

    /// How many of those that count are lost.
    fn lost_count(&self) -> usize {
        self.lost.values().filter(|lost| lost.counts).count()
    }

    fn is_half_lost(&self) -> bool {
        is_mass(self.lost_count(), self.counted.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0:4 5:2` for four environments that count at second 0 and two at second 5, `6:ok` for an
    /// operator's word, `7:4+9` for nine others beside four, `8:1!` where those that go are noted as
    /// ended, and `9:!` for notes of all that have gone before; the window is 30 s.
    fn check(history: &str, closed: &str) {
        assert_eq!(
            played(Duration::from_secs(30), history).unwrap_or_default(),
            closed,
            "{history}"
        );
    }

    fn played(window: Duration, history: &str) -> Option<String> {
        let (mut retiring, start) = (Retiring::new(window), Instant::now());
        let named = |kind: &str, count: usize| -> BTreeSet<EnvironmentName> {
            let names = (0..count).map(|number| format!("{kind}{number}"));
            names.map(|name| name.parse().unwrap()).collect()
        };
        let (mut before, mut total) = (BTreeSet::new(), 0);
        let mut all: BTreeSet<EnvironmentName> = BTreeSet::new();
        let mut meant: BTreeSet<EnvironmentName> = BTreeSet::new();
        for event in history.split(' ') {
            let (second, what) = event.split_once(':').unwrap();
            let at = start + Duration::from_secs(second.parse().unwrap());
            if what == "ok" {
                retiring.confirm();
                continue;
            }
            let (what, is_noted) = match what.strip_suffix('!') {
                Some(what) => (what, true),
                None => (what, false),
            };
            let (counted, others) = what.split_once('+').unwrap_or((what, "0"));
            let (now, others) = match counted {
                "" => (before.clone(), total - before.len()),
                counted => (
                    named("counted", counted.parse().unwrap()),
                    others.parse().unwrap(),
                ),
            };
            let there: BTreeSet<_> = now.union(&named("other", others)).cloned().collect();
            let gone: Vec<_> = all.difference(&there).map(|name| (name.clone(), 1)).collect();
            match is_noted {
                true if counted.is_empty() => meant = named("counted", 50),
                true => meant.extend(gone.iter().map(|(name, _)| name.clone())),
                false => meant.retain(|name| !there.contains(name)),
            }
            retiring.count(std::mem::replace(&mut before, now));
            let is_meant = |name: &EnvironmentName, _| meant.contains(name);
            retiring.observe(there.len(), gone, |name| there.contains(name), is_meant, at);
            (total, all) = (there.len(), there);
        }
        retiring.closed()
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
    fn ends_that_were_meant_are_believed() {
        check("0:4 100:1!", "");
        check("0:3 100:2! 101:1!", "");
        // The note comes a moment later, or only after hours.
        check("0:4 100:1 101:!", "");
        check("0:4 100:1 9000:!", "");
        // All of them ended, and there is nothing to come back.
        check("0:2 100:0!", "");
        check("0:2 100:1! 200:0 201:!", "");
        check("0:2+3 100:0 101:!", "etcd has no environment at all");
        // Beside them, others vanish.
        check("0:8 100:6! 101:3", "3 of 6 environments vanished within 30s");
        check("0:8 100:6! 101:4", "");
        check("0:8 100:6! 101:0", "etcd has no environment at all");
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

    #[test]
    fn without_a_window_everything_may_be_retired() {
        for history in ["0:0", "0:4 100:0", "0:4 100:2"] {
            assert_eq!(played(Duration::ZERO, history), None, "{history}");
        }
    }
}
