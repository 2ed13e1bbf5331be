//! What the rest of the registrar asks a merge, and the life of an environment that is about to be
//! registered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use mayfly_core::records::lifetime::{Life, Moment};
use mayfly_core::records::switching::{self, Previous};

use super::{Merged, merge};
use crate::actual::{Actual, Held};
use crate::changes::Changes;
use crate::desired::files::Files;
use crate::desired::{Desired, Refused, Scope, Terms};
use crate::environments::{Environments, with_life};

impl Desired<Environments> for Merged {
    fn merge(
        &mut self,
        files: &Files,
        actual: &Actual,
        changes: &Changes,
        terms: Terms,
    ) -> Scope<EnvironmentName> {
        merge(self, files, actual, changes, terms)
    }

    fn life(
        &self,
        environment: &Arc<Environment>,
        held: Option<&Held>,
        actual: &Actual,
        now: SystemTime,
    ) -> Life {
        let name = &environment.name;
        let life = actual.life(name).cloned();
        let life = life.unwrap_or_else(|| Life::beginning(Moment::of(now)));
        Life {
            // Its file is back, or will be: for as long as it is missing, that means nothing.
            revived: life.revived && self.is_unnamed(name),
            // The routers see no files.
            refused: self.outdated(name).cloned(),
            previous: previous(environment, held, &life, actual),
            ..life
        }
    }

    fn accepted(&self) -> &BTreeMap<EnvironmentName, Arc<Environment>> {
        &self.accepted
    }

    fn refused(&self) -> impl Iterator<Item = Refused<'_, Environments>> {
        let refused = self.refused.iter();
        refused.map(|it| (&*it.file, &it.environment, it.mark, &*it.reason))
    }

    fn holders(&self, environment: &Environment) -> impl Iterator<Item = &EnvironmentName> {
        self.holders(environment)
    }

    fn latecomers(&self) -> impl Iterator<Item = (&EnvironmentName, &String)> {
        self.latecomers().iter()
    }

    fn is_takeover(&self, name: &EnvironmentName) -> bool {
        self.takeovers().contains(name)
    }
}

/// What routers go on with until what is chosen now has answered.
fn previous(environment: &Arc<Environment>, held: Option<&Held>, life: &Life, actual: &Actual) -> Previous {
    match held.map(|held| &held.record) {
        Some(Ok(record)) if Arc::ptr_eq(record, environment) || record.asks_for_the_same(environment) => {
            life.previous.clone()
        }
        Some(Ok(record)) => {
            let before = with_life(record, Some(life));
            let other = |name: &EnvironmentName| actual.environments().get(name)?.record.as_deref().ok();
            switching::previous(&before, environment, other)
        }
        Some(Err(_)) | None => Previous::new(),
    }
}
