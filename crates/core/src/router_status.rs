//! What a router says in its status record that others read back: what it cannot reach, by which
//! rules it routes, and its certificates. `mayfly status`, `mayfly wait`, `mayfly explain` and
//! mayfly-web resolve environments with it, as the router does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::explain::Settings;
use crate::names::Hostname;
use crate::outside::AddressRule;
use crate::records::Status;
use crate::records::lifetime::Moment;
use crate::version::BackendId;

/// The fields of a status record's `detail`.
const SETTINGS: &str = "settings";
const ADDRESS_RULE: &str = "address_rule";
const NOT_ANSWERING: &str = "not_answering";
const HOST_NAMES_REFUSED: &str = "host_names_refused";
const HOST_NAMES_WITHOUT_ADDRESS: &str = "host_names_without_address";
const CERTIFICATES: &str = "certificates";

/// The part of a router's status record that others read back.
///
/// The lists are whole, since readers decide by them which environments are complete.
/// `--max-addresses` bounds how many external services they name: those that a router takes by
/// default fit into a record, however long their names are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouterStatus {
    /// The settings that decide where a request goes; `None` of a router that does not report them.
    pub settings: Option<Settings>,
    /// Which external addresses it connects to; `None` of an older one, which refuses none.
    pub address_rule: Option<AddressRule>,
    /// The external services of which HAProxy's check finds every server dead.
    pub not_answering: BTreeSet<BackendId>,
    /// The host names that resolve to something that is refused, with all that they resolve to.
    pub host_names_refused: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    /// The host names that it needs and has no address of.
    pub host_names_without_address: BTreeSet<Hostname>,
    /// The certificates of its edge; `None` where it was given no directory of them.
    pub certificates: Option<CertificateStatus>,
}

/// The certificates of a router's edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// The first that are in use.
    pub in_use: Vec<CertificateInUse>,
    /// How many are in use.
    pub count: usize,
    /// How many files have a content that is not in use.
    pub faulty: usize,
    /// How many of the router's notes are about certificates.
    pub warnings: usize,
}

/// A certificate that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateInUse {
    /// The name of its file.
    pub file: String,
    /// The first hosts that it is made out to.
    pub names: Vec<String>,
    /// How many hosts it is made out to.
    pub names_count: usize,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Until when it is valid.
    pub ends_at: Moment,
    /// Whether HAProxy serves it where no other fits.
    pub default: bool,
}

impl RouterStatus {
    /// What a status record reports. A field that is missing, or that this program cannot read,
    /// counts as nothing reported, and an entry of a list that it cannot read is passed over: the
    /// record may be of an earlier or of a later router.
    pub fn of(status: &Status) -> Self {
        let field = |name| status.detail.get(name);
        let refused = field(HOST_NAMES_REFUSED).and_then(Value::as_object);
        let refused = refused.into_iter().flatten();
        Self {
            settings: read(field(SETTINGS)),
            address_rule: read(field(ADDRESS_RULE)),
            not_answering: entries(field(NOT_ANSWERING)).collect(),
            host_names_refused: refused
                .filter_map(|(name, addresses)| Some((name.parse().ok()?, read(Some(addresses))?)))
                .collect(),
            host_names_without_address: entries(field(HOST_NAMES_WITHOUT_ADDRESS)).collect(),
            certificates: field(CERTIFICATES)
                .filter(|certificates| certificates.is_object())
                .map(CertificateStatus::of),
        }
    }

    /// Puts it into a status record, in the place of what that reported.
    pub fn put(&self, status: &mut Status) {
        let Self {
            settings,
            address_rule,
            not_answering,
            host_names_refused,
            host_names_without_address,
            certificates,
        } = self;
        for (field, value) in [
            (SETTINGS, serde_json::to_value(settings)),
            (ADDRESS_RULE, serde_json::to_value(address_rule)),
            (NOT_ANSWERING, serde_json::to_value(not_answering)),
            (HOST_NAMES_REFUSED, serde_json::to_value(host_names_refused)),
            (
                HOST_NAMES_WITHOUT_ADDRESS,
                serde_json::to_value(host_names_without_address),
            ),
            (CERTIFICATES, serde_json::to_value(certificates)),
        ] {
            // All of them have text for keys, so none fails.
            let value = value.unwrap_or_default();
            status.detail.insert(field.to_owned(), value);
        }
    }
}

impl CertificateStatus {
    fn of(value: &Value) -> Self {
        let number = |name| read(value.get(name)).unwrap_or_default();
        Self {
            in_use: entries(value.get("in_use")).collect(),
            count: number("count"),
            faulty: number("faulty"),
            warnings: number("warnings"),
        }
    }
}

/// A value, if it is there and can be read.
fn read<'a, T: Deserialize<'a>>(value: Option<&'a Value>) -> Option<T> {
    T::deserialize(value?).ok()
}

/// The entries of a list that can be read.
fn entries<'a, T: Deserialize<'a>>(list: Option<&'a Value>) -> impl Iterator<Item = T> {
    let all = list.and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|entry| T::deserialize(entry).ok())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use serde_json::json;

    use super::*;
    use crate::outside;
    use crate::records::{self, VALUE_LIMIT};

    fn full() -> RouterStatus {
        let own = [("10.0.0.1".parse().unwrap(), 80)].into();
        RouterStatus {
            settings: serde_json::from_value(json!({"domain": "service", "default_environment": "prod"}))
                .ok(),
            address_rule: Some(AddressRule::new(vec!["*.test".parse().unwrap()], own, 7)),
            not_answering: ["gone@http://127.0.0.1:1", "db@https://db.test:443"]
                .map(|text| text.parse().unwrap())
                .into(),
            host_names_refused: [(
                "evil.test".parse().unwrap(),
                ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()].into(),
            )]
            .into(),
            host_names_without_address: ["a.test", "b.test"].map(|text| text.parse().unwrap()).into(),
            certificates: Some(CertificateStatus {
                in_use: vec![CertificateInUse {
                    file: "a.pem".to_owned(),
                    names: vec!["a.example".to_owned()],
                    names_count: 1,
                    serial: "0a".to_owned(),
                    ends_at: Moment::of(SystemTime::UNIX_EPOCH + Duration::from_secs(60)),
                    default: true,
                }],
                count: 3,
                faulty: 1,
                warnings: 2,
            }),
        }
    }

    #[test]
    fn a_record_has_this_form_and_is_read_as_it_was_written() {
        let mut status = Status::default();
        full().put(&mut status);
        assert_eq!(
            serde_json::to_string(&status.detail).unwrap(),
            concat!(
                r#"{"address_rule":{"allowed":["*.test"],"most":7,"off":false,"own":[["10.0.0.1",80]]},"#,
                r#""certificates":{"count":3,"faulty":1,"in_use":[{"default":true,"ends_at":"1970-01-01T00:01:00Z","#,
                r#""file":"a.pem","names":["a.example"],"names_count":1,"serial":"0a"}],"warnings":2},"#,
                r#""host_names_refused":{"evil.test":["127.0.0.1","::1"]},"#,
                r#""host_names_without_address":["a.test","b.test"],"#,
                r#""not_answering":["db@https://db.test:443","gone@http://127.0.0.1:1"],"#,
                r#""settings":{"allow_header_at_edge":false,"default_environment":"prod","domain":"service","#,
                r#""share_links":"off"}}"#
            )
        );
        assert_eq!(RouterStatus::of(&status), full());
        // What is over goes from the record.
        RouterStatus::default().put(&mut status);
        assert_eq!(status.detail["certificates"], Value::Null);
        assert_eq!(status.detail["not_answering"], json!([]));
        assert_eq!(RouterStatus::of(&status), RouterStatus::default());
    }

    #[test]
    fn records_of_earlier_and_of_later_routers_are_read() {
        let read = |detail: Value| {
            let record = json!({"applied_revision": 9, "detail": detail});
            RouterStatus::of(&serde_json::from_value(record).unwrap())
        };
        assert_eq!(read(json!({})), RouterStatus::default());
        // Without the fields that came later.
        let early =
            read(json!({"reloads": 3, "settings": {"domain": "service"}, "not_answering": ["a@http://b:1"]}));
        assert_eq!(early.settings.unwrap().domain.as_str(), "service");
        assert_eq!((early.address_rule, early.not_answering.len()), (None, 1));
        let mut status = Status::default();
        full().put(&mut status);
        let mut detail = Value::Object(status.detail);
        detail["new"] = json!(1);
        detail["settings"]["new"] = json!(1);
        detail["address_rule"]["new"] = json!(1);
        detail["certificates"]["new"] = json!(1);
        detail["certificates"]["in_use"][0]["new"] = json!(1);
        for (list, entry) in [
            ("not_answering", json!({"of": "a later form"})),
            ("host_names_without_address", json!("not a name!")),
        ] {
            detail[list].as_array_mut().unwrap().push(entry);
        }
        detail["host_names_refused"]["later.test"] = json!("10.0.0.1");
        assert_eq!(read(detail.clone()), full());
        // What cannot be read at all hides nothing else.
        detail["settings"] = json!({"domain": 7});
        detail["address_rule"] = json!({"allowed": "all"});
        detail["host_names_refused"] = json!([]);
        detail["certificates"]["in_use"] = json!("none");
        let found = read(detail);
        assert_eq!((&found.settings, &found.address_rule), (&None, &None));
        assert_eq!(found.not_answering, full().not_answering);
        assert_eq!(found.certificates.unwrap().warnings, 2);
    }

    #[test]
    fn as_many_external_services_as_a_router_takes_fit_into_a_record() {
        let longest = |number: usize| format!("{number:063}.{0}.{0}.{1}", "h".repeat(63), "h".repeat(61));
        let numbers = 0..outside::MOST;
        let report = RouterStatus {
            not_answering: numbers
                .clone()
                .map(|number| format!("{number:063}@https://{}:65535", longest(number)))
                .map(|text| text.parse().unwrap())
                .collect(),
            host_names_without_address: numbers.map(|number| longest(number).parse().unwrap()).collect(),
            ..RouterStatus::default()
        };
        let mut status = Status::default();
        report.put(&mut status);
        assert_eq!(RouterStatus::of(&status).not_answering.len(), outside::MOST);
        let bytes = records::to_json(&status).len();
        assert!(bytes < VALUE_LIMIT * 2 / 3, "{bytes}");
    }
}
