//! Waiting for a condition, with a limit. Tests never sleep a fixed time and hope; they poll what they wait for.

use std::future::Future;
use std::time::{Duration, Instant};

/// Pause between two looks: short against any delay that a test cares about, long enough to leave the CPU alone.
const PAUSE: Duration = Duration::from_millis(15);

/// What a look at a condition found.
pub trait Verdict {
    /// What `eventually` returns when the condition holds.
    type Value;

    /// The value if the condition holds, else why it does not.
    fn verdict(self) -> Result<Self::Value, String>;
}

impl Verdict for bool {
    type Value = ();

    fn verdict(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("the condition is false".into())
        }
    }
}

impl<T> Verdict for Option<T> {
    type Value = T;

    fn verdict(self) -> Result<T, String> {
        self.ok_or_else(|| "there is no value yet".into())
    }
}

impl<T, E: std::fmt::Debug> Verdict for Result<T, E> {
    type Value = T;

    fn verdict(self) -> Result<T, String> {
        self.map_err(|e| format!("{e:?}"))
    }
}

/// Looks until `condition` holds (true, `Some` or `Ok`) and returns its value.
///
/// # Panics
/// When `limit` has passed, with `what` and the reason of the last look.
#[track_caller]
pub fn eventually<V, C>(limit: Duration, what: &str, mut condition: C) -> impl Future<Output = V::Value>
where
    V: Verdict,
    C: AsyncFnMut() -> V,
{
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            // A look that hangs (a frozen etcd, say) must not outlast the limit by much.
            let left = limit
                .saturating_sub(start.elapsed())
                .max(Duration::from_millis(200));
            let reason = match tokio::time::timeout(left, condition()).await {
                Ok(verdict) => match verdict.verdict() {
                    Ok(value) => return value,
                    Err(reason) => reason,
                },
                Err(_) => "the last look did not return".into(),
            };
            if start.elapsed() >= limit {
                panic!("{place}: not within {limit:?}: {what}: {reason}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Checks that `condition` holds all through `span`.
///
/// # Panics
/// At the first look at which it does not, with `what` and the reason.
#[track_caller]
pub fn throughout<V, C>(span: Duration, what: &str, mut condition: C) -> impl Future<Output = ()>
where
    V: Verdict,
    C: AsyncFnMut() -> V,
{
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while start.elapsed() < span {
            if let Err(reason) = condition().await.verdict() {
                panic!("{place}: after {:?} no longer: {what}: {reason}", start.elapsed());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
