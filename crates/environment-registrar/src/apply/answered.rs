//! Removes from records what environments had before, once the versions they choose have answered
//! ([`mayfly_core::records::switching`]): an outage of the new version must not bring the old one
//! back. It does so for every record: for one that `mayfly apply` wrote nobody else would.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mayfly_core::index::Index;
use mayfly_core::keys::Key;
use mayfly_core::names::{EnvironmentName, ServiceName};
use mayfly_core::records::{self, Environment, Record};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::{Guard, Store, StoreError, Write};
use mayfly_daemon::watch::{self, Change};
use tracing::{debug, info, warn};

use crate::actual::Actual;

/// How often to look while an environment waits.
const LOOK: Duration = Duration::from_millis(300);
/// How often to look at the least. A version that is never started never answers.
const SELDOM: Duration = Duration::from_secs(5);

/// When to look, and what came of it.
#[derive(Debug)]
pub struct Answered {
    next: Instant,
    /// The last look.
    looked: Instant,
    /// The environments that waited at the last look, and since when.
    waiting: BTreeMap<EnvironmentName, Instant>,
    backoff: Backoff,
}

impl Default for Answered {
    /// To be looked at as soon as an environment waits.
    fn default() -> Self {
        Self {
            next: Instant::now(),
            looked: Instant::now(),
            waiting: BTreeMap::new(),
            backoff: Backoff::new(LOOK, Duration::from_secs(30)),
        }
    }
}

impl Answered {
    /// When to look; `None` while nobody waits.
    pub fn due(&self, actual: &Actual) -> Option<Instant> {
        let mut switching = actual.switching().peekable();
        switching.peek()?;
        match switching.any(|name| !self.waiting.contains_key(name)) {
            true => Some(self.next.min(self.looked + LOOK)),
            false => Some(self.next),
        }
    }

    /// Takes out what is past.
    pub async fn look(&mut self, store: &Store, actual: &Actual) {
        let now = Instant::now();
        let waiting = actual.switching().map(|name| {
            let since = self.waiting.get(name).copied().unwrap_or(now);
            (name.clone(), since)
        });
        self.waiting = waiting.collect();
        self.looked = now;
        let pause = match forget(store, actual).await {
            Ok(()) => {
                self.backoff.reset();
                let newest = self.waiting.values().max();
                pause(newest.map_or(Duration::ZERO, |since| since.elapsed()))
            }
            Err(error) => {
                let text = format!(
                    "cannot record in etcd that environments have switched to their new versions: \
                     {}",
                    error.retrying()
                );
                match self.backoff.failures() {
                    0 => warn!("{text}"),
                    _ => debug!("{text}"),
                }
                self.backoff.next_delay()
            }
        };
        self.next = Instant::now() + pause;
    }
}

/// How long to wait for the next look when the environment that waits least has waited so long: in
/// proportion, so that little is asked for nothing.
fn pause(waited: Duration) -> Duration {
    (waited / 10).clamp(LOOK, SELDOM)
}

async fn forget(store: &Store, actual: &Actual) -> Result<(), StoreError> {
    let waiting: Vec<EnvironmentName> = actual.switching().cloned().collect();
    let services: BTreeSet<&ServiceName> = waiting
        .iter()
        .filter_map(|name| actual.life(name))
        .flat_map(|life| life.previous.keys())
        .collect();
    let mut index = Index::new(store.keyspace().clone());
    for service in services {
        let batch = watch::look(store, &store.keyspace().instances(Some(service))).await?;
        for stored in batch.records() {
            index.put(stored.record, stored.revision);
        }
    }
    index.believe_names(BTreeMap::new());
    index.resolve();
    for name in waiting {
        let key = Key::Environment(name.clone());
        let Some(Change::Put(stored)) = watch::look_up(store, key.clone()).await? else {
            continue;
        };
        let Record::Environment(mut record) = stored.record else {
            continue;
        };
        if !take_out(&mut record, &index) {
            continue;
        }
        let value = records::to_json(&record);
        let writes = vec![
            Write::Put(key.clone(), value.clone(), stored.lease),
            Write::Put(Key::History(name.clone()), value, None),
        ];
        // Whoever has changed it meanwhile is seen the next time.
        let written = store
            .write_if(&key, Guard::ModRevision(stored.revision.changed), writes)
            .await?;
        if written.is_some() {
            info!("environment {name} has switched to its new versions");
        }
    }
    Ok(())
}

/// Takes out of a record what is past; says whether anything is.
fn take_out(record: &mut Environment, index: &Index) -> bool {
    let services = &record.services;
    let Some(life) = &mut record.life else {
        return false;
    };
    let before = life.previous.len();
    life.previous.retain(|service, _| {
        let mut choices = services.iter().filter(|choice| choice.name == *service);
        choices.any(|choice| !index.is_answered(service, &choice.version))
    });
    life.previous.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::Instance;

    #[test]
    fn a_version_that_never_answers_is_looked_for_seldom() {
        for (waited, expected) in [(0, 300), (3_000, 300), (10_000, 1_000), (3_600_000, 5_000)] {
            let millis = Duration::from_millis;
            assert_eq!(pause(millis(waited)), millis(expected));
        }
    }

    #[test]
    fn what_has_answered_is_past() {
        let mut index = Index::new(KeySpace::default());
        let up: Instance = records::parse(br#"{"address": "10.0.0.1:80"}"#).unwrap();
        for (backend, id) in [("orders@3", "10.0.0.1:80"), ("cart@1", "10.0.0.2:80")] {
            let instance = Record::Instance(backend.parse().unwrap(), id.parse().unwrap(), up.clone());
            index.put(instance, 1);
        }
        index.resolve();
        let record = r#"{"name": "dev", "prefix": "dev", "header": "dev",
            "services": [{"name": "orders", "version": "3"}, {"name": "cart", "version": "2"}],
            "life": {"registered_at": "2030-01-31T18:00:00Z", "previous": {"orders": ["1"], "cart": ["1"], "gone": [null]}}}"#;
        let mut record = records::parse(record.as_bytes()).unwrap();
        assert!(take_out(&mut record, &index));
        let left: Vec<String> = record
            .life
            .as_ref()
            .unwrap()
            .previous
            .keys()
            .map(ToString::to_string)
            .collect();
        assert_eq!(left, ["cart"]);
        assert!(!take_out(&mut record, &index));
    }
}
