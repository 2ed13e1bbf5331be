//! What the daemons say of themselves: how far each has come, and which launcher leads.

use std::collections::BTreeSet;

use mayfly_core::explain;
use mayfly_core::keys::{Daemon, Kind};
use mayfly_core::launching::Launching;
use mayfly_core::lost::LostHeader;
use mayfly_core::names::{Hostname, NodeName};
use mayfly_core::records::{self, Status};
use serde::Serialize;
use serde_json::Value;

use super::State;
use super::kept::kept_of;
use crate::launchers::{Launchers, Leader};

/// What a daemon says of itself, and how far it lags behind.
#[derive(Debug, Clone, Serialize)]
pub struct DaemonView {
    pub daemon: Daemon,
    pub node: NodeName,
    /// Where the internal side of a router is.
    pub address: Option<String>,
    /// The newest revision whose every change it has applied.
    pub applied_revision: i64,
    /// The newest revision at which something was put that it watches.
    pub newest_revision: i64,
    /// How many revisions it is behind; 0 when it is in sync.
    pub lag: i64,
    /// When that was, as it says.
    #[serde(skip)]
    pub applied_at: Option<String>,
    /// Its version; older ones do not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it has been in sync since it started.
    pub ready: bool,
    /// Why the newest state is not in force, if it is not.
    pub error: Option<String>,
    /// Of a container-launcher: whether it is the one that works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leading: Option<bool>,
    /// Of a container-launcher that works: why it retires nothing at present, if that is held back.
    /// Of a router or a DNS updater: how much it keeps although etcd has lost it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// The keys that it keeps so, as far as it names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keeps: Vec<String>,
    /// Of a router: the host names that it needs and has no address of.
    pub host_names_without_address: BTreeSet<Hostname>,
    /// Of a router: how many certificates of its edge have a fault or end soon.
    #[serde(skip_serializing_if = "mayfly_core::records::is_default")]
    pub certificate_warnings: usize,
    /// Of a router: the known faults of its version of HAProxy, and the faults of certificates. Of
    /// an environment-registrar: that its archive may be lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What it has set aside.
    pub set_aside: Vec<records::SetAside>,
}

impl DaemonView {
    /// The daemon whose confirmation lets go of what this one withholds.
    pub fn confirmed_by(&self) -> Option<Daemon> {
        match self.daemon {
            Daemon::ContainerLauncher => Some(Daemon::ContainerLauncher),
            // Names are those of what is routed.
            Daemon::HaproxyUpdater | Daemon::DnsUpdater => Some(Daemon::HaproxyUpdater),
            Daemon::EnvironmentRegistrar | Daemon::ContainerRegistrar => None,
        }
    }
}

impl State {
    /// All daemons that say something of themselves, and the routers that only say where they are.
    pub fn daemons(&self) -> Vec<DaemonView> {
        let silent = self
            .routers
            .keys()
            .map(|node| (Daemon::HaproxyUpdater, node.clone()));
        let all: BTreeSet<_> = self.statuses.keys().cloned().chain(silent).collect();
        all.into_iter()
            .map(|(daemon, node)| self.daemon(daemon, node))
            .collect()
    }

    fn daemon(&self, daemon: Daemon, node: NodeName) -> DaemonView {
        let (status, unreadable) = match self.statuses.get(&(daemon, node.clone())) {
            Some(Ok(status)) => (status.clone(), None),
            Some(Err(error)) => (
                Status::default(),
                Some(format!("its status cannot be read: {error}")),
            ),
            None => (Status::default(), Some("it reports no status".to_owned())),
        };
        let kinds = watched(daemon);
        let newest_revision = kinds
            .filter_map(|kind| self.newest.get(kind))
            .max()
            .copied()
            .unwrap_or_default();
        let is_router = daemon == Daemon::HaproxyUpdater;
        let router = self.routers.get(&node).filter(|_| is_router);
        let reported = self.reported.get(&node).filter(|_| is_router);
        let certificates = reported.and_then(|reported| reported.certificates.as_ref());
        let leading = (daemon == Daemon::ContainerLauncher).then(|| self.is_leader(&node, &status));
        let guard = Launching::of(&status).filter(|_| leading == Some(true));
        let kept = kept_of(daemon, &status);
        DaemonView {
            daemon,
            address: router
                .and_then(Option::as_ref)
                .map(|router| router.address.to_string()),
            node,
            applied_revision: status.applied_revision,
            newest_revision,
            lag: (newest_revision - status.applied_revision).max(0),
            ready: status.ready,
            version: version(&status),
            applied_at: status.applied_at.clone(),
            host_names_without_address: reported.map_or_else(BTreeSet::new, |reported| {
                reported.host_names_without_address.clone()
            }),
            certificate_warnings: certificates.map_or(0, |certificates| certificates.warnings),
            notes: notes(&status),
            error: unreadable.or(status.error),
            leading,
            keeps: kept.texts().to_vec(),
            guard: kept.alarm.or(guard.and_then(|launching| launching.guard)),
            set_aside: status.set_aside,
        }
    }

    pub fn launchers(&self) -> Launchers {
        let mut all = Launchers::default();
        for ((daemon, node), status) in &self.statuses {
            if *daemon != Daemon::ContainerLauncher {
                continue;
            }
            all.are_there = true;
            let leads = status.as_ref().ok().filter(|status| self.is_leader(node, status));
            if let Some((status, launching)) = leads.and_then(|status| Some((status, Launching::of(status)?)))
            {
                // A new definition and a request to relaunch are new tries.
                let kinds = [Kind::Definition, Kind::Relaunch].into_iter();
                let newest = kinds.filter_map(|kind| self.newest.get(&kind).copied()).max();
                let newest = newest.unwrap_or_default();
                all.leader = Some(Leader {
                    node: node.clone(),
                    launching,
                    is_current: status.applied_revision >= newest,
                });
            }
        }
        all
    }

    /// Which instances called others without an environment: the sum over the routers, each of
    /// which knows its own calls.
    pub fn lost_headers(&self) -> Vec<LostHeader> {
        let routers = self.statuses.iter().filter_map(|((daemon, _), status)| {
            let status = status.as_ref().ok()?;
            (*daemon == Daemon::HaproxyUpdater).then(|| LostHeader::of(status))
        });
        LostHeader::sum(routers.flatten())
    }

    /// Whether a launcher leads: it says so, and etcd does. The record of one that died outlives
    /// its lead.
    fn is_leader(&self, node: &NodeName, status: &Status) -> bool {
        let elected = self.leader.as_ref() == Some(node);
        elected && Launching::of(status).is_some_and(|launching| launching.leading)
    }

    /// The settings of the routers, as the first of them says; `None` when none does.
    pub fn settings(&self) -> Option<explain::Settings> {
        let mut routers = self.reported.values();
        routers.find_map(|router| router.settings.clone())
    }
}

fn version(status: &Status) -> Option<String> {
    let version = status.detail.get(mayfly_daemon::status::VERSION);
    version.and_then(Value::as_str).map(str::to_owned)
}

/// What a daemon has to say that is no error.
fn notes(status: &Status) -> Vec<String> {
    let notes = status
        .detail
        .get(mayfly_daemon::status::NOTES)
        .and_then(Value::as_array);
    let texts = notes.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// The kinds of keys whose changes a daemon applies. A confirmation changes nothing that it would
/// report.
fn watched(daemon: Daemon) -> impl Iterator<Item = &'static Kind> {
    let kinds = match daemon {
        Daemon::EnvironmentRegistrar => &[Kind::Environment],
        // Of etcd it reads nothing.
        Daemon::ContainerRegistrar => [].as_slice(),
        Daemon::ContainerLauncher => Kind::LAUNCHING,
        Daemon::HaproxyUpdater => Kind::ROUTING,
        Daemon::DnsUpdater => Kind::NAMING,
    };
    kinds.iter().filter(|kind| **kind != Kind::Confirmation)
}
