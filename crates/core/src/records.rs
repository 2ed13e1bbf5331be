//! The values of the etcd keys, as JSON. Every field is a checked type, so a record that parses is safe to use; one
//! that does not is set aside with its key and the reason. Unknown fields are ignored: a newer writer may add some.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::definition::Definition;
use crate::lifetime::{Expiry, Idle, Life};
use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, NameError, NodeName, RoutePath, ServiceName};
use crate::printable::printable;
use crate::switching::Switch;
use crate::upstream::Upstream;
use crate::version::Selector;

/// A named choice of service versions, with all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its name, the same as in the key.
    pub name: EnvironmentName,
    /// The environment from which it takes every service and route that it does not name itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<EnvironmentName>,
    /// The first DNS label that leads to it from outside.
    pub prefix: DnsPrefix,
    /// The value of `x-mayfly` that marks its requests.
    pub header: HeaderValue,
    /// When it is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Expiry>,
    /// How long it may go without a request before it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// Whether it stays when its file is missing, and can only be deleted by force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
    /// When it changes to a new version.
    #[serde(default, skip_serializing_if = "Switch::is_default")]
    pub switch: Switch,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its services, in the order of the file.
    #[serde(default)]
    pub services: Vec<ServiceChoice>,
    /// Where it comes from; absent when nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// What became of it since it was first registered; absent before, and in records that were written by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<Life>,
}

impl Environment {
    /// Gives back the room that its lists have grown beyond what they hold, for who keeps many.
    pub fn shrink(&mut self) {
        self.services.shrink_to_fit();
        for service in &mut self.services {
            service.routes.shrink_to_fit();
        }
    }

    /// About how many bytes its record takes: counted rather than written, since whoever keeps to a quota asks of all of
    /// them again and again.
    pub fn bytes(&self) -> usize {
        /// The names of its fields, and what became of it.
        const FRAME: usize = 200;
        /// The names of the fields of a service.
        const SERVICE: usize = 24;
        let texts = [
            self.name.as_str().len(),
            self.prefix.as_str().len(),
            self.header.as_str().len(),
            self.extends.as_ref().map_or(0, |extends| extends.as_str().len()),
            self.description.as_ref().map_or(0, String::len),
        ];
        let source = |source: &Source| source.registrar.as_str().len() + source.file.len();
        let service = |service: &ServiceChoice| {
            let routes: usize = service.routes.iter().map(|route| route.as_str().len() + 3).sum();
            let list = if service.routes.is_empty() { 0 } else { 12 };
            SERVICE + service.name.as_str().len() + service.version.text().len() + list + routes
        };
        FRAME
            + texts.iter().sum::<usize>()
            + self.source.as_ref().map_or(0, source)
            + self.services.iter().map(service).sum::<usize>()
    }

    /// The file that it comes from.
    pub fn file(&self) -> Option<&str> {
        self.source.as_ref().map(|source| source.file.as_str())
    }

    /// Whether two records ask for the same, wherever they come from and whatever became of them.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        let Self {
            name,
            extends,
            prefix,
            header,
            expires,
            idle,
            protected,
            switch,
            description,
            services,
            source: _,
            life: _,
        } = self;
        *name == other.name
            && *extends == other.extends
            && *prefix == other.prefix
            && *header == other.header
            && *expires == other.expires
            && *idle == other.idle
            && *protected == other.protected
            && *switch == other.switch
            && *description == other.description
            && *services == other.services
    }
}

/// The version that an environment chooses for one service, and the public paths that lead there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChoice {
    /// The service.
    pub name: ServiceName,
    /// Which version; for a service outside, its URL.
    pub version: Selector,
    /// The public paths that lead to it; none for a service that is only called by others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RoutePath>,
}

/// Who registered an environment, and from which file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The node of the registrar.
    pub registrar: NodeName,
    /// The file's name in the directory that it watches.
    pub file: String,
}

/// One running copy of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Where it listens.
    pub address: Upstream,
    /// Whether it takes new requests.
    #[serde(default)]
    pub state: InstanceState,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its share of the requests relative to its siblings, 0 to 256.
    #[serde(default)]
    pub weight: Weight,
    /// Whether other backends may be at the same address. Else who registers an address later has it alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Notes for people and tools; routing does not look at them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Whether an instance takes new requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// It does.
    #[default]
    Up,
    /// It finishes those it has, and takes no new ones.
    Draining,
}

/// What an instance speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 in clear text with prior knowledge, as gRPC uses it.
    H2c,
}

impl FromStr for Protocol {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            "http" => Ok(Self::Http),
            "h2c" => Ok(Self::H2c),
            _ => Err(NameError::new(
                text,
                "a protocol",
                "`http`, or `h2c` for HTTP/2 in clear text",
            )),
        }
    }
}

/// A share of requests, from 0 (none) to 256, as HAProxy counts it; 100 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Weight(u16);

impl Default for Weight {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u16> for Weight {
    type Error = NameError;

    fn try_from(weight: u16) -> Result<Self, NameError> {
        if weight <= 256 {
            return Ok(Self(weight));
        }
        Err(NameError::new(
            &weight.to_string(),
            "a weight",
            "a number from 0 to 256",
        ))
    }
}

impl FromStr for Weight {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let number: Result<u16, _> = text.parse();
        number
            .ok()
            .and_then(|number| Self::try_from(number).ok())
            .ok_or_else(|| NameError::new(text, "a weight", "a number from 0 to 256"))
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> u16 {
        weight.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One HAProxy that routes for Mayfly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// The address of its internal side, where the names of services lead.
    pub address: IpAddr,
    /// The version of HAProxy, as it says it.
    #[serde(default)]
    pub haproxy_version: String,
}

/// A static DNS record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// The addresses that the host name leads to, at least one.
    pub addresses: Vec<IpAddr>,
}

/// What a daemon says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The newest revision of etcd whose every change has been applied; 0 before the first.
    pub applied_revision: i64,
    /// When that was (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<String>,
    /// Whether it has been in step with etcd since it started.
    #[serde(default)]
    pub ready: bool,
    /// Entries that are left out, in the order of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<SetAside>,
    /// Why the newest state is not in force, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What only this daemon has to tell: reloads, slots, version of HAProxy.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub detail: serde_json::Map<String, serde_json::Value>,
}

/// An entry that is left out, so that it harms nobody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SetAside {
    /// The etcd key, or the file and environment.
    pub key: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

/// Longest value that is looked at, in octets; etcd's own limit for a request is 1.5 MiB.
pub const VALUE_LIMIT: usize = 1 << 20;

/// Why the value of a key is not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is longer than [`VALUE_LIMIT`].
    #[error("the value has {0} octets; at most {VALUE_LIMIT} are taken")]
    TooLong(usize),
    /// It is not JSON, or a field of it breaks a rule.
    #[error("the value is not a record: {}", in_one_line(.0))]
    Invalid(#[from] serde_json::Error),
    /// The name in the value is not the one in the key.
    #[error("the value names environment {0}, its key another")]
    OtherName(EnvironmentName),
    /// The service in the value is not the one in the key.
    #[error("the value names service {0}, its key another")]
    OtherService(ServiceName),
}

/// What an error says. It can quote the value, which may be long and hold whatever a log or a terminal takes for more.
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

/// Reads the value of an environment's key.
///
/// # Errors
/// As [`parse`], and when the record names another environment than its key.
pub fn parse_environment(name: &EnvironmentName, value: &[u8]) -> Result<Environment, RecordError> {
    let environment: Environment = parse(value)?;
    if environment.name != *name {
        return Err(RecordError::OtherName(environment.name));
    }
    Ok(environment)
}

/// Reads the value of a definition's key.
///
/// # Errors
/// As [`parse`], and when the record names another service than its key.
pub fn parse_definition(service: &ServiceName, value: &[u8]) -> Result<Definition, RecordError> {
    let definition: Definition = parse(value)?;
    if definition.name != *service {
        return Err(RecordError::OtherService(definition.name));
    }
    Ok(definition)
}

/// The value of an instance's key with the word that it takes no new requests: what stands there right before the key is
/// deleted on purpose.
///
/// # Errors
/// As [`parse`].
pub fn draining(value: &[u8]) -> Result<Vec<u8>, RecordError> {
    let record: Instance = parse(value)?;
    Ok(to_json(&Instance {
        state: InstanceState::Draining,
        ..record
    }))
}

/// The value of a key with what differs between two records, and with all else as it stands there: fields that only a
/// newer Mayfly knows too.
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
    // Every record is a struct of strings, numbers and maps with string keys, which JSON can always hold.
    serde_json::to_vec(record).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            parse_environment(&record.name, &to_json(&record)).unwrap(),
            record
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
        let error = parse_environment(&"other".parse().unwrap(), &to_json(&record)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the value names environment temp-1, its key another"
        );
        let definition = br#"{"name": "a", "image": "a:{{ version }}", "port": 80}"#;
        assert!(parse_definition(&"a".parse().unwrap(), definition).is_ok());
        let error = parse_definition(&"b".parse().unwrap(), definition).unwrap_err();
        assert_eq!(error.to_string(), "the value names service a, its key another");
    }
}
