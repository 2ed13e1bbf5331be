//! The etcd keys, as types. This is the one module that spells the key prefix and joins a key: everything else holds a
//! [`Key`], so no name can ever reach a key unchecked.

use std::fmt;
use std::str::FromStr;

use crate::address::InstanceId;
use crate::names::{EnvironmentName, Hostname, NameError, NodeName, ServiceName};
use crate::version::BackendId;

/// One key below the prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `environments/<name>`: a [`crate::records::Environment`].
    Environment(EnvironmentName),
    /// `history/<name>`: the same record as it was last registered. It stays when the environment ends, so that what has
    /// ended is known from what has not been yet.
    History(EnvironmentName),
    /// `backends/<service>/<version>/<instance>`: a [`crate::records::Instance`].
    Instance(BackendId, InstanceId),
    /// `drains/<service>/<version>/<instance>`: an instance that is about to be stopped takes no new requests, whatever
    /// its own record says. There is no value; who stops it holds the key by a lease.
    Drain(BackendId, InstanceId),
    /// `routers/<node>`: a [`crate::records::Router`].
    Router(NodeName),
    /// `dns/<host>`: a [`crate::records::DnsRecord`].
    Dns(Hostname),
    /// `services/<name>`: a [`crate::definition::Definition`], which says how a container of the service is started.
    Definition(ServiceName),
    /// `leaders/<daemon>`: which of several daemons of a kind works, by its [`NodeName`]. Leased.
    Leader(Daemon),
    /// `confirmations/<daemon>`: an operator's word that what a guard of that daemon holds back is meant. Leased.
    Confirmation(Daemon),
    /// `status/<daemon>/<node>`: a [`crate::records::Status`].
    Status(Daemon, NodeName),
}

/// A daemon that writes a status record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Daemon {
    /// `environment-registrar`
    EnvironmentRegistrar,
    /// `container-registrar`
    ContainerRegistrar,
    /// `container-launcher`
    ContainerLauncher,
    /// `haproxy-updater`
    HaproxyUpdater,
    /// `dns-updater`
    DnsUpdater,
}

impl Daemon {
    const ALL: [Self; 5] = [
        Self::EnvironmentRegistrar,
        Self::ContainerRegistrar,
        Self::ContainerLauncher,
        Self::HaproxyUpdater,
        Self::DnsUpdater,
    ];

    /// The name of its binary.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EnvironmentRegistrar => "environment-registrar",
            Self::ContainerRegistrar => "container-registrar",
            Self::ContainerLauncher => "container-launcher",
            Self::HaproxyUpdater => "haproxy-updater",
            Self::DnsUpdater => "dns-updater",
        }
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text is not one of Mayfly's keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It does not begin with the prefix, or names no kind of record that Mayfly knows.
    #[error("not a key of mayfly")]
    Unknown,
    /// It has the form of a key, but a name in it breaks a rule.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A half-open range of keys, as etcd takes it: from `start` up to but not including `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key of the range.
    pub start: String,
    /// The first key after it.
    pub end: String,
}

impl KeyRange {
    /// One key, as etcd has it.
    pub fn only(key: &str) -> Self {
        Self {
            start: key.to_owned(),
            end: format!("{key}\0"),
        }
    }
}

/// All keys below one prefix. Several Mayflies can share an etcd by having a prefix each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpace {
    prefix: String,
}

impl Default for KeySpace {
    fn default() -> Self {
        Self {
            prefix: "/mayfly".to_owned(),
        }
    }
}

impl FromStr for KeySpace {
    type Err = NameError;

    /// A prefix: one or more segments of letters, digits, `_`, `.`, `-`, each with a slash before it.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let segment = |part: &str| !part.is_empty() && part.parse::<NodeName>().is_ok();
        match text.strip_prefix('/') {
            Some(rest) if rest.split('/').all(segment) => Ok(Self {
                prefix: text.to_owned(),
            }),
            _ => Err(NameError::new(
                text,
                "a key prefix",
                "a slash and a name, as /mayfly",
            )),
        }
    }
}

impl fmt::Display for KeySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.prefix)
    }
}

impl KeySpace {
    /// The text of a key in etcd.
    pub fn text(&self, key: &Key) -> String {
        let prefix = &self.prefix;
        match key {
            Key::Environment(name) => format!("{prefix}/environments/{name}"),
            Key::History(name) => format!("{prefix}/history/{name}"),
            Key::Instance(BackendId { service, version }, instance) => {
                format!("{prefix}/backends/{service}/{version}/{instance}")
            }
            Key::Drain(BackendId { service, version }, instance) => {
                format!("{prefix}/drains/{service}/{version}/{instance}")
            }
            Key::Router(node) => format!("{prefix}/routers/{node}"),
            Key::Dns(host) => format!("{prefix}/dns/{host}"),
            Key::Definition(service) => format!("{prefix}/services/{service}"),
            Key::Leader(daemon) => format!("{prefix}/leaders/{daemon}"),
            Key::Confirmation(daemon) => format!("{prefix}/confirmations/{daemon}"),
            Key::Status(daemon, node) => format!("{prefix}/status/{daemon}/{node}"),
        }
    }

    /// The key that a text of etcd means.
    ///
    /// # Errors
    /// When it is none of Mayfly's, or a name in it breaks a rule. Only the canonical text of a key is accepted, so
    /// that two texts can never mean one key; but somebody who registers by hand may write `backends/backend.service/`
    /// for `backends/backend/`, as everywhere.
    pub fn parse(&self, text: &str) -> Result<Key, KeyError> {
        let rest = text
            .strip_prefix(self.prefix.as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        let parts: Vec<&str> = rest.ok_or(KeyError::Unknown)?.split('/').collect();
        let key = match parts.as_slice() {
            ["environments", name] => Key::Environment(name.parse()?),
            ["history", name] => Key::History(name.parse()?),
            ["backends", service, version, instance] => {
                Key::Instance(backend(service, version)?, instance.parse()?)
            }
            ["drains", service, version, instance] => {
                Key::Drain(backend(service, version)?, instance.parse()?)
            }
            ["routers", node] => Key::Router(node.parse()?),
            ["dns", host] => Key::Dns(host.parse()?),
            ["services", service] => Key::Definition(service.parse()?),
            ["leaders", daemon] => Key::Leader(self::daemon(daemon)?),
            ["confirmations", daemon] => Key::Confirmation(self::daemon(daemon)?),
            ["status", daemon, node] => Key::Status(self::daemon(daemon)?, node.parse()?),
            _ => return Err(KeyError::Unknown),
        };
        let canonical = self.text(&key);
        let with_suffix = matches!(key, Key::Instance(..)) && text.replacen(".service/", "/", 1) == canonical;
        if canonical != text && !with_suffix {
            return Err(KeyError::Unknown);
        }
        Ok(key)
    }

    /// The kind of record that a text names (`backends`, `environments`, ...), whether or not the rest of it parses.
    pub fn kind<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.strip_prefix(self.prefix.as_str())?
            .strip_prefix('/')?
            .split('/')
            .next()
    }

    /// What a router needs: instances, drains and environments, in one range so that one watch gives one revision.
    /// Confirmations and static DNS records lie between them and come along.
    pub fn routing(&self) -> KeyRange {
        self.kinds("backends", "environments")
    }

    /// What names need: instances, static records, environments and routers, in one range. What lies between them comes
    /// along.
    pub fn naming(&self) -> KeyRange {
        self.kinds("backends", "routers")
    }

    /// All environments.
    pub fn environments(&self) -> KeyRange {
        self.kinds("environments", "environments")
    }

    /// All environments, and those that have been.
    pub fn registry(&self) -> KeyRange {
        self.kinds("environments", "history")
    }

    /// Everything that decides about routing and names, and what the daemons say of it.
    pub fn everything(&self) -> KeyRange {
        self.kinds("backends", "status")
    }

    /// What the launcher needs: instances, drains, environments, definitions and confirmations, in one range. What lies
    /// between them comes along.
    pub fn launching(&self) -> KeyRange {
        self.kinds("backends", "services")
    }

    /// All service definitions.
    pub fn definitions(&self) -> KeyRange {
        self.kinds("services", "services")
    }

    /// All static DNS records.
    pub fn dns(&self) -> KeyRange {
        self.kinds("dns", "dns")
    }

    /// All instances, or those of one service, whether its name stands there with its suffix or without.
    pub fn instances(&self, service: Option<&ServiceName>) -> KeyRange {
        match service {
            None => self.kinds("backends", "backends"),
            // `.` comes directly before `/`, so there is no other service in between.
            Some(service) => self.kinds(
                &format!("backends/{service}.service"),
                &format!("backends/{service}"),
            ),
        }
    }

    /// The status records of all daemons.
    pub fn statuses(&self) -> KeyRange {
        self.kinds("status", "status")
    }

    fn kinds(&self, first: &str, last: &str) -> KeyRange {
        // `0` is the octet after `/`.
        KeyRange {
            start: format!("{}/{first}/", self.prefix),
            end: format!("{}/{last}0", self.prefix),
        }
    }
}

fn backend(service: &str, version: &str) -> Result<BackendId, NameError> {
    Ok(BackendId {
        service: service.parse()?,
        version: version.parse()?,
    })
}

fn daemon(text: &str) -> Result<Daemon, KeyError> {
    let known = Daemon::ALL.into_iter().find(|known| known.as_str() == text);
    known.ok_or(KeyError::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Key> {
        let label = "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?";
        let token = "[A-Za-z0-9][A-Za-z0-9_.-]{0,10}";
        let backend = (label, token).prop_map(|(service, version)| BackendId {
            service: service.parse().unwrap(),
            version: version.parse().unwrap(),
        });
        prop_oneof![
            label.prop_map(|name| Key::Environment(name.parse().unwrap())),
            label.prop_map(|name| Key::History(name.parse().unwrap())),
            (backend.clone(), "[a-f0-9:.]{1,20}")
                .prop_map(|(backend, id)| Key::Instance(backend, id.parse().unwrap())),
            (backend, "[a-f0-9:.]{1,20}").prop_map(|(backend, id)| Key::Drain(backend, id.parse().unwrap())),
            label.prop_map(|name| Key::Definition(name.parse().unwrap())),
            (0..Daemon::ALL.len()).prop_map(|daemon| Key::Leader(Daemon::ALL[daemon])),
            (0..Daemon::ALL.len()).prop_map(|daemon| Key::Confirmation(Daemon::ALL[daemon])),
            token.prop_map(|node| Key::Router(node.parse().unwrap())),
            (label, label).prop_map(|(a, b)| Key::Dns(format!("{a}.{b}").parse().unwrap())),
            (0..Daemon::ALL.len(), token)
                .prop_map(|(daemon, node)| Key::Status(Daemon::ALL[daemon], node.parse().unwrap())),
        ]
    }

    proptest! {
        #[test]
        fn keys_survive_their_text(key in key()) {
            let space = KeySpace::default();
            prop_assert_eq!(space.parse(&space.text(&key)).unwrap(), key);
        }

        #[test]
        fn any_text_is_a_key_or_an_error(text in "/mayfly/(backends|environments|history|dns|routers|status|x)(/[ -~]{0,8}){0,4}|\\PC{0,30}") {
            let space = KeySpace::default();
            if let Ok(key) = space.parse(&text) {
                prop_assert_eq!(space.text(&key), text.replacen(".service/", "/", 1));
            }
        }
    }

    #[test]
    fn ranges_hold_what_they_name_and_no_status() {
        let space = KeySpace::default();
        let holds = |range: &KeyRange, text: &str| range.start.as_str() <= text && text < range.end.as_str();
        let (routing, naming) = (space.routing(), space.naming());
        for text in ["/mayfly/backends/a/1/x", "/mayfly/environments/zz"] {
            assert!(holds(&routing, text) && holds(&naming, text), "{text}");
        }
        assert!(holds(&naming, "/mayfly/routers/n") && !holds(&routing, "/mayfly/routers/n"));
        assert!(!holds(&naming, "/mayfly/status/dns-updater/n") && !holds(&naming, "/mayfly/services/a"));
        let service = space.instances(Some(&"a".parse().unwrap()));
        for (text, held) in [
            ("/mayfly/backends/a/1/x", true),
            ("/mayfly/backends/a.service/1/x", true),
            ("/mayfly/backends/a-b/1/x", false),
            ("/mayfly/backends/ab/1/x", false),
            ("/mayfly/backends/a-b.service/1/x", false),
        ] {
            assert_eq!(holds(&service, text), held, "{text}");
        }
    }

    #[test]
    fn the_suffix_of_a_service_means_nothing_in_a_key_either() {
        let space = KeySpace::default();
        let key = space.parse("/mayfly/backends/backend.service/0.0.1/10.0.0.5:80");
        assert_eq!(key, space.parse("/mayfly/backends/backend/0.0.1/10.0.0.5:80"));
        assert!(key.is_ok());
    }

    #[test]
    fn only_canonical_texts_are_keys() {
        let space = KeySpace::default();
        for bad in [
            "/mayfly/environments/dev.service",
            "/mayfly/environments/dev/",
            "/mayfly//environments/dev",
            "/other/environments/dev",
            "/mayfly/backends/a/1",
            "/mayfly/environments/a b",
        ] {
            assert!(space.parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes() {
        assert!("/team/mayfly".parse::<KeySpace>().is_ok());
        for bad in ["", "mayfly", "/", "/a/", "/a b", "//a"] {
            assert!(bad.parse::<KeySpace>().is_err(), "{bad:?}");
        }
    }
}
