//! What environments had before is taken out of their records as soon as what they choose has answered
//! ([`mayfly_core::switching`]): an outage of the new version must not bring the old one back. Whosever the record is: one
//! that `mayfly apply` wrote has nobody else who sees to it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mayfly_core::index::Index;
use mayfly_core::keys::Key;
use mayfly_core::names::{EnvironmentName, ServiceName};
use mayfly_core::records::{self, Environment};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::{Guard, Store, StoreError, Write};
use tracing::{debug, info, warn};

use crate::mirror::Mirror;

/// How often to look while an environment waits.
const LOOK: Duration = Duration::from_millis(300);

/// When to look, and what came of it.
#[derive(Debug)]
pub struct Answered {
    next: Instant,
    backoff: Backoff,
}

impl Default for Answered {
    /// To be looked at as soon as an environment waits.
    fn default() -> Self {
        Self {
            next: Instant::now(),
            backoff: Backoff::new(LOOK, Duration::from_secs(30)),
        }
    }
}

impl Answered {
    /// When to look; `None` while nobody waits.
    pub fn due(&self, mirror: &Mirror) -> Option<Instant> {
        mirror.switching().next().map(|_| self.next)
    }

    /// Takes out what is past.
    pub async fn look(&mut self, store: &Store, mirror: &Mirror) {
        let pause = match forget(store, mirror).await {
            Ok(()) => {
                self.backoff.reset();
                LOOK
            }
            Err(error) => {
                let text = format!("cannot note that new versions have answered: {error}; trying again");
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

async fn forget(store: &Store, mirror: &Mirror) -> Result<(), StoreError> {
    let waiting: Vec<EnvironmentName> = mirror.switching().cloned().collect();
    let services: BTreeSet<&ServiceName> = waiting
        .iter()
        .filter_map(|name| mirror.life(name))
        .flat_map(|life| life.previous.keys())
        .collect();
    let mut index = Index::new(store.keyspace().clone());
    for service in services {
        for entry in store
            .list(&store.keyspace().instances(Some(service)))
            .await?
            .entries
        {
            index.put(&entry.key, &entry.value, entry.revision());
        }
    }
    index.resolve_unseen(&BTreeSet::new());
    for name in waiting {
        let key = Key::Environment(name.clone());
        let Some(entry) = store.get(&key).await? else {
            continue;
        };
        let Ok(mut record) = records::parse_environment(&name, &entry.value) else {
            continue;
        };
        if !take_out(&mut record, &index) {
            continue;
        }
        let value = records::to_json(&record);
        let writes = vec![
            Write::Put(key.clone(), value.clone(), entry.lease),
            Write::Put(Key::History(name.clone()), value, None),
        ];
        // Whoever has changed it meanwhile is seen the next time.
        let written = store
            .write_if(&key, Guard::ModRevision(entry.mod_revision), writes)
            .await?;
        if written.is_some() {
            info!("{name} has changed to what it chooses: what it had before is past");
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

    #[test]
    fn what_has_answered_is_past() {
        let mut index = Index::new(KeySpace::default());
        let up = br#"{"address": "10.0.0.1:80"}"#;
        index.put("/mayfly/backends/orders/3/10.0.0.1:80", up, 1);
        index.put("/mayfly/backends/cart/1/10.0.0.2:80", up, 1);
        index.resolve();
        let record = r#"{"name": "dev", "prefix": "dev", "header": "dev",
            "services": [{"name": "orders", "version": "3"}, {"name": "cart", "version": "2"}],
            "life": {"registered_at": "2030-01-31T18:00:00Z", "previous": {"orders": ["1"], "cart": ["1"], "gone": [null]}}}"#;
        let mut record = records::parse_environment(&"dev".parse().unwrap(), record.as_bytes()).unwrap();
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
