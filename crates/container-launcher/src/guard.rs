//! Whether what etcd says of environments is believed when it would retire containers. A registry that is empty, or loses
//! half of its environments within seconds, is more likely a fault than anybody's wish; starting anew what was retired by
//! mistake takes minutes, and keeping what nobody needs costs little. Pure; the clock is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One lost environment is never half of them: two environments of which one is deleted are daily life.
const LEAST_LOSS: usize = 2;

/// What it has seen of the number of environments.
#[derive(Debug)]
pub struct Guard {
    window: Duration,
    /// How many there were, and until when at least, the oldest first.
    counts: VecDeque<(Instant, usize)>,
    now: usize,
    /// How many there were when half of them vanished.
    lost_from: Option<usize>,
    /// Somebody has said that an empty list is meant.
    empty_is_meant: bool,
}

impl Guard {
    /// A guard that takes a loss of half within `window` for a fault.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            counts: VecDeque::new(),
            now: 0,
            lost_from: None,
            empty_is_meant: false,
        }
    }

    /// Takes how many environments there are now.
    pub fn observe(&mut self, count: usize, at: Instant) {
        // The former count held until this moment.
        if let Some((until, last)) = self.counts.back_mut() {
            if *last == count {
                *until = at;
            } else {
                *until = at;
                self.counts.push_back((at, count));
            }
        } else {
            self.counts.push_back((at, count));
        }
        let window = self.window;
        self.counts
            .retain(|(until, _)| at.saturating_duration_since(*until) <= window);
        self.now = count;
        self.empty_is_meant &= count == 0;
        let most = self.counts.iter().map(|(_, count)| *count).max().unwrap_or(count);
        let from = self.lost_from.unwrap_or(most).max(most);
        self.lost_from = is_half_lost(from, count).then_some(from);
    }

    /// An operator's word that the present state is meant.
    pub fn confirm(&mut self, at: Instant) {
        self.counts.clear();
        self.counts.push_back((at, self.now));
        self.lost_from = None;
        self.empty_is_meant = self.now == 0;
    }

    /// Why nothing may be retired at present; `None` when it may.
    pub fn closed(&self) -> Option<String> {
        match (self.now, self.lost_from) {
            (0, _) if self.empty_is_meant => None,
            (0, _) => Some("etcd has no environment at all".to_owned()),
            (now, Some(from)) => Some(format!(
                "{} of {from} environments vanished within {}",
                from - now,
                humantime::format_duration(self.window)
            )),
            (_, None) => None,
        }
    }
}

fn is_half_lost(from: usize, now: usize) -> bool {
    let lost = from.saturating_sub(now);
    lost >= LEAST_LOSS && lost * 2 >= from
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0:4 5:2` for four environments at second 0 and two at second 5, `6:ok` for an operator's word; the guard has a
    /// window of 30 s.
    fn check(history: &str, closed: &str) {
        let (mut guard, start) = (Guard::new(Duration::from_secs(30)), Instant::now());
        for event in history.split(' ') {
            let (second, what) = event.split_once(':').unwrap();
            let at = start + Duration::from_secs(second.parse().unwrap());
            match what {
                "ok" => guard.confirm(at),
                count => guard.observe(count.parse().unwrap(), at),
            }
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
