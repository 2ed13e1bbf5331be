//! The services of a record, kept small: an index holds hundreds of thousands of them.

use crate::names::RoutePath;
use crate::records::ServiceChoice;
use crate::symbols::{Symbol, Symbols};

/// The services that one environment names, in the order of its record.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Service and selector.
    choices: Box<[(Symbol, Symbol)]>,
    /// Routes, each with the place of its service; few services have any.
    routes: Box<[(u32, RoutePath)]>,
}

impl Services {
    pub(super) fn of(services: Vec<ServiceChoice>, symbols: &mut Symbols) -> Self {
        let (mut choices, mut routes) = (Vec::with_capacity(services.len()), Vec::new());
        for (place, choice) in (0..).zip(services) {
            choices.push((
                symbols.number(choice.name.as_str()),
                symbols.number(&choice.version.to_string()),
            ));
            routes.extend(choice.routes.into_iter().map(|path| (place, path)));
        }
        Self {
            choices: choices.into(),
            routes: routes.into(),
        }
    }

    /// The services as the record has them.
    pub(super) fn expand(&self, symbols: &Symbols) -> Vec<ServiceChoice> {
        let choices = (0..).zip(&self.choices).filter_map(|(place, (name, selector))| {
            // Both were made from what they are read as again.
            Some(ServiceChoice {
                name: symbols.text(*name).parse().ok()?,
                version: symbols.text(*selector).parse().ok()?,
                routes: self
                    .routes
                    .iter()
                    .filter(|(of, _)| *of == place)
                    .map(|(_, path)| path.clone())
                    .collect(),
            })
        });
        choices.collect()
    }
}
