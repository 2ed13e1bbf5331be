//! `/v1/environments/NAME`: whether an environment is in force everywhere, at once or when it is;
//! and the comment that says so.

use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use mayfly_core::names::EnvironmentName;
use mayfly_daemon::args::duration;
use mayfly_state::markdown;
use mayfly_state::wait::{SeenFailures, WaitState};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Api, ApiResult, WAITS};
use crate::problem::Problem;
use crate::query::Query;
use crate::stream::CountedStream;

const MARKDOWN: &str = "text/markdown; charset=utf-8";
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(600);
/// The shortest time between two looks at an environment that is waited for, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How many times as long as a look took the next one waits: as many requests may wait at a time.
const PROPORTION: u32 = 200;
/// When to ask an etcd again that does not answer.
const DOUBT: Duration = Duration::from_secs(1);

struct EnvironmentWait {
    state: WaitState,
    /// What `mayfly wait --format json` prints of it; `None` where nothing is answered yet.
    outcome: Option<Value>,
    /// Why there is no such environment; only with an outcome.
    unknown: Option<String>,
    /// Why registrars refuse what their files say of it.
    refused: Vec<String>,
}

impl Api {
    pub(super) async fn environment(&self, name: &str, query: &Query) -> ApiResult {
        let name = name_of(name)?;
        let mark = query.filled("mark");
        let Some(limit) = limit(query)? else {
            let found = self.find(&name, mark, |_| true)?;
            return match found.unknown {
                Some(unknown) => Err(Problem::not_found(unknown)),
                None => super::json(&found.outcome, false),
            };
        };
        let Ok(permit) = self.waits.clone().try_acquire_owned() else {
            return Err(Problem::unavailable(format!(
                "{WAITS} requests wait already, which is the limit; try again later"
            )));
        };
        let _counted = CountedStream::new(&self.metrics.waits, permit);
        self.wait(&name, mark, limit).await
    }

    /// The comment on an environment, whether it is there or not.
    pub(super) fn markdown(&self, name: &str) -> ApiResult {
        let name = name_of(name)?;
        let facts = self.live.facts();
        let state = self.live.state()?;
        let mut text = markdown::one(&state, &name, facts.edge_url.as_deref());
        if let Some(since) = facts.unreachable_since {
            text += &format!("\netcd has not answered since {since}.\n");
        }
        Ok(super::text(MARKDOWN, &text, false))
    }

    async fn wait(&self, name: &EnvironmentName, mark: Option<&str>, limit: Duration) -> ApiResult {
        let deadline = Instant::now() + limit;
        let (end, mut seen) = (SystemTime::now() + limit, SeenFailures::default());
        let mut changes = self.live.changes();
        loop {
            changes.mark_unchanged();
            let begun = Instant::now();
            let mut in_doubt = false;
            // Before etcd has answered the first time there is nothing to find.
            let (reasons, refused) = match self.find(name, mark, WaitState::is_ready) {
                Ok(EnvironmentWait {
                    outcome: Some(outcome),
                    ..
                }) => {
                    // The watch notices a silent etcd only after some seconds.
                    if self.live.is_sure(name).await {
                        return super::json(&outcome, false);
                    }
                    in_doubt = true;
                    (vec!["etcd does not answer".to_owned()], Vec::new())
                }
                Ok(found) => {
                    if let Some(backend) = seen.hopeless(&found.state, end) {
                        let what = format!("{name} cannot come into force: {backend} keeps failing");
                        let problem = not_in_force(&what, &found.state.reasons, &found.refused);
                        return Err(problem.with("failing", json!(backend)));
                    }
                    (found.state.reasons, found.refused)
                }
                Err(problem) => (vec![problem.detail], Vec::new()),
            };
            let next = begun + pause_after(begun.elapsed());
            let changed = async {
                if in_doubt {
                    // That etcd answers again is no change.
                    sleep(DOUBT).await;
                } else {
                    // Whoever tells of changes lives as long as this.
                    let _ = changes.changed().await;
                }
                sleep_until(next).await;
            };
            tokio::select! {
                () = self.shutdown.begun() => {
                    return Err(Problem::unavailable("mayfly-web is shutting down; ask again"));
                }
                () = sleep_until(deadline) => {
                    let what = format!("{name} is not in force after {}s", limit.as_secs_f64());
                    return Err(not_in_force(&what, &reasons, &refused));
                }
                () = changed => {}
            }
        }
    }

    /// How an environment is now. The outcome is costly, so it is only made where it is wanted.
    fn find(
        &self,
        name: &EnvironmentName,
        mark: Option<&str>,
        is_wanted: impl FnOnce(&WaitState) -> bool,
    ) -> Result<EnvironmentWait, Problem> {
        let since = self.unreachable_since();
        let state = self.live.state()?;
        let mut now = WaitState::of(&state, name);
        let is_marked = |mark: &&str| {
            let environment = state.index.environment(name);
            let description = environment.and_then(|environment| environment.description.as_deref());
            description.is_some_and(|description| description.contains(mark))
        };
        if let Some(mark) = mark.filter(|mark| !is_marked(mark)) {
            now = now.but_older(format!(
                "no registrar has registered {name} with the mark {mark:?} yet"
            ));
        }
        // What was known then may be over.
        now.reasons
            .extend(since.map(|since| format!("etcd has not answered since {since}")));
        let is_wanted = is_wanted(&now);
        let outcome = is_wanted.then(|| serde_json::to_value(now.outcome(name, &state)).unwrap_or_default());
        let is_unknown = is_wanted && state.index.environment(name).is_none();
        let unknown = is_unknown.then(|| state.unknown(name));
        Ok(EnvironmentWait {
            state: now,
            outcome,
            unknown,
            refused: state.refusals(name),
        })
    }
}

/// How long the next look waits after one that took so long.
fn pause_after(cost: Duration) -> Duration {
    cost.saturating_mul(PROPORTION).clamp(PAUSE.0, PAUSE.1)
}

fn name_of(text: &str) -> Result<EnvironmentName, Problem> {
    let wrong = |error| Problem::bad_request(format!("the name of the environment is wrong: {error}"));
    text.parse().map_err(wrong)
}

fn not_in_force(what: &str, reasons: &[String], refused: &[String]) -> Problem {
    let detail = format!("{what}: {}", reasons.join("; "));
    let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).with("reasons", json!(reasons));
    match refused {
        [] => problem,
        _ => problem.with("refused", json!(refused)),
    }
}

/// How long to wait; `None` is not at all.
fn limit(query: &Query) -> Result<Option<Duration>, Problem> {
    let Some(text) = query.get("wait") else {
        return Ok(None);
    };
    match duration(text) {
        Ok(limit) if limit <= LONGEST => Ok(Some(limit)),
        Ok(_) => Err(Problem::bad_request("the parameter wait can be at most 10min")),
        Err(right) => Err(Problem::bad_request(format!(
            "the parameter wait is wrong: {right}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_costlier_a_look_the_rarer() {
        for (cost, pause) in [
            (0, 100),
            (100, 100),
            (2_000, 400),
            (8_000, 1_600),
            (900_000, 2_000),
        ] {
            let paused = pause_after(Duration::from_micros(cost));
            assert_eq!(paused, Duration::from_millis(pause), "{cost} µs");
        }
        assert_eq!(pause_after(Duration::MAX), PAUSE.1);
    }

    #[test]
    fn a_wait_has_a_limit() {
        let read = |text: &str| limit(&Query::read(Some(text), &["wait"]).unwrap());
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("wait=60s").unwrap(), Some(Duration::from_secs(60)));
        assert_eq!(read("wait=10min").unwrap(), Some(LONGEST));
        for (text, part) in [
            ("wait=", "looks like 15s"),
            ("wait=soon", "looks like 15s"),
            ("wait=-1s", "looks like 15s"),
            ("wait=11min", "at most 10min"),
            ("wait=99999999999999999999s", ""),
        ] {
            let problem = read(text).unwrap_err();
            assert_eq!(problem.status, StatusCode::BAD_REQUEST);
            assert!(problem.detail.contains(part), "{text}: {problem:?}");
        }
    }
}
