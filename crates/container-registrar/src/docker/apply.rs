//! Brings etcd in sync with what is to be registered.

use std::collections::BTreeMap;

use mayfly_core::failing::Failing;
use mayfly_core::records::{self, InstanceState};
use mayfly_daemon::metrics::show;
use tokio::time::Instant;
use tracing::info;

use super::desired::CheckedContainer;
use super::run::DockerRegistrar;

impl DockerRegistrar {
    /// Registers, drains and deregisters what has changed.
    pub(super) fn apply(&mut self) {
        let now = Instant::now();
        let blind = self.blind_at().is_some_and(|at| at <= now);
        let mut wanted = BTreeMap::new();
        for (id, checked) in &mut self.containers {
            let signals = self.signals.get(id).map(Vec::as_slice).unwrap_or_default();
            let ending = checked.ending(signals).is_some_and(|until| until > now);
            let entry = checked
                .state(ending, blind)
                .and_then(|state| Some((state, checked.entry(state, &self.origin)?)));
            let state = entry.as_ref().map(|(state, _)| *state);
            if checked.advertised != state {
                log(checked, state);
                checked.advertised = state;
            }
            wanted.extend(entry.map(|(_, entry)| entry));
        }
        for (key, instance) in self
            .advertised
            .iter()
            .filter(|(key, _)| !wanted.contains_key(*key))
        {
            self.advertiser.leave(key.clone(), instance.clone().farewell());
        }
        for (key, instance) in &wanted {
            if self.advertised.get(key) != Some(instance) {
                self.advertiser.set(key.clone(), Some(records::to_json(instance)));
            }
        }
        if self.advertised.len() != wanted.len() {
            show(&self.registered, wanted.len());
            self.status.update(|status| {
                status.detail.insert("registered".to_owned(), wanted.len().into());
            });
        }
        self.advertised = wanted;
        let failing: Vec<Failing> = self
            .containers
            .values()
            .filter_map(CheckedContainer::failing)
            .collect();
        if self.failing != failing {
            self.failing.clone_from(&failing);
            self.status.update(|status| Failing::put(failing, status));
        }
    }
}

fn log(checked: &CheckedContainer, state: Option<InstanceState>) {
    let (backend, name) = (&checked.container.labelled.backend, &checked.container.name);
    let at = checked
        .address
        .map(|address| address.to_string())
        .unwrap_or_default();
    match state {
        Some(InstanceState::Up) => info!("{backend} at {at} is registered (container `{name}`)"),
        Some(InstanceState::Draining) => {
            info!("{backend} at {at} is draining: the engine stops container `{name}`")
        }
        None => info!("{backend} at {at} is deregistered (container `{name}`)"),
    }
}
