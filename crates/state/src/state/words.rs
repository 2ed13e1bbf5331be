//! What has ended, what is unknown and what a check keeps out, in words.

use std::collections::BTreeSet;
use std::time::SystemTime;

use mayfly_core::failing::Failing;
use mayfly_core::index::{EnvironmentView, ServiceView};
use mayfly_core::keys::Daemon;
use mayfly_core::names::{EnvironmentName, NodeName, ServiceName};
use mayfly_core::nearest::{misspelt, nearest};
use mayfly_core::records::{Environment, SetAside};
use mayfly_core::version::BackendId;
use mayfly_daemon::output::printable;
use serde::Serialize;

use super::State;

/// An instance that is not registered since its check fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailingView {
    /// The node of the container-registrar that checks it.
    pub node: NodeName,
    #[serde(flatten)]
    pub failing: Failing,
}

impl State {
    /// The environments that have been and are no more.
    pub fn ended(&self) -> impl Iterator<Item = &EnvironmentName> {
        self.history
            .keys()
            .filter(|name| !self.environments.contains_key(*name))
    }

    /// The environment that has been and of which this is true.
    pub fn ended_with(&self, is_it: impl Fn(&Environment) -> bool) -> Option<&Environment> {
        let ended = self.ended().filter_map(|name| self.history.get(name)?.as_ref());
        ended.into_iter().find(|environment| is_it(environment))
    }

    /// How an environment that has been ended: as was recorded, or else as its last record lets
    /// guess.
    pub fn end_in_words(&self, environment: &Environment, now: SystemTime) -> String {
        let registered = environment.life.as_ref().map(|life| life.registered_at);
        let ended = self.index.ended(&environment.name);
        // One that was recorded before it was registered again was an earlier end.
        let ended = ended.filter(|ended| registered.is_none_or(|at| at <= ended.at));
        match ended {
            Some(ended) => ended.in_words(&environment.name),
            None => environment.end_in_words(now),
        }
    }

    /// Why there is no environment of a name, and which was meant.
    pub fn unknown(&self, name: &EnvironmentName) -> String {
        if let Some(reason) = self.index.set_aside_of(name).first() {
            return format!("environment {name} is set aside: {reason}");
        }
        if let Some(kept) = self.only_kept(name) {
            return kept;
        }
        match self.history.get(name) {
            Some(Some(environment)) => return self.end_in_words(environment, SystemTime::now()),
            Some(None) => {
                return format!("environment {name} has ended; `mayfly keep {name} 8h` brings it back");
            }
            None => {}
        }
        if let Some(ended) = self.index.ended(name) {
            return ended.in_words(name);
        }
        let known = self.index.environments().map(|other| &other.name);
        unknown(name, known)
    }

    /// Why registrars refuse what their files say of an environment, with the file and the node.
    pub fn refusals(&self, name: &EnvironmentName) -> Vec<String> {
        let end = format!(":{name}");
        let mut refusals = Vec::new();
        for ((daemon, node), status) in &self.statuses {
            let Ok(status) = status else { continue };
            if *daemon != Daemon::EnvironmentRegistrar {
                continue;
            }
            for SetAside { key, reason } in &status.set_aside {
                // Definitions are in a folder of their own.
                if let Some(file) = key.strip_suffix(&end).filter(|file| !file.contains('/')) {
                    refusals.push(printable(&format!("{file} of {node} is refused: {reason}")));
                }
            }
        }
        refusals
    }

    /// Of the services that an environment lacks, those that are probably misspelt, in words: no
    /// definition starts them, and the environment that it extends has none of that name.
    pub fn misspelt(&self, view: &EnvironmentView) -> Vec<String> {
        if view.broken_parent.is_some() {
            return Vec::new();
        }
        let parent = view.parents.first().and_then(|parent| self.index.view(parent));
        let inherited = parent.iter().flat_map(|parent| &parent.services);
        let mut known: BTreeSet<&str> = inherited.map(|service| service.service.as_str()).collect();
        known.extend(self.definitions.iter().map(ServiceName::as_str));
        let own = || {
            let services = view.services.iter();
            services.filter(|service| service.inherited_from.is_none() && !service.outside)
        };
        let used: BTreeSet<&str> = own().map(|service| service.service.as_str()).collect();
        let lacking = own().filter(|service| service.missing.is_some());
        let words = |service: &ServiceView| {
            let meant = misspelt(service.service.as_str(), &known, &used)?;
            let name = &service.service;
            Some(format!(
                "no definition starts service `{name}`, and the environment above does not name it: \
                 did you mean `{meant}`?"
            ))
        };
        lacking.filter_map(words).collect()
    }

    /// What container-registrars set aside whose name has that of a service that is missing, such as
    /// a container with a misspelt label.
    pub fn aside_of(&self, service: &ServiceView) -> Vec<String> {
        let registrars = self.statuses.iter().filter_map(|((daemon, node), status)| {
            let status = status.as_ref().ok()?;
            (*daemon == Daemon::ContainerRegistrar).then_some((node, &status.set_aside))
        });
        let all = registrars.flat_map(|(node, all)| all.iter().map(move |aside| (node, aside)));
        let name = service.service.as_str();
        all.filter(|(_, aside)| aside.key.contains(name))
            .map(|(node, SetAside { key, reason })| {
                printable(&format!("{key} of {node} is set aside: {reason}"))
            })
            .collect()
    }

    /// The instances that container-registrars do not register since their check fails, with the
    /// node of each.
    pub fn failing(&self) -> Vec<FailingView> {
        let registrars = self.statuses.iter().filter_map(|((daemon, node), status)| {
            let status = status.as_ref().ok()?;
            (*daemon == Daemon::ContainerRegistrar).then(|| (node, Failing::of(status)))
        });
        let views = registrars.flat_map(|(node, all)| {
            all.into_iter().map(|failing| FailingView {
                node: node.clone(),
                failing,
            })
        });
        views.collect()
    }
}

/// Those of them that are of the version that a service waits for or leads to, or of any where
/// nothing fits, in words.
pub fn kept_out(all: &[FailingView], service: &ServiceView) -> Vec<String> {
    let chosen = service.awaited.as_ref().or(service.version.as_ref());
    let concerned = all.iter().filter(|FailingView { failing, .. }| {
        let BackendId {
            service: name,
            version,
        } = &failing.backend;
        *name == service.service && chosen.is_none_or(|chosen| chosen == version.as_str())
    });
    let words = |FailingView { node, failing }: &FailingView| {
        printable(&format!("{failing} (container-registrar of {node})"))
    };
    concerned.map(words).collect()
}

/// That there is no environment of a name, and which was meant.
pub fn unknown<'a>(name: &EnvironmentName, known: impl Iterator<Item = &'a EnvironmentName>) -> String {
    let known: Vec<&str> = known.map(EnvironmentName::as_str).collect();
    match nearest(name.as_str(), &known) {
        Some(meant) => format!("there is no environment {name}; did you mean {meant}?"),
        None => format!("there is no environment {name}"),
    }
}
