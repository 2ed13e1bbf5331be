//! Reads and writes the values of etcd's keys. This is the one place that knows which record
//! belongs to which kind of key.

use std::net::IpAddr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{DnsRecord, Environment, Instance, Router, Source, Status};
use crate::address::InstanceId;
use crate::keys::{Daemon, Key};
use crate::names::{EnvironmentName, Hostname, NameError, NodeName, ServiceName};
use crate::printable::printable;
use crate::records::definition::Definition;
use crate::records::ended::Ended;
use crate::records::traffic::Traffic;
use crate::version::BackendId;

/// Longest value that is looked at, in bytes; etcd's own limit for a request is 1.5 MiB.
pub const VALUE_LIMIT: usize = 1 << 20;

/// More addresses for one name than any answer of DNS holds.
const MOST_ADDRESSES: usize = 64;

/// What can stand in etcd: a key with its value, one variant for each kind of key.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// An environment that is registered.
    Environment(Environment),
    /// An environment as it was last registered.
    History(Environment),
    /// When and why an environment ended.
    Ended(EnvironmentName, Ended),
    /// A running copy of a backend.
    Instance(BackendId, InstanceId, Instance),
    /// That an instance takes no new requests, whatever its record says.
    Drain(BackendId, InstanceId),
    /// An HAProxy that routes for Mayfly.
    Router(NodeName, Router),
    /// A static DNS record.
    Dns(Hostname, DnsRecord),
    /// How a container of a service is started.
    Definition(Definition),
    /// Which of several daemons of a kind works.
    Leader(Daemon, NodeName),
    /// An operator's word that what a guard of a daemon holds back is meant.
    Confirmation(Daemon),
    /// An operator's word that containers of a backend are to be started again.
    Relaunch(BackendId),
    /// What a daemon says of itself.
    Status(Daemon, NodeName, Status),
    /// What a router has counted.
    Traffic(NodeName, Traffic),
}

impl Record {
    /// Reads the value of a key.
    ///
    /// # Errors
    /// When it is too long, breaks a rule, or names something else than its key; the message says
    /// where.
    pub fn decode(key: &Key, value: &[u8]) -> Result<Self, RecordError> {
        Ok(match key.clone() {
            Key::Environment(name) => Self::Environment(environment(&name, value)?),
            Key::History(name) => Self::History(environment(&name, value)?),
            Key::Ended(name) => Self::Ended(name, parse(value)?),
            Key::Instance(backend, id) => Self::Instance(backend, id, parse(value)?),
            Key::Drain(backend, id) => Self::Drain(backend, id),
            Key::Router(node) => Self::Router(node, router(value)?),
            Key::Dns(host) => Self::Dns(host, dns_record(value)?),
            Key::Definition(service) => Self::Definition(definition(&service, value)?),
            Key::Leader(daemon) => Self::Leader(daemon, String::from_utf8_lossy(value).parse()?),
            Key::Confirmation(daemon) => Self::Confirmation(daemon),
            Key::Relaunch(backend) => Self::Relaunch(backend),
            Key::Status(daemon, node) => Self::Status(daemon, node, parse(value)?),
            Key::Traffic(node) => Self::Traffic(node, parse(value)?),
        })
    }

    /// The key that it stands at.
    pub fn key(&self) -> Key {
        match self {
            Self::Environment(environment) => Key::Environment(environment.name.clone()),
            Self::History(environment) => Key::History(environment.name.clone()),
            Self::Ended(name, _) => Key::Ended(name.clone()),
            Self::Instance(backend, id, _) => Key::Instance(backend.clone(), id.clone()),
            Self::Drain(backend, id) => Key::Drain(backend.clone(), id.clone()),
            Self::Router(node, _) => Key::Router(node.clone()),
            Self::Dns(host, _) => Key::Dns(host.clone()),
            Self::Definition(definition) => Key::Definition(definition.name.clone()),
            Self::Leader(daemon, _) => Key::Leader(*daemon),
            Self::Confirmation(daemon) => Key::Confirmation(*daemon),
            Self::Relaunch(backend) => Key::Relaunch(backend.clone()),
            Self::Status(daemon, node, _) => Key::Status(*daemon, node.clone()),
            Self::Traffic(node, _) => Key::Traffic(node.clone()),
        }
    }
}

fn router(value: &[u8]) -> Result<Router, RecordError> {
    let router: Router = parse(value)?;
    if router.address.is_unspecified() || router.address.is_multicast() {
        return Err(RecordError::NotOfARouter(router.address));
    }
    Ok(router)
}

fn dns_record(value: &[u8]) -> Result<DnsRecord, RecordError> {
    let record: DnsRecord = parse(value)?;
    match record.addresses.len() {
        1..=MOST_ADDRESSES => Ok(record),
        count => Err(RecordError::Addresses(count)),
    }
}

/// Why the value of a key is not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is longer than [`VALUE_LIMIT`].
    #[error("the value has {0} bytes, more than the limit of {VALUE_LIMIT}")]
    TooLong(usize),
    /// It is not JSON, or a field of it breaks a rule.
    #[error("the value is not a record: {}", in_one_line(.0))]
    Invalid(#[from] serde_json::Error),
    /// The name in the value is not the one in the key.
    #[error("the value names environment {0}, but the key names another one")]
    OtherName(EnvironmentName),
    /// The service in the value is not the one in the key.
    #[error("the value names service {0}, but the key names another one")]
    OtherService(ServiceName),
    /// No router can be reached there.
    #[error("{0} is not the address of a router")]
    NotOfARouter(IpAddr),
    /// A static record leads to nothing, or to more than an answer of DNS holds.
    #[error("a record has from 1 to {MOST_ADDRESSES} addresses, not {0}")]
    Addresses(usize),
    /// The value is no name of a node.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What an error says. It can quote the value, which may be long and hold whatever a log or a
/// terminal takes for more.
fn in_one_line(error: &serde_json::Error) -> String {
    printable(&error.to_string()).chars().take(1_000).collect()
}

/// Reads the value of a key.
///
/// # Errors
/// When it is too long, not JSON, or breaks a rule; the message says where.
pub fn parse<Record: DeserializeOwned>(value: &[u8]) -> Result<Record, RecordError> {
    if value.len() > VALUE_LIMIT {
        return Err(RecordError::TooLong(value.len()));
    }
    Ok(serde_json::from_slice(value)?)
}

fn environment(name: &EnvironmentName, value: &[u8]) -> Result<Environment, RecordError> {
    let mut environment: Environment = parse(value)?;
    if environment.name != *name {
        return Err(RecordError::OtherName(environment.name));
    }
    // The lists have grown beyond what they hold, and whoever reads environments reads thousands.
    environment.shrink();
    Ok(environment)
}

fn definition(service: &ServiceName, value: &[u8]) -> Result<Definition, RecordError> {
    let definition: Definition = parse(value)?;
    if definition.name != *service {
        return Err(RecordError::OtherService(definition.name));
    }
    Ok(definition)
}

/// The source of a record that is otherwise no good: a newer Mayfly may write what this one cannot
/// read.
pub fn source_of(value: &[u8]) -> Option<Source> {
    let mut record: Value = parse(value).ok()?;
    serde_json::from_value(record.get_mut("source")?.take()).ok()
}

/// The value of a key with what differs between two records, and with all else as it stands there:
/// fields that only a newer Mayfly knows too.
///
/// # Errors
/// As [`parse`].
pub fn amended<Record: Serialize>(
    value: &[u8],
    before: &Record,
    after: &Record,
) -> Result<Vec<u8>, RecordError> {
    let mut value: Value = parse(value)?;
    amend(
        &mut value,
        &serde_json::to_value(before)?,
        serde_json::to_value(after)?,
    );
    Ok(to_json(&value))
}

fn amend(value: &mut Value, before: &Value, after: Value) {
    match (value, before, after) {
        (Value::Object(fields), Value::Object(before), Value::Object(after)) => {
            for name in before.keys().filter(|name| !after.contains_key(*name)) {
                fields.remove(name);
            }
            for (name, after) in after {
                let before = before.get(&name).unwrap_or(&Value::Null);
                match fields.get_mut(&name) {
                    Some(field) => amend(field, before, after),
                    // What is left out is the default, and stays left out.
                    None if *before == after => {}
                    None => drop(fields.insert(name, after)),
                }
            }
        }
        (_, before, after) if *before == after => {}
        (value, _, after) => *value = after,
    }
}

/// Writes a record as the value of a key. Equal records give equal bytes.
pub fn to_json<Record: Serialize>(record: &Record) -> Vec<u8> {
    // Every record is a struct of strings, numbers and maps with string keys, which JSON can always
    // hold.
    serde_json::to_vec(record).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::lifetime::Life;
    use crate::records::switching::Switch;
    use crate::records::{InstanceState, Protocol, ServiceChoice};
    use proptest::prelude::*;

    #[test]
    fn an_amended_value_keeps_what_is_not_known() {
        let value = br#"{"name": "a", "prefix": "a", "header": "a", "expires": "8h", "colour": "blue",
            "services": [{"name": "s", "version": "1", "new": 1}],
            "life": {"registered_at": "2030-01-31T11:00:00Z", "refused": "bad", "moon": "full"}}"#;
        let before: Environment = parse(value).unwrap();
        let life = before.life.clone().map(|life| Life {
            kept_until: "2030-01-31T13:00:00Z".parse().ok(),
            refused: None,
            ..life
        });
        let after = Environment {
            life,
            ..before.clone()
        };
        let amended = amended(value, &before, &after).unwrap();
        assert_eq!(parse::<Environment>(&amended).unwrap(), after);
        let expected = serde_json::json!({
            "name": "a", "prefix": "a", "header": "a", "expires": "8h", "colour": "blue",
            "services": [{"name": "s", "version": "1", "new": 1}],
            "life": {"registered_at": "2030-01-31T11:00:00Z", "kept_until": "2030-01-31T13:00:00Z", "moon": "full"},
        });
        assert_eq!(parse::<Value>(&amended).unwrap(), expected);
        // Defaults that are left out stay so.
        let short = br#"{"header":"a","name":"a","prefix":"a"}"#;
        let before: Environment = parse(short).unwrap();
        assert_eq!(super::amended(short, &before, &before).unwrap(), short);
    }

    fn environment() -> Environment {
        Environment {
            name: "temp-1".parse().unwrap(),
            extends: Some("qa".parse().unwrap()),
            prefix: "www-temp-1".parse().unwrap(),
            header: "temp-1".parse().unwrap(),
            expires: Some("8h".parse().unwrap()),
            idle: Some("1h".parse().unwrap()),
            protected: false,
            access: None,
            switch: Switch::WhenLive,
            description: Some("checkout".to_owned()),
            services: vec![ServiceChoice {
                name: "frontend".parse().unwrap(),
                version: "0.0.2".parse().unwrap(),
                routes: vec!["/".parse().unwrap()],
            }],
            source: Some(Source {
                registrar: "host-1".parse().unwrap(),
                file: "temp-1.yaml".to_owned(),
            }),
            life: Some(Life::beginning("2030-01-31T18:00:00Z".parse().unwrap())),
        }
    }

    #[test]
    fn an_environment_survives_its_json() {
        let record = environment();
        let key = Key::Environment(record.name.clone());
        assert_eq!(
            Record::decode(&key, &to_json(&record)).unwrap(),
            Record::Environment(record)
        );
    }

    #[test]
    fn every_record_becomes_json() {
        assert!(!to_json(&environment()).is_empty());
        assert!(!to_json(&Status::default()).is_empty());
        let router = Router {
            address: "10.0.0.1".parse().unwrap(),
            haproxy_version: "2.6.12".to_owned(),
        };
        assert_eq!(parse::<Router>(&to_json(&router)).unwrap(), router);
    }

    #[test]
    fn an_instance_needs_only_its_address() {
        let instance: Instance = parse(br#"{"address": "10.0.0.5:8080", "added_later": 1}"#).unwrap();
        assert_eq!(
            (instance.state, instance.protocol),
            (InstanceState::Up, Protocol::Http)
        );
        assert_eq!(u16::from(instance.weight), 100);
    }

    #[test]
    fn hostile_values_are_refused_with_a_reason() {
        for (value, reason) in [
            (&b"not json"[..], "the value is not a record: expected"),
            (
                br#"{"address": "10.0.0.5:8080\n  server x 1.2.3.4:1"}"#,
                "is not an address",
            ),
            (br#"{"address": "evil.example:80/x"}"#, "is not an address"),
            (
                br#"{"address": "10.0.0.5:8080", "weight": 257}"#,
                "is not a weight",
            ),
            (
                br#"{"address": "10.0.0.5:8080", "protocol": "http\n"}"#,
                "unknown variant",
            ),
            (b"", "the value is not a record: EOF"),
        ] {
            let error = parse::<Instance>(value).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let long = vec![b' '; VALUE_LIMIT + 1];
        assert!(matches!(parse::<Instance>(&long), Err(RecordError::TooLong(_))));
    }

    #[test]
    fn a_record_under_another_key_is_refused() {
        let record = environment();
        let other = Key::Environment("other".parse().unwrap());
        let error = Record::decode(&other, &to_json(&record)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the value names environment temp-1, but the key names another one"
        );
        let definition = br#"{"name": "a", "image": "a:{{ version }}", "port": 80}"#;
        let key = |name: &str| Key::Definition(name.parse().unwrap());
        assert!(Record::decode(&key("a"), definition).is_ok());
        let error = Record::decode(&key("b"), definition).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the value names service a, but the key names another one"
        );
    }

    /// A value for a key: a record of its kind.
    fn value_of(key: &Key) -> Value {
        match key {
            Key::Environment(name) | Key::History(name) => {
                serde_json::json!({"name": name, "prefix": "p", "header": "h"})
            }
            Key::Ended(_) => {
                serde_json::json!({"prefix": "p", "at": "2030-01-31T00:00:00Z", "why": "idle"})
            }
            Key::Instance(..) => serde_json::json!({"address": "10.0.0.5:8080"}),
            Key::Router(_) => serde_json::json!({"address": "10.0.0.1"}),
            Key::Dns(_) => serde_json::json!({"addresses": ["10.0.0.1", "fd00::1"]}),
            Key::Definition(name) => {
                serde_json::json!({"name": name, "image": "a:{{ version }}", "port": 80})
            }
            Key::Status(..) => serde_json::json!({"applied_revision": 7}),
            Key::Traffic(_) => serde_json::json!({"backends": []}),
            Key::Drain(..) | Key::Leader(_) | Key::Confirmation(_) | Key::Relaunch(_) => Value::Null,
        }
    }

    proptest! {
        #[test]
        fn a_record_stands_at_the_key_that_it_was_read_from(key in crate::keys::tests::key(), other in "[ -~]{0,20}") {
            let value = match &key {
                Key::Leader(_) => b"host-1".to_vec(),
                key => value_of(key).to_string().into_bytes(),
            };
            let record = Record::decode(&key, &value).unwrap();
            prop_assert_eq!(record.key(), key.clone());
            prop_assert_eq!(record.key().kind(), key.kind());
            // What is no JSON is no record, where the value counts.
            let counts = !matches!(key, Key::Drain(..) | Key::Confirmation(_) | Key::Relaunch(_) | Key::Leader(_));
            let is_json = serde_json::from_str::<Value>(&other).is_ok();
            prop_assert!(Record::decode(&key, other.as_bytes()).is_err() || !counts || is_json);
        }
    }

    #[test]
    fn what_breaks_a_rule_of_its_kind_is_no_record() {
        let space = crate::keys::KeySpace::default();
        let many = format!(r#"{{"addresses": [{}]}}"#, [r#""10.0.0.1""#; 65].join(","));
        for (key, value, reason) in [
            (
                "routers/a",
                r#"{"address": "0.0.0.0"}"#,
                "0.0.0.0 is not the address of a router",
            ),
            (
                "routers/a",
                r#"{"address": "ff02::1"}"#,
                "ff02::1 is not the address of a router",
            ),
            (
                "dns/a.b",
                r#"{"addresses": []}"#,
                "a record has from 1 to 64 addresses, not 0",
            ),
            ("dns/a.b", &many, "a record has from 1 to 64 addresses, not 65"),
            ("leaders/container-launcher", "a b", "is not a node name"),
            (
                "history/a",
                r#"{"name": "b", "prefix": "b", "header": "b"}"#,
                "but the key names another one",
            ),
            (
                "services/a",
                r#"{"name": "b", "image": "b:{{ version }}", "port": 80}"#,
                "but the key names another one",
            ),
            ("environments/a", "{}", "missing field `name`"),
        ] {
            let key = space.parse(&format!("/mayfly/{key}")).unwrap();
            let error = Record::decode(&key, value.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn where_a_value_comes_from_is_reported_though_it_is_no_record() {
        let newer = br#"{"source": {"registrar": "us", "file": "a.yaml"}, "name": 7}"#;
        assert_eq!(source_of(newer).unwrap().registrar.as_str(), "us");
        for value in [&b"{}"[..], b"[]", b"7", b"no JSON", br#"{"source": 7}"#] {
            assert_eq!(source_of(value), None);
        }
    }
}
