//! What routers and DNS updaters keep although etcd has lost it, and whom that concerns.

use mayfly_core::index::EnvironmentView;
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::names::{EnvironmentName, NodeName};
use mayfly_core::records::Status;
use mayfly_core::trust::Kept;

use super::State;

/// What a daemon keeps although etcd has lost it, as its status says. Only what is routed and the
/// names of that are kept: other daemons have nothing to go on with.
pub(super) fn kept_of(daemon: Daemon, status: &Status) -> Kept {
    match daemon {
        Daemon::HaproxyUpdater | Daemon::DnsUpdater => Kept::of(status),
        Daemon::EnvironmentRegistrar | Daemon::ContainerRegistrar | Daemon::ContainerLauncher => {
            Kept::default()
        }
    }
}

impl State {
    /// What routers and DNS updaters keep although etcd has lost it.
    pub fn kept(&self) -> impl Iterator<Item = (Daemon, &NodeName, Kept)> {
        self.statuses.iter().filter_map(|((daemon, node), status)| {
            let kept = kept_of(*daemon, status.as_ref().ok()?);
            kept.alarm.is_some().then_some((*daemon, node, kept))
        })
    }

    /// The routers that keep such a key although etcd has lost it, in words; `None` without any.
    pub fn keepers(&self, is_it: impl Fn(&Key) -> bool) -> Option<String> {
        let keeps = |kept: &Kept| kept.keys(&self.space).any(|key| is_it(&key));
        let all = self
            .kept()
            .filter(|(daemon, _, kept)| *daemon == Daemon::HaproxyUpdater && keeps(kept));
        let nodes: Vec<String> = all.map(|(_, node, _)| node.to_string()).collect();
        match nodes.as_slice() {
            [] => None,
            [node] => Some(format!("router {node} keeps")),
            nodes => Some(format!("routers {} keep", nodes.join(", "))),
        }
    }

    /// That an environment is only kept, if it is.
    pub fn only_kept(&self, name: &EnvironmentName) -> Option<String> {
        let keepers = self.keepers(|key| matches!(key, Key::Environment(kept) if kept == name))?;
        (!self.environments.contains_key(name)).then(|| {
            format!(
                "environment {name} vanished from etcd without being deleted: {keepers} it \
                 (`mayfly status`)"
            )
        })
    }

    /// Whether what a router keeps although etcd has lost it may be part of an environment.
    pub fn keeps_of(&self, node: &NodeName, view: &EnvironmentView) -> bool {
        let status = self.statuses.get(&(Daemon::HaproxyUpdater, node.clone()));
        let Some(Ok(status)) = status else { return true };
        Kept::of(status).may_have(&self.space, |key| match key {
            Key::Instance(backend, _) => view.services.iter().any(|service| {
                let version = service.version.as_deref();
                service.service == backend.service
                    && version.is_none_or(|version| version == backend.version.as_str())
            }),
            Key::Environment(name) => *name == view.name || view.parents.contains(name),
            _ => true,
        })
    }
}
