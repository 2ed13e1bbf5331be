//! Entries that another program changes while they are deregistered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mayfly_core::keys::KeySpace;
use mayfly_daemon::store::{
    Answer, Cause, Endpoint, Entry, Etcd, EventStream, Lease, LeaseId, LeaseState, Page, Question, TextWrite,
};
use prometheus_client::metrics::gauge::Gauge;

use super::*;

const UP: &str = r#"{"address": "10.0.0.5:80"}"#;

/// An etcd with one key at most, which another program puts again.
#[derive(Debug)]
struct BusyEtcd {
    connected: Gauge,
    content: Mutex<Content>,
}

#[derive(Debug)]
struct Content {
    entry: Option<Entry>,
    /// How often the other program puts the key, each time just after it was read.
    puts: usize,
    /// What happened to the key otherwise.
    history: Vec<&'static str>,
}

impl BusyEtcd {
    fn with(value: Option<&str>, puts: usize) -> Arc<Self> {
        let entry = value.map(|value| Entry {
            key: KeySpace::default().text(&key()),
            value: value.into(),
            create_revision: 1,
            mod_revision: 1,
            lease: None,
        });
        Arc::new(Self {
            connected: Gauge::default(),
            content: Mutex::new(Content {
                entry,
                puts,
                history: Vec::new(),
            }),
        })
    }

    /// Whether the key is still there, and what happened to it.
    fn outcome(&self) -> (bool, Vec<&'static str>) {
        let content = self.content.lock().unwrap();
        (content.entry.is_some(), content.history.clone())
    }

    /// Does one call.
    fn call<'a, T: Send + 'a>(&self, work: impl FnOnce(&mut Content) -> T) -> Answer<'a, T> {
        let done = work(&mut self.content.lock().unwrap());
        Box::pin(async move { Ok(done) })
    }
}

impl Content {
    fn put(&mut self, value: Vec<u8>) -> Option<i64> {
        let entry = self.entry.as_mut()?;
        entry.mod_revision += 1;
        entry.value = value;
        Some(entry.mod_revision)
    }

    fn delete(&mut self) -> i64 {
        let Some(_) = self.entry.take() else {
            return 0;
        };
        self.history.push("deleted");
        1
    }
}

/// That no test here needs a call.
fn unused<'a, T: Send + 'a>() -> Answer<'a, T> {
    Box::pin(async { Err(Cause::Refused("this etcd cannot do that".to_owned())) })
}

impl Etcd for BusyEtcd {
    fn endpoints(&self) -> &[Endpoint] {
        &[]
    }

    fn connected(&self) -> &Gauge {
        &self.connected
    }

    fn with_limit(&self, _limit: Duration) -> Arc<dyn Etcd> {
        unreachable!("no test here needs another limit")
    }

    fn range(&self, _question: Question) -> Answer<'_, Page> {
        self.call(|content| {
            let entries = content.entry.clone().into_iter().collect();
            if content.puts > 0 {
                content.puts -= 1;
                content.put(UP.into());
            }
            Page {
                revision: 1,
                entries,
                next: None,
            }
        })
    }

    fn put(&self, _key: String, _value: Vec<u8>, _lease: Option<LeaseId>) -> Answer<'_, i64> {
        unused()
    }

    fn delete(&self, start: String, _end: Option<String>) -> Answer<'_, i64> {
        self.call(|content| {
            let is_meant = content.entry.as_ref().is_some_and(|entry| entry.key == start);
            if is_meant { content.delete() } else { 0 }
        })
    }

    fn write(&self, guards: Vec<(String, Guard)>, writes: Vec<TextWrite>) -> Answer<'_, Option<i64>> {
        self.call(|content| {
            let revision = content.entry.as_ref()?.mod_revision;
            let holds = |(_, guard): &(String, Guard)| *guard == Guard::ModRevision(revision);
            if !guards.iter().all(holds) {
                return None;
            }
            for write in writes {
                match write {
                    TextWrite::Put(_, value, _) => {
                        let is_farewell = String::from_utf8_lossy(&value).contains("draining");
                        content.put(value);
                        content.history.push(if is_farewell { "draining" } else { "put" });
                    }
                    TextWrite::Delete(_) => {
                        content.delete();
                    }
                }
            }
            Some(revision + 1)
        })
    }

    fn is_full(&self) -> Answer<'_, bool> {
        unused()
    }

    fn grant(&self, _seconds: i64) -> Answer<'_, Lease> {
        unused()
    }

    fn keep_alive(&self, _lease: LeaseId) -> Answer<'_, ()> {
        unused()
    }

    fn lease(&self, _lease: LeaseId, _with_keys: bool) -> Answer<'_, Option<LeaseState>> {
        unused()
    }

    fn revoke(&self, _lease: LeaseId) -> Answer<'_, ()> {
        unused()
    }

    fn watch(&self, _start: String, _end: String, _from: i64) -> Answer<'_, Box<dyn EventStream>> {
        unused()
    }
}

fn key() -> Key {
    let (service, version) = ("backend".parse().unwrap(), "0.0.2".parse().unwrap());
    let backend = mayfly_core::version::BackendId { service, version };
    Key::Instance(backend, "10.0.0.5:80".parse().unwrap())
}

async fn deregister(etcd: &Arc<BusyEtcd>) -> anyhow::Result<bool> {
    delete(&Store::over(etcd.clone(), KeySpace::default()), &key()).await
}

#[tokio::test]
async fn an_entry_that_changes_meanwhile_leaves_with_its_farewell_all_the_same() {
    for puts in [0, 1, 2] {
        let etcd = BusyEtcd::with(Some(UP), puts);
        assert!(deregister(&etcd).await.unwrap());
        // A router goes on with an instance that only vanishes.
        assert_eq!(etcd.outcome(), (false, vec!["draining", "deleted"]), "{puts}");
    }
}

#[tokio::test]
async fn an_entry_that_another_program_keeps_putting_stays() {
    let etcd = BusyEtcd::with(Some(UP), usize::MAX);
    let error = deregister(&etcd).await.unwrap_err().to_string();
    assert!(
        error.contains("/mayfly/backends/backend/0.0.2/10.0.0.5:80: another program keeps changing"),
        "{error}"
    );
    assert_eq!(etcd.outcome(), (true, vec![]));
}

#[tokio::test]
async fn an_entry_that_is_no_record_is_deleted_and_a_missing_one_is_reported() {
    let etcd = BusyEtcd::with(Some("not a record"), 0);
    assert!(deregister(&etcd).await.unwrap());
    assert_eq!(etcd.outcome(), (false, vec!["deleted"]));
    // By now it is a record, which leaves with its farewell.
    let etcd = BusyEtcd::with(Some("not a record"), 1);
    assert!(deregister(&etcd).await.unwrap());
    assert_eq!(etcd.outcome(), (false, vec!["draining", "deleted"]));
    assert!(!deregister(&etcd).await.unwrap());
}
