//! What a router has counted: the requests of each backend, and when environments were last used.
//! Each router has a record of its own, and a reader adds them up.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::{EnvironmentName, ServiceName};
use crate::records::lifetime::Moment;
use crate::version::{BackendId, Version};

/// The time that the numbers of a record are of.
pub const SPAN: Duration = Duration::from_secs(10 * 60);
/// How many backends a record names, the busiest ones: it is written every minute.
pub const MOST_BACKENDS: usize = 100;
/// How many environments a record names, those that were used last.
pub const MOST_USED: usize = 1_000;

/// What a router has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The backends that had requests in the last [`SPAN`], the busiest first.
    #[serde(default)]
    pub backends: Vec<BackendTraffic>,
    /// How many more backends had some.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub more: u64,
    /// When environments were last used, as far as the router knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<EnvironmentName, Moment>,
}

/// The requests of one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTraffic {
    /// The service.
    pub service: ServiceName,
    /// Its version.
    pub version: Version,
    /// Requests that have ended.
    pub requests: u64,
    /// Those of them that ended with a status from 500 to 599.
    #[serde(default)]
    pub errors: u64,
    /// Connections to instances that could not be made.
    #[serde(default)]
    pub connection_errors: u64,
    /// How long the service took until its answer began, in the mean of its last requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<u64>,
}

impl BackendTraffic {
    /// A backend that had no request yet.
    pub fn none(backend: &BackendId) -> Self {
        Self {
            service: backend.service.clone(),
            version: backend.version.clone(),
            requests: 0,
            errors: 0,
            connection_errors: 0,
            mean_ms: None,
        }
    }

    /// Adds what another router has counted of the same backend. A mean weighs as much as its
    /// requests.
    fn add(&mut self, other: &Self) {
        let weigh = |one: &Self| Some((one.mean_ms?, one.requests.max(1)));
        self.mean_ms = match (weigh(self), weigh(other)) {
            (Some((a, of_a)), Some((b, of_b))) => {
                let sum = u128::from(a) * u128::from(of_a) + u128::from(b) * u128::from(of_b);
                let mean = sum / (u128::from(of_a) + u128::from(of_b));
                Some(u64::try_from(mean).unwrap_or(u64::MAX))
            }
            (one, other) => one.or(other).map(|(mean, _)| mean),
        };
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.connection_errors = self.connection_errors.saturating_add(other.connection_errors);
    }
}

/// The busiest first; of equals the one whose name comes first.
pub fn sort(backends: &mut [BackendTraffic]) {
    backends.sort_by(|a, b| {
        let name = |one: &BackendTraffic| (one.service.clone(), one.version.clone());
        b.requests.cmp(&a.requests).then_with(|| name(a).cmp(&name(b)))
    });
}

/// What all routers have counted together.
pub fn sum<'a>(records: impl Iterator<Item = &'a Traffic>) -> Traffic {
    let mut backends: BTreeMap<(&ServiceName, &Version), BackendTraffic> = BTreeMap::new();
    let (mut more, mut used) = (0_u64, BTreeMap::<EnvironmentName, Moment>::new());
    for record in records {
        for one in &record.backends {
            backends
                .entry((&one.service, &one.version))
                .and_modify(|all| all.add(one))
                .or_insert_with(|| one.clone());
        }
        more = more.max(record.more);
        for (name, at) in &record.used {
            let latest = used.entry(name.clone()).or_insert(*at);
            *latest = (*latest).max(*at);
        }
    }
    let mut backends: Vec<_> = backends.into_values().collect();
    sort(&mut backends);
    Traffic { backends, more, used }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{parse, to_json};

    fn record(json: &str) -> Traffic {
        parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn routers_are_added_up_and_means_are_weighed() {
        let one = record(
            r#"{"backends": [
                {"service": "a", "version": "1", "requests": 30, "errors": 3, "mean_ms": 10},
                {"service": "b", "version": "1", "requests": 5}
            ], "more": 2, "used": {"dev": "2030-01-31T18:00:00Z", "qa": "2030-01-31T18:00:00Z"}}"#,
        );
        let two = record(
            r#"{"backends": [
                {"service": "a", "version": "1", "requests": 10, "errors": 1, "connection_errors": 7,
                 "mean_ms": 50},
                {"service": "a", "version": "2", "requests": 90, "mean_ms": 4}
            ], "used": {"dev": "2030-01-31T18:05:00Z", "qa": "2030-01-31T17:00:00Z"}}"#,
        );
        let all = sum([&one, &two].into_iter());
        let rows: Vec<_> = all
            .backends
            .iter()
            .map(|of| {
                let backend = format!("{}@{}", of.service, of.version);
                (backend, of.requests, of.errors, of.connection_errors, of.mean_ms)
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("a@2".to_owned(), 90, 0, 0, Some(4)),
                ("a@1".to_owned(), 40, 4, 7, Some(20)),
                ("b@1".to_owned(), 5, 0, 0, None),
            ]
        );
        assert_eq!(all.more, 2);
        let used: Vec<String> = all.used.values().map(ToString::to_string).collect();
        assert_eq!(used, ["2030-01-31T18:05:00Z", "2030-01-31T18:00:00Z"]);
        assert_eq!(record(std::str::from_utf8(&to_json(&all)).unwrap()), all);
    }
}
