//! Whether an environment is in force everywhere: every router and every DNS updater has applied
//! it, and nothing is missing. `mayfly wait` asks until it is.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mayfly_core::keys::Daemon;
use mayfly_core::launching::{Backend, Phase};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::lifetime::Moment;
use serde::Serialize;

use crate::state::{State, kept_out};

/// Tries of a backend that have failed in a row, after which nobody waits for it any longer. What
/// fails less often may be a passing thing: a service that it depends on and that is just being
/// started, a registry that was busy.
const HOPELESS: usize = 3;

/// What `mayfly wait --format json` prints.
#[derive(Debug, Serialize)]
pub struct WaitOutcome<'a> {
    /// The environment that was waited for.
    pub environment: &'a EnvironmentName,
    /// What the launcher says of those of its backends that are missing or on their way.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub launching: &'a BTreeMap<String, Backend>,
    /// Whether it is in force everywhere.
    pub ready: bool,
    /// Why it is not.
    pub reasons: &'a [String],
    /// The newest revision of all that it is made of.
    pub revision: i64,
}

/// Whether an environment is in force everywhere.
#[derive(Debug)]
pub struct WaitState {
    /// Why it is not in force everywhere; nothing when it is.
    pub reasons: Vec<String>,
    /// What the launcher says of those of its backends that are missing or on their way.
    pub launching: BTreeMap<String, Backend>,
    /// Whether it says so with the newest service definitions in mind: what has failed may have
    /// been mended just now.
    is_current: bool,
}

impl WaitState {
    /// Before etcd has answered.
    pub fn unknown() -> Self {
        Self {
            reasons: vec!["etcd has not answered yet".to_owned()],
            launching: BTreeMap::new(),
            is_current: false,
        }
    }

    /// As etcd has it.
    pub fn of(state: &State, name: &EnvironmentName) -> Self {
        let view = state.index.view(name);
        let launchers = state.launchers();
        let launching = view.map(|view| launchers.unsettled(&view));
        Self {
            reasons: hindrances(state, name),
            launching: launching.unwrap_or_default(),
            is_current: launchers.leader.is_some_and(|leader| leader.is_current),
        }
    }

    /// The state where a newer version of the environment is to come, for this reason: what the
    /// older one's backends do no longer matters.
    #[must_use]
    pub fn but_older(mut self, reason: String) -> Self {
        self.reasons.insert(0, reason);
        self.is_current = false;
        self
    }

    /// Whether there is nothing left to wait for.
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// A backend that keeps failing. Whether to wait for it all the same, [`SeenFailures`] knows.
    fn hopeless(&self) -> Option<&str> {
        let failed = |backend: &Backend| matches!(backend.phase, Phase::Failed { .. });
        let mut all = self.launching.iter().filter(|_| self.is_current);
        let found = all.find(|(_, backend)| failed(backend) && backend.failures >= HOPELESS);
        found.map(|(name, _)| name.as_str())
    }

    /// The outcome, if nobody waits any longer.
    pub fn outcome<'a>(&'a self, name: &'a EnvironmentName, state: &State) -> WaitOutcome<'a> {
        WaitOutcome {
            environment: name,
            launching: &self.launching,
            ready: self.is_ready(),
            reasons: &self.reasons,
            revision: state.revision_of(name),
        }
    }
}

/// The failures that somebody who waits has seen. What had failed before the wait began may have been
/// mended since, outside of etcd: it gets its next try, if that comes in time.
#[derive(Debug, Default)]
pub struct SeenFailures {
    /// By backend: how many had failed in a row at the beginning, or at the least since.
    least: Option<BTreeMap<String, usize>>,
}

impl SeenFailures {
    /// A backend for which it makes no sense to wait until this moment.
    pub fn hopeless<'a>(&mut self, now: &'a WaitState, until: SystemTime) -> Option<&'a str> {
        let failures = |name: &String| now.launching.get(name).map_or(0, |backend| backend.failures);
        match &mut self.least {
            None => {
                let all = now.launching.iter();
                self.least = Some(
                    all.map(|(name, backend)| (name.clone(), backend.failures))
                        .collect(),
                );
            }
            Some(least) => {
                for (name, count) in least.iter_mut() {
                    *count = failures(name).min(*count);
                }
            }
        }
        let name = now.hopeless()?;
        let backend = now.launching.get(name)?;
        let before = self.least.as_ref().and_then(|least| least.get(name)).copied();
        let next_try = backend
            .next_try
            .as_deref()
            .and_then(|text| text.parse::<Moment>().ok());
        let is_tried = next_try.is_some_and(|next_try| next_try.time() < until);
        (!is_tried || backend.failures > before.unwrap_or_default()).then_some(name)
    }
}

/// Why an environment is not in force everywhere; nothing when it is.
fn hindrances(state: &State, name: &EnvironmentName) -> Vec<String> {
    let Some(view) = state.index.view(name) else {
        let mut reasons = vec![state.unknown(name)];
        reasons.extend(state.refusals(name));
        return reasons;
    };
    let mut reasons = view.reasons();
    reasons.extend(state.launchers().reasons(&view));
    let missing = view.services.iter().filter(|service| service.missing.is_some());
    let failing = state.failing();
    reasons.extend(missing.flat_map(|service| {
        let aside = state.aside_of(service);
        kept_out(&failing, service).into_iter().chain(aside)
    }));
    reasons.extend(state.misspelt(&view));
    let revision = state.revision_of(name);
    let mut routers = 0;
    for daemon in state.daemons() {
        let who = match daemon.daemon {
            Daemon::HaproxyUpdater => format!("router {}", daemon.node),
            Daemon::DnsUpdater => format!("dns-updater {}", daemon.node),
            Daemon::EnvironmentRegistrar | Daemon::ContainerRegistrar | Daemon::ContainerLauncher => continue,
        };
        routers += usize::from(daemon.daemon == Daemon::HaproxyUpdater);
        // What a router keeps for others hinders nobody here.
        let of_others = daemon.error == daemon.guard && !state.keeps_of(&daemon.node, &view);
        if let Some(error) = daemon.error.filter(|_| !of_others) {
            reasons.push(format!("{who}: {error}"));
        } else if !daemon.ready {
            reasons.push(format!("{who} is not in sync with etcd yet"));
        } else if daemon.applied_revision < revision {
            let applied = daemon.applied_revision;
            reasons.push(format!("{who} is at revision {applied}, {name} at {revision}"));
        }
    }
    if routers == 0 {
        reasons.push(
            "there is no router: is a haproxy-updater running on this etcd, with the same --prefix?"
                .to_owned(),
        );
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What a wait of a minute says of these states one after the other: `5/10` where five tries
    /// have failed and the next one is in ten seconds, `0` where it is being started.
    fn check(states: &str) -> Vec<bool> {
        let now = SystemTime::now();
        let until = now + Duration::from_secs(60);
        let mut seen = SeenFailures::default();
        let hopeless = |state: &str| {
            let (failures, next_try) = state.split_once('/').unwrap_or((state, ""));
            let next_try = next_try.parse().ok().map(Duration::from_secs);
            let reason = String::new();
            let backend = Backend {
                phase: match next_try {
                    Some(_) => Phase::Failed { reason },
                    None => Phase::Starting,
                },
                wanted: 1,
                live: 0,
                images: [].into(),
                failures: failures.parse().unwrap(),
                failure: None,
                next_try: next_try.map(|span| Moment::of(now + span).to_string()),
                output: Vec::new(),
                not_pulled: None,
            };
            let state = WaitState {
                reasons: vec!["it is not there".to_owned()],
                launching: [("a@1".to_owned(), backend)].into(),
                is_current: true,
            };
            seen.hopeless(&state, until).is_some()
        };
        states.split(' ').map(hopeless).collect()
    }

    #[test]
    fn what_keeps_failing_is_given_up() {
        assert_eq!(check("0 1/1 2/2 3/4"), [false, false, false, true]);
        // Its next try would come too late.
        assert_eq!(check("7/300"), [true]);
    }

    #[test]
    fn what_failed_before_gets_its_next_try() {
        assert_eq!(check("7/50 7 7"), [false, false, false]);
        assert_eq!(check("7/50 7 8/55"), [false, false, true]);
        // A mended definition, which fails as well.
        assert_eq!(check("7/50 0 1/1 2/2 3/4"), [false, false, false, false, true]);
    }
}
