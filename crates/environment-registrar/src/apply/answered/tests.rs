//! When to look, what is asked of etcd then, and what is past.

use std::future::ready;
use std::sync::Mutex;

use mayfly_core::keys::KeySpace;
use mayfly_core::records::{Instance, SetAsides};
use mayfly_daemon::store::{
    Answer, Endpoint, Entry, Etcd, EventStream, Lease, LeaseId, LeaseState, Page, Question, TextWrite,
};
use mayfly_daemon::watch::Batch;
use prometheus_client::metrics::gauge::Gauge;

use super::*;
use crate::actual::tests::reported;

/// An etcd that tells what it is asked. It may be read and written to, and nothing else.
#[derive(Debug, Default)]
struct Listener {
    entries: BTreeMap<String, Vec<u8>>,
    heard: Mutex<Vec<String>>,
    connected: Gauge,
}

impl Listener {
    fn hear(&self, what: String) {
        self.heard.lock().unwrap().push(what);
    }

    /// What it was asked since it was asked that last.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

impl Etcd for Listener {
    fn endpoints(&self) -> &[Endpoint] {
        &[]
    }

    fn connected(&self) -> &Gauge {
        &self.connected
    }

    fn with_limit(&self, _: Duration) -> Arc<dyn Etcd> {
        unreachable!()
    }

    fn range(&self, question: Question) -> Answer<'_, Page> {
        let start = String::from_utf8(question.start).unwrap();
        self.hear(match &question.end {
            Some(_) => format!("list {start}"),
            None => format!("read {start}"),
        });
        let end = question.end.unwrap_or_else(|| format!("{start}\0"));
        let entries = self.entries.range(start..end).map(|(key, value)| Entry {
            key: key.clone(),
            value: value.clone(),
            create_revision: 1,
            mod_revision: 1,
            lease: None,
        });
        let page = Page {
            revision: 1,
            entries: entries.collect(),
            next: None,
        };
        Box::pin(ready(Ok(page)))
    }

    fn put(&self, _: String, _: Vec<u8>, _: Option<LeaseId>) -> Answer<'_, i64> {
        unreachable!()
    }

    fn delete(&self, _: String, _: Option<String>) -> Answer<'_, i64> {
        unreachable!()
    }

    fn write(&self, guards: Vec<(String, Guard)>, _: Vec<TextWrite>) -> Answer<'_, Option<i64>> {
        self.hear(format!("write {}", guards[0].0));
        Box::pin(ready(Ok(Some(2))))
    }

    fn is_full(&self) -> Answer<'_, bool> {
        unreachable!()
    }

    fn grant(&self, _: i64) -> Answer<'_, Lease> {
        unreachable!()
    }

    fn keep_alive(&self, _: LeaseId) -> Answer<'_, ()> {
        unreachable!()
    }

    fn lease(&self, _: LeaseId, _: bool) -> Answer<'_, Option<LeaseState>> {
        unreachable!()
    }

    fn revoke(&self, _: LeaseId) -> Answer<'_, ()> {
        unreachable!()
    }

    fn watch(&self, _: String, _: String, _: i64) -> Answer<'_, Box<dyn EventStream>> {
        unreachable!()
    }
}

/// The record of an environment that has changed a service from version 1 to this one.
fn switching(name: &str, service: &str, version: &str) -> String {
    let services = format!(r#"[{{"name":"{service}","version":"{version}"}}]"#);
    let life = format!(r#"{{"registered_at":"2030-01-31T18:00:00Z","previous":{{"{service}":["1"]}}}}"#);
    format!(r#"{{"name":"{name}","prefix":"{name}","header":"{name}","services":{services},"life":{life}}}"#)
}

/// What a registrar knows when it has listed these records, each put at revision 1.
fn actual(records: &BTreeMap<String, String>) -> Actual {
    let mut actual = Actual::new(KeySpace::default(), "us".parse().unwrap());
    let changes = records.iter().map(|(name, record)| {
        let key = Key::Environment(name.parse().unwrap());
        reported(key, record.as_bytes(), 1, 1)
    });
    actual.update(Batch {
        revision: 1,
        listed: true,
        changes: changes.collect(),
        set_aside: SetAsides::default(),
    });
    actual
}

fn names(services: BTreeSet<ServiceName>) -> Vec<String> {
    services.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_look_asks_for_each_service_once_however_many_wait_for_it() {
    for count in [1, 100] {
        let waiting = (0..count).map(|number| format!("e{number}"));
        let mut records: BTreeMap<String, String> = waiting
            .map(|name| {
                let record = switching(&name, "orders", "2");
                (name, record)
            })
            .collect();
        records.insert("other".to_owned(), switching("other", "cart", "3"));
        let entries = records.iter().map(|(name, record)| {
            let key = format!("/mayfly/environments/{name}");
            (key, record.clone().into_bytes())
        });
        let instance = (
            "/mayfly/backends/cart/3/10.0.0.1:80".to_owned(),
            br#"{"address":"10.0.0.1:80"}"#.to_vec(),
        );
        let etcd = Arc::new(Listener {
            entries: entries.chain([instance]).collect(),
            ..Listener::default()
        });
        let store = Store::over(etcd.clone(), KeySpace::default());
        let mut answered = Answered::default();
        let lists = ["cart", "orders"].map(|name| format!("list /mayfly/backends/{name}.service/"));
        // Something is taken out of this one alone.
        let other = "/mayfly/environments/other";
        let expected = [&lists[..], &[format!("read {other}"), format!("write {other}")]].concat();
        answered.look(&store, &actual(&records)).await;
        assert_eq!(etcd.heard(), expected, "{count} environments wait");

        // As the watch reports it.
        records.remove("other");
        let actual = actual(&records);
        answered
            .services
            .values_mut()
            .for_each(|wait| wait.next = Instant::now());
        answered.look(&store, &actual).await;
        assert_eq!(etcd.heard(), lists[1..], "{count} environments wait");
    }
}

#[test]
fn only_what_has_begun_to_wait_is_looked_for_often() {
    let mut records = BTreeMap::from([("a".to_owned(), switching("a", "orders", "2"))]);
    let (mut answered, start) = (Answered::default(), Instant::now());
    assert_eq!(answered.due(&actual(&BTreeMap::new())), None);
    assert_eq!(answered.due(&actual(&records)), Some(answered.looked + LOOK));
    let later = start + Duration::from_secs(3600);
    for at in [start, later] {
        let services = answered.turn(&actual(&records), at);
        answered.rest(&services, at);
        assert_eq!(names(services), ["orders"]);
    }
    assert_eq!(answered.due(&actual(&records)), Some(later + SELDOM));
    // A new one waits for something else.
    records.insert("b".to_owned(), switching("b", "cart", "2"));
    let second = Duration::from_secs(1);
    for at in [later + second, later + second * 2] {
        let services = answered.turn(&actual(&records), at);
        answered.rest(&services, at);
        assert_eq!(names(services), ["cart"]);
    }
    // And one for the same.
    records.insert("c".to_owned(), switching("c", "orders", "3"));
    let services = answered.turn(&actual(&records), later + second * 3);
    assert_eq!(names(services), ["cart", "orders"]);
}

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
