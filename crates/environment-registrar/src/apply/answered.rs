//! Removes from records what environments had before, once the versions they choose have answered
//! ([`mayfly_core::records::switching`]): an outage of the new version must not bring the old one
//! back. It does so for every record: for one that `mayfly apply` wrote nobody else would.
//!
//! The loop waits for each look, so a look asks etcd for no more than the instances of the services
//! whose turn it is, however many environments wait for them. A record is read only once something
//! goes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_core::index::Index;
use mayfly_core::keys::Key;
use mayfly_core::names::{EnvironmentName, ServiceName};
use mayfly_core::records::{self, Environment, Record, ServiceChoice};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::{Guard, Store, StoreError, Write};
use mayfly_daemon::watch::{self, Change};
use tracing::{debug, info, warn};

use crate::actual::Actual;
use crate::apply::at_once;

/// How often to look while an environment waits.
const LOOK: Duration = Duration::from_millis(300);
/// How often to look at the least. A version that is never started never answers.
const SELDOM: Duration = Duration::from_secs(5);

/// When to look, and what came of it.
#[derive(Debug)]
pub struct Answered {
    /// The end of the last look.
    looked: Instant,
    /// The environments that waited at the last look, with the revisions of their records.
    waiting: BTreeMap<EnvironmentName, i64>,
    /// The services that they wait for.
    services: BTreeMap<ServiceName, Wait>,
    /// When to look after a failure.
    retry: Option<Instant>,
    backoff: Backoff,
}

/// A service that environments wait for.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// Since when the one that waits least does.
    since: Instant,
    /// When to look.
    next: Instant,
}

impl Default for Answered {
    fn default() -> Self {
        Self {
            looked: Instant::now(),
            waiting: BTreeMap::new(),
            services: BTreeMap::new(),
            retry: None,
            backoff: Backoff::new(LOOK, Duration::from_secs(30)),
        }
    }
}

impl Answered {
    /// When to look; `None` while nobody waits. All services whose turn has come meanwhile are
    /// looked at together.
    pub fn due(&self, actual: &Actual) -> Option<Instant> {
        let mut waiting = waiting(actual).peekable();
        waiting.peek()?;
        let soon = self.looked + LOOK;
        if waiting.any(|(name, _, revision)| self.waiting.get(name) != Some(&revision)) {
            return Some(soon);
        }
        let next = self.services.values().map(|wait| wait.next).min();
        Some(self.retry.or(next).map_or(soon, |next| next.max(soon)))
    }

    /// Takes out what is past.
    pub async fn look(&mut self, store: &Store, actual: &Actual) {
        let services = self.turn(actual, Instant::now());
        let done = forget(store, actual, &services).await;
        let now = Instant::now();
        self.looked = now;
        match done {
            Ok(()) => {
                self.backoff.reset();
                self.retry = None;
                self.rest(&services, now);
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
                self.retry = Some(now + self.backoff.next_delay());
            }
        }
    }

    /// Notes who waits for what now; gives the services whose turn it is. One that an environment
    /// has begun to wait for, or whose record has changed, is looked at often again, and no other.
    fn turn(&mut self, actual: &Actual, now: Instant) -> BTreeSet<ServiceName> {
        let (mut environments, mut services) = (BTreeMap::new(), BTreeMap::new());
        let begun = Wait {
            since: now,
            next: now,
        };
        for (name, past, revision) in waiting(actual) {
            let is_new = self.waiting.get(name) != Some(&revision);
            for service in past {
                let before = self.services.get(service).copied();
                let wait = services
                    .entry(service.clone())
                    .or_insert_with(|| before.unwrap_or(begun));
                if is_new {
                    *wait = begun;
                }
            }
            environments.insert(name.clone(), revision);
        }
        (self.waiting, self.services) = (environments, services);
        let due = self.services.iter().filter(|(_, wait)| wait.next <= now);
        due.map(|(service, _)| service.clone()).collect()
    }

    /// Notes that these services have been looked at.
    fn rest(&mut self, services: &BTreeSet<ServiceName>, now: Instant) {
        for service in services {
            if let Some(wait) = self.services.get_mut(service) {
                wait.next = now + pause(now.saturating_duration_since(wait.since));
            }
        }
    }
}

/// The environments that wait: the services of which they have what they had before, and the
/// revisions of their records.
fn waiting(
    actual: &Actual,
) -> impl Iterator<Item = (&EnvironmentName, impl Iterator<Item = &ServiceName>, i64)> {
    actual.switching().filter_map(move |name| {
        let held = actual.records().get(name)?;
        let past = held.life.iter().flat_map(|life| life.previous.keys());
        Some((name, past, held.mod_revision))
    })
}

/// How long to wait for the next look when the environment that waits least has waited so long: in
/// proportion, so that little is asked for nothing.
fn pause(waited: Duration) -> Duration {
    (waited / 10).clamp(LOOK, SELDOM)
}

/// Takes out of all records what these services make past.
async fn forget(store: &Store, actual: &Actual, services: &BTreeSet<ServiceName>) -> Result<(), StoreError> {
    let mut index = Index::new(store.keyspace().clone());
    for service in services {
        let batch = watch::look(store, &store.keyspace().instances(Some(service))).await?;
        for stored in batch.records() {
            index.put(stored.record, stored.revision);
        }
    }
    index.believe_names(BTreeMap::new());
    index.resolve();
    let has_past = |name: &EnvironmentName| {
        let held = actual.records().get(name);
        let record = held.and_then(|held| Some((held.record.as_ref().ok()?, held.life.as_ref()?)));
        record.is_some_and(|(record, life)| {
            let mut services = life.previous.keys();
            services.any(|service| is_past(&record.services, service, &index))
        })
    };
    let names = actual.switching().filter(|name| has_past(name));
    let names: Vec<EnvironmentName> = names.cloned().collect();
    let index = Arc::new(index);
    let work = |name| switch(store.clone(), name, Arc::clone(&index));
    let mut failure = None;
    at_once(names, work, |done| {
        failure = failure.take().or(done.err());
        failure.is_none()
    })
    .await;
    failure.map_or(Ok(()), Err)
}

/// Takes out of the record of an environment, as etcd has it now, what is past.
async fn switch(store: Store, name: EnvironmentName, index: Arc<Index>) -> Result<(), StoreError> {
    let key = Key::Environment(name.clone());
    let Some(Change::Put(stored)) = watch::look_up(&store, key.clone()).await? else {
        return Ok(());
    };
    let Record::Environment(mut record) = stored.record else {
        return Ok(());
    };
    if !take_out(&mut record, &index) {
        return Ok(());
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
    Ok(())
}

/// Takes out of a record what is past; says whether anything is.
fn take_out(record: &mut Environment, index: &Index) -> bool {
    let services = &record.services;
    let Some(life) = &mut record.life else {
        return false;
    };
    let before = life.previous.len();
    life.previous
        .retain(|service, _| !is_past(services, service, index));
    life.previous.len() < before
}

/// Whether what an environment had of a service is past, when it has chosen this since.
fn is_past(chosen: &[ServiceChoice], service: &ServiceName, index: &Index) -> bool {
    let mut choices = chosen.iter().filter(|choice| choice.name == *service);
    choices.all(|choice| index.is_answered(service, &choice.version))
}

#[cfg(test)]
mod tests;
