//! The etcd keys, as types. This is the one module that spells the key prefix and joins a key:
//! everything else holds a [`Key`], so no name can ever reach a key unchecked.
//!
//! A new kind of key needs: [`Key`] and [`Kind`] here, its [`crate::records::Record`], the lists of
//! kinds of the programs that read it ([`Kind::ROUTING`] and its siblings), a `match` arm of each
//! of these, and a role in `deploy/etcd-roles.sh`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::address::InstanceId;
use crate::names::{EnvironmentName, Hostname, NameError, NodeName, ServiceName};
use crate::version::BackendId;

/// One key below the prefix. In the order of the kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `backends/<service>/<version>/<instance>`: a [`crate::records::Instance`].
    Instance(BackendId, InstanceId),
    /// `confirmations/<daemon>`: an operator's word that what a guard of that daemon holds back is
    /// meant. Leased.
    Confirmation(Daemon),
    /// `dns/<host>`: a [`crate::records::DnsRecord`].
    Dns(Hostname),
    /// `drains/<service>/<version>/<instance>`: an instance that is about to be stopped takes no
    /// new requests, whatever its own record says. There is no value; who stops it holds the key by
    /// a lease.
    Drain(BackendId, InstanceId),
    /// `ended/<name>`: a [`crate::records::ended::Ended`], when and why an environment ended.
    /// Leased. It counts for nothing while there is an environment of that name.
    Ended(EnvironmentName),
    /// `environments/<name>`: a [`crate::records::Environment`].
    Environment(EnvironmentName),
    /// `history/<name>`: the same record as it was last registered. It stays when the environment
    /// ends, so that what has ended is known from what has not been yet.
    History(EnvironmentName),
    /// `leaders/<daemon>`: which of several daemons of a kind works, by its [`NodeName`]. Leased.
    Leader(Daemon),
    /// `relaunches/<service>/<version>`: an operator's word that a container-launcher is to start
    /// its containers of a backend again, from the image as it is now. The launcher deletes it when
    /// that is done.
    Relaunch(BackendId),
    /// `routers/<node>`: a [`crate::records::Router`].
    Router(NodeName),
    /// `services/<name>`: a [`crate::records::definition::Definition`], which says how a container
    /// of the service is started.
    Definition(ServiceName),
    /// `status/<daemon>/<node>`: a [`crate::records::Status`].
    Status(Daemon, NodeName),
    /// `traffic/<node>`: a [`crate::records::traffic::Traffic`], what a router has counted. Leased.
    Traffic(NodeName),
}

impl Key {
    /// What kind of key it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Instance(..) => Kind::Instance,
            Self::Confirmation(_) => Kind::Confirmation,
            Self::Dns(_) => Kind::Dns,
            Self::Drain(..) => Kind::Drain,
            Self::Ended(_) => Kind::Ended,
            Self::Environment(_) => Kind::Environment,
            Self::History(_) => Kind::History,
            Self::Leader(_) => Kind::Leader,
            Self::Relaunch(_) => Kind::Relaunch,
            Self::Router(_) => Kind::Router,
            Self::Definition(_) => Kind::Definition,
            Self::Status(..) => Kind::Status,
            Self::Traffic(_) => Kind::Traffic,
        }
    }
}

/// A kind of key: what stands in its text behind the prefix. In the order of these texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `backends`
    Instance,
    /// `confirmations`
    Confirmation,
    /// `dns`
    Dns,
    /// `drains`
    Drain,
    /// `ended`
    Ended,
    /// `environments`
    Environment,
    /// `history`
    History,
    /// `leaders`
    Leader,
    /// `relaunches`
    Relaunch,
    /// `routers`
    Router,
    /// `services`
    Definition,
    /// `status`
    Status,
    /// `traffic`
    Traffic,
}

impl Kind {
    /// What a router needs.
    pub const ROUTING: &[Self] = &[
        Self::Instance,
        Self::Confirmation,
        Self::Drain,
        Self::Ended,
        Self::Environment,
    ];
    /// What names need.
    pub const NAMING: &[Self] = &[
        Self::Instance,
        Self::Confirmation,
        Self::Dns,
        Self::Drain,
        Self::Ended,
        Self::Environment,
        Self::Router,
    ];
    /// What the launcher needs.
    pub const LAUNCHING: &[Self] = &[
        Self::Instance,
        Self::Confirmation,
        Self::Drain,
        Self::Ended,
        Self::Environment,
        Self::Relaunch,
        Self::Definition,
    ];

    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Instance,
        Self::Confirmation,
        Self::Dns,
        Self::Drain,
        Self::Ended,
        Self::Environment,
        Self::History,
        Self::Leader,
        Self::Relaunch,
        Self::Router,
        Self::Definition,
        Self::Status,
        Self::Traffic,
    ];

    /// Its text in a key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "backends",
            Self::Confirmation => "confirmations",
            Self::Dns => "dns",
            Self::Drain => "drains",
            Self::Ended => "ended",
            Self::Environment => "environments",
            Self::History => "history",
            Self::Leader => "leaders",
            Self::Relaunch => "relaunches",
            Self::Router => "routers",
            Self::Definition => "services",
            Self::Status => "status",
            Self::Traffic => "traffic",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
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

impl Serialize for Daemon {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
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
    /// The kinds that are asked for. Others may lie between them, and are passed over.
    pub kinds: &'static [Kind],
}

impl KeyRange {
    /// One key, as etcd has it.
    pub fn only(text: &str) -> Self {
        Self {
            start: text.to_owned(),
            end: format!("{text}\0"),
            kinds: &Kind::ALL,
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

    /// A prefix: one or more segments of letters, digits, `_`, `.`, `-`, each with a slash before
    /// it.
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
        let (prefix, kind) = (&self.prefix, key.kind());
        match key {
            Key::Environment(name) | Key::History(name) | Key::Ended(name) => {
                format!("{prefix}/{kind}/{name}")
            }
            Key::Instance(BackendId { service, version }, instance)
            | Key::Drain(BackendId { service, version }, instance) => {
                format!("{prefix}/{kind}/{service}/{version}/{instance}")
            }
            Key::Router(node) | Key::Traffic(node) => format!("{prefix}/{kind}/{node}"),
            Key::Dns(host) => format!("{prefix}/{kind}/{host}"),
            Key::Definition(service) => format!("{prefix}/{kind}/{service}"),
            Key::Leader(daemon) | Key::Confirmation(daemon) => format!("{prefix}/{kind}/{daemon}"),
            Key::Relaunch(BackendId { service, version }) => format!("{prefix}/{kind}/{service}/{version}"),
            Key::Status(daemon, node) => format!("{prefix}/{kind}/{daemon}/{node}"),
        }
    }

    /// The text of an instance's key with the service's suffix, as somebody may write it by hand.
    pub fn text_with_suffix(&self, key: &Key) -> Option<String> {
        let Key::Instance(BackendId { service, version }, instance) = key else {
            return None;
        };
        let (prefix, kind) = (&self.prefix, key.kind());
        Some(format!("{prefix}/{kind}/{service}.service/{version}/{instance}"))
    }

    /// The key that a text of etcd means.
    ///
    /// # Errors
    /// When it is none of Mayfly's, or a name in it breaks a rule. Only the canonical text of a key
    /// is accepted, so that two texts can never mean one key; but somebody who registers by hand
    /// may write `backends/backend.service/` for `backends/backend/`, as everywhere.
    pub fn parse(&self, text: &str) -> Result<Key, KeyError> {
        let kind = self.kind(text).ok_or(KeyError::Unknown)?;
        let below = self.prefix.len() + 1 + kind.as_str().len() + 1;
        let parts: Vec<&str> = text.get(below..).ok_or(KeyError::Unknown)?.split('/').collect();
        let key = match (kind, parts.as_slice()) {
            (Kind::Environment, [name]) => Key::Environment(name.parse()?),
            (Kind::History, [name]) => Key::History(name.parse()?),
            (Kind::Ended, [name]) => Key::Ended(name.parse()?),
            (Kind::Instance, [service, version, instance]) => {
                Key::Instance(backend(service, version)?, instance.parse()?)
            }
            (Kind::Drain, [service, version, instance]) => {
                Key::Drain(backend(service, version)?, instance.parse()?)
            }
            (Kind::Router, [node]) => Key::Router(node.parse()?),
            (Kind::Traffic, [node]) => Key::Traffic(node.parse()?),
            (Kind::Dns, [host]) => Key::Dns(host.parse()?),
            (Kind::Definition, [service]) => Key::Definition(service.parse()?),
            (Kind::Leader, [daemon]) => Key::Leader(self::daemon(daemon)?),
            (Kind::Confirmation, [daemon]) => Key::Confirmation(self::daemon(daemon)?),
            (Kind::Relaunch, [service, version]) => Key::Relaunch(backend(service, version)?),
            (Kind::Status, [daemon, node]) => Key::Status(self::daemon(daemon)?, node.parse()?),
            _ => return Err(KeyError::Unknown),
        };
        if self.text(&key) != text && self.text_with_suffix(&key).as_deref() != Some(text) {
            return Err(KeyError::Unknown);
        }
        Ok(key)
    }

    /// The kind of key that a text names, whether or not the rest of it parses.
    pub fn kind(&self, text: &str) -> Option<Kind> {
        let rest = text.strip_prefix(self.prefix.as_str())?.strip_prefix('/')?;
        Kind::named(rest.split('/').next()?)
    }

    /// What a router needs: in one range, so that one watch gives one revision.
    pub fn routing(&self) -> KeyRange {
        self.range(Kind::ROUTING)
    }

    /// What names need.
    pub fn naming(&self) -> KeyRange {
        self.range(Kind::NAMING)
    }

    /// All environments.
    pub fn environments(&self) -> KeyRange {
        self.range(&[Kind::Environment])
    }

    /// All environments, and those that have been.
    pub fn registry(&self) -> KeyRange {
        self.range(&[Kind::Environment, Kind::History])
    }

    /// Everything that decides about routing and names, and what the daemons say of it.
    pub fn everything(&self) -> KeyRange {
        self.range(&Kind::ALL)
    }

    /// What the launcher needs.
    pub fn launching(&self) -> KeyRange {
        self.range(Kind::LAUNCHING)
    }

    /// All service definitions.
    pub fn definitions(&self) -> KeyRange {
        self.range(&[Kind::Definition])
    }

    /// All static DNS records.
    pub fn dns(&self) -> KeyRange {
        self.range(&[Kind::Dns])
    }

    /// All instances, or those of one service, whether its name stands there with its suffix or
    /// without.
    pub fn instances(&self, service: Option<&ServiceName>) -> KeyRange {
        let all = self.range(&[Kind::Instance]);
        let Some(service) = service else { return all };
        // `.` comes directly before `/`, so there is no other service in between.
        KeyRange {
            start: format!("{}{service}.service/", all.start),
            end: format!("{}{service}0", all.start),
            ..all
        }
    }

    /// From the first of these kinds to the last: they stand in their order.
    fn range(&self, kinds: &'static [Kind]) -> KeyRange {
        let text = |kind: Option<&Kind>| kind.map_or("", |kind| kind.as_str());
        // `0` is the byte after `/`.
        KeyRange {
            start: format!("{}/{}/", self.prefix, text(kinds.first())),
            end: format!("{}/{}0", self.prefix, text(kinds.last())),
            kinds,
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
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys of every kind.
    pub(crate) fn key() -> impl Strategy<Value = Key> {
        let label = "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?";
        let token = "[A-Za-z0-9][A-Za-z0-9_.-]{0,10}";
        let backend = (label, token).prop_map(|(service, version)| BackendId {
            service: service.parse().unwrap(),
            version: version.parse().unwrap(),
        });
        prop_oneof![
            label.prop_map(|name| Key::Environment(name.parse().unwrap())),
            label.prop_map(|name| Key::History(name.parse().unwrap())),
            label.prop_map(|name| Key::Ended(name.parse().unwrap())),
            (backend.clone(), "[a-f0-9:.]{1,20}")
                .prop_map(|(backend, id)| Key::Instance(backend, id.parse().unwrap())),
            (backend.clone(), "[a-f0-9:.]{1,20}")
                .prop_map(|(backend, id)| Key::Drain(backend, id.parse().unwrap())),
            backend.prop_map(Key::Relaunch),
            label.prop_map(|name| Key::Definition(name.parse().unwrap())),
            (0..Daemon::ALL.len()).prop_map(|daemon| Key::Leader(Daemon::ALL[daemon])),
            (0..Daemon::ALL.len()).prop_map(|daemon| Key::Confirmation(Daemon::ALL[daemon])),
            token.prop_map(|node| Key::Router(node.parse().unwrap())),
            token.prop_map(|node| Key::Traffic(node.parse().unwrap())),
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
        fn any_text_is_a_key_or_an_error(text in "/mayfly/(backends|environments|ended|history|dns|routers|status|x)(/[ -~]{0,8}){0,4}|\\PC{0,30}") {
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
        for text in [
            "/mayfly/backends/a/1/x",
            "/mayfly/ended/zz",
            "/mayfly/environments/zz",
        ] {
            assert!(holds(&routing, text) && holds(&naming, text), "{text}");
        }
        assert!(holds(&naming, "/mayfly/routers/n") && !holds(&routing, "/mayfly/routers/n"));
        assert!(!holds(&naming, "/mayfly/status/dns-updater/n") && !holds(&naming, "/mayfly/services/a"));
        let relaunch = "/mayfly/relaunches/a/1";
        assert!(holds(&space.launching(), relaunch) && !holds(&routing, relaunch));
        for kind in Kind::ALL {
            assert_eq!(space.kind(&format!("/mayfly/{kind}/x")), Some(kind));
        }
        assert!(Kind::ALL.is_sorted_by_key(|kind| kind.as_str()));
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
