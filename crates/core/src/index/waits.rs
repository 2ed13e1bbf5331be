//! Services that stay on the version they had before, because nothing that is chosen now is live
//! ([`crate::records::switching`]).

use std::collections::{BTreeMap, BTreeSet};

use super::Index;
use crate::names::{EnvironmentName, ServiceName};
use crate::records::switching::Switch;
use crate::records::{Environment, ServiceChoice};
use crate::version::{BackendId, Selector, Version};

/// A service of an environment that has what it had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    /// What is chosen, and not live yet.
    pub chosen: Selector,
    /// The version that it has until then; `None` for what it inherits.
    pub kept: Option<Version>,
}

impl Wait {
    /// The choice of an external service that is kept, which counts like any other.
    pub(super) fn kept_outside(&self, service: &ServiceName) -> Option<ServiceChoice> {
        let kept = self.kept.as_ref().filter(|kept| kept.is_outside())?;
        Some(ServiceChoice {
            name: service.clone(),
            version: Selector::Exact(kept.clone()),
            routes: Vec::new(),
        })
    }
}

/// What an environment had of a service, by its record.
pub(super) fn had<'a>(record: &'a Environment, service: &ServiceName) -> &'a [Option<Selector>] {
    let life = record.life.as_ref().filter(|_| record.switch == Switch::WhenLive);
    let had = life.and_then(|life| life.previous.get(service));
    had.map_or(&[], Vec::as_slice)
}

impl Index {
    /// Whether an environment has to wait for what it chooses, and has something else until then.
    pub(super) fn wait(&self, record: &Environment, choice: &ServiceChoice) -> Option<Wait> {
        let had = had(record, &choice.name);
        if had.is_empty() || self.answering(&choice.name, &choice.version).is_some() {
            return None;
        }
        let kept = had.iter().find_map(|had| match had {
            Some(selector) => self.answering(&choice.name, selector).cloned().map(Some),
            None => matches!(self.valid_parent(record), Ok(Some(_))).then_some(None),
        });
        Some(Wait {
            chosen: choice.version.clone(),
            kept: kept?,
        })
    }

    /// The version that a selector means, if it has a live instance, or is outside.
    fn answering<'a>(&'a self, service: &ServiceName, selector: &'a Selector) -> Option<&'a Version> {
        match selector {
            Selector::Exact(version) if version.is_outside() => Some(version),
            Selector::Exact(version) => {
                let instances = self.instances.get(service)?.get(version)?;
                self.live_since(instances).map(|_| version)
            }
            Selector::Latest | Selector::Range(_) => selector.choose(self.live_versions(service)),
        }
    }

    /// Whether something live answers for a selector, so that what was there before is past.
    pub fn is_answered(&self, service: &ServiceName, selector: &Selector) -> bool {
        self.answering(service, selector).is_some()
    }

    pub(super) fn set_waits(&mut self, environment: &EnvironmentName, waits: BTreeMap<ServiceName, Wait>) {
        let before = match waits.is_empty() {
            true => self.waits.remove(environment),
            false => self.waits.insert(environment.clone(), waits.clone()),
        };
        let before = before.unwrap_or_default();
        if before == waits {
            return;
        }
        let changed: BTreeSet<ServiceName> = before.into_keys().chain(waits.into_keys()).collect();
        let unsettled = self.unsettled_waits.entry(environment.clone()).or_default();
        unsettled.extend(changed);
    }

    /// The services of an environment that it chooses itself and waits for.
    pub(super) fn waits_of(&self, environment: &EnvironmentName) -> impl Iterator<Item = &ServiceName> {
        self.waits.get(environment).into_iter().flat_map(BTreeMap::keys)
    }

    /// What an environment has of a service until what it chooses is live, in words; `None` when it
    /// does not wait for it.
    pub(crate) fn waiting(&self, environment: &EnvironmentName, service: &ServiceName) -> Option<String> {
        let Wait { chosen, kept } = self.waits.get(environment)?.get(service)?;
        let still = match kept {
            Some(kept) => format!("{service}@{kept}"),
            None => format!("the {service} that it inherits"),
        };
        Some(match chosen {
            Selector::Exact(version) => {
                format!("still on {still}: {service}@{version} is starting, it has no live instance yet")
            }
            selector => format!("still on {still}: no live version fits {selector}"),
        })
    }

    /// The very version that an environment waits for.
    pub(super) fn awaited_version(
        &self,
        environment: &EnvironmentName,
        service: &ServiceName,
    ) -> Option<&Version> {
        match &self.waits.get(environment)?.get(service)?.chosen {
            Selector::Exact(version) => Some(version),
            Selector::Latest | Selector::Range(_) => None,
        }
    }

    /// The backends that environments wait for: nothing is routed there yet, and yet they are
    /// needed.
    pub fn awaited(&self) -> impl Iterator<Item = BackendId> {
        let all = self.waits.values().flatten();
        all.filter_map(|(service, wait)| match &wait.chosen {
            Selector::Exact(version) => Some(BackendId {
                service: service.clone(),
                version: version.clone(),
            }),
            Selector::Latest | Selector::Range(_) => None,
        })
    }
}
