//! The one helper behind every retry: the first try again comes at once, later ones after a
//! growing, jittered and capped delay. A success that lasted resets it.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Delays between tries of something that keeps failing.
///
/// The first delay after [`Backoff::reset`] is zero; then the delays double from `first` to `cap`.
/// Each is drawn from the upper half of its step, so that many daemons do not come back at the same
/// moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Default for Backoff {
    /// At once, then about 100 ms, growing to at most 1 s: what changed during an outage of etcd is
    /// to be in effect within 2 s of its end, and the changes of a daemon may wait for those of
    /// another.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(1))
    }
}

impl Backoff {
    /// Delays that grow from `first` to at most `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap: cap.max(first),
            failures: 0,
        }
    }

    /// The number of failures in a row, as counted by [`Backoff::next_delay`].
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and says how long to rest before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let doublings = self.failures.checked_sub(1);
        self.failures = self.failures.saturating_add(1);
        let Some(doublings) = doublings else {
            return Duration::ZERO;
        };
        let step = self
            .first
            .saturating_mul(1u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX));
        step.min(self.cap).mul_f64(between(0.5, 1.0))
    }

    /// Counts a failure and rests for [`Backoff::next_delay`].
    pub async fn rest(&mut self) {
        let delay = self.next_delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// Forgets all failures: what was tried has worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Tries of a change that another writer's change at the same moment can undo: ten, with a random
/// pause of 10 to 100 ms before each but the first. Several writers of the same key, such as jobs
/// that start together, so come one after the other.
///
/// ```ignore
/// let mut tries = Tries::default();
/// while tries.next().await { ... }
/// ```
#[derive(Debug, Default)]
pub struct Tries {
    begun: u32,
}

impl Tries {
    const MOST: u32 = 10;

    /// Whether there is one more try; waits until it may begin.
    pub async fn next(&mut self) -> bool {
        if self.begun == Self::MOST {
            return false;
        }
        if self.begun > 0 {
            tokio::time::sleep(Duration::from_millis(100).mul_f64(between(0.1, 1.0))).await;
        }
        self.begun += 1;
        true
    }
}

/// A number that differs from process to process: std seeds every hash map with such a one.
pub(crate) fn between(least: f64, most: f64) -> f64 {
    let any = RandomState::new().hash_one(0) >> 32;
    least + (most - least) * any as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_try_again_is_at_once_and_later_delays_grow_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        assert_eq!(backoff.next_delay(), Duration::ZERO);
        for step in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let delay = backoff.next_delay();
            let step = Duration::from_millis(step);
            assert!(
                delay >= step / 2 && delay <= step,
                "{delay:?} is not in the upper half of {step:?}"
            );
        }
        assert_eq!(backoff.failures(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn writers_of_the_same_key_try_again_after_a_pause() {
        let (mut tries, mut pauses) = (Tries::default(), Vec::new());
        let mut last = tokio::time::Instant::now();
        while tries.next().await {
            pauses.push(last.elapsed().as_millis());
            last = tokio::time::Instant::now();
        }
        assert_eq!((pauses.len(), pauses[0]), (10, 0));
        assert!(
            pauses[1..].iter().all(|pause| (10..=101).contains(pause)),
            "{pauses:?}"
        );
    }

    #[test]
    fn a_success_starts_anew_and_many_failures_do_not_overflow() {
        let mut backoff = Backoff::default();
        for _ in 0..200 {
            assert!(backoff.next_delay() <= Duration::from_secs(1));
        }
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
    }

    /// What was away for an hour is found again as soon as what was away for a minute.
    #[tokio::test(start_paused = true)]
    async fn the_pause_after_an_hour_is_no_longer_than_after_a_minute() {
        let (mut backoff, start) = (Backoff::default(), tokio::time::Instant::now());
        let mut tries = 0;
        while start.elapsed() < Duration::from_secs(3600) {
            let before = start.elapsed();
            backoff.rest().await;
            assert!(start.elapsed() - before <= Duration::from_millis(1_010));
            tries += 1;
        }
        assert!((3_600..7_300).contains(&tries), "{tries} tries in an hour");
    }

    #[tokio::test(start_paused = true)]
    async fn rest_takes_the_time_it_says() {
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(2));
        let start = tokio::time::Instant::now();
        backoff.rest().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        backoff.rest().await;
        assert!(start.elapsed() >= Duration::from_secs(1));
    }
}
