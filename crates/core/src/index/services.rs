//! The services of a record, kept small: an index holds hundreds of thousands of them.

use std::sync::Arc;

use crate::names::{RoutePath, ServiceName};
use crate::records::ServiceChoice;
use crate::shared::Interner;
use crate::version::Selector;

/// The services that one environment names, in the order of its record.
#[derive(Debug, Default)]
pub(super) struct NamedServices {
    /// Service and selector.
    choices: Box<[Arc<(ServiceName, Selector)>]>,
    /// Routes, each with the place of its service; few services have any.
    routes: Box<[(u32, RoutePath)]>,
}

impl NamedServices {
    pub(super) fn of(services: Vec<ServiceChoice>, shared: &mut Interner<(ServiceName, Selector)>) -> Self {
        let (mut choices, mut routes) = (Vec::with_capacity(services.len()), Vec::new());
        for (place, choice) in (0..).zip(services) {
            choices.push(shared.of((choice.name, choice.version)));
            routes.extend(choice.routes.into_iter().map(|path| (place, path)));
        }
        Self {
            choices: choices.into(),
            routes: routes.into(),
        }
    }

    /// The names of the services.
    pub(super) fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.choices.iter().map(|choice| &choice.0)
    }

    /// By what the version of a service is chosen.
    pub(super) fn selector(&self, service: &ServiceName) -> Option<&Selector> {
        let mut choices = self.choices.iter();
        choices
            .find(|choice| choice.0 == *service)
            .map(|choice| &choice.1)
    }

    /// The services as the record has them.
    pub(super) fn expand(&self) -> Vec<ServiceChoice> {
        let choices = (0..).zip(&self.choices).map(|(place, choice)| {
            let (name, version) = (**choice).clone();
            let own = self.routes.iter().filter(|(of, _)| *of == place);
            ServiceChoice {
                name,
                version,
                routes: own.map(|(_, path)| path.clone()).collect(),
            }
        });
        choices.collect()
    }
}
