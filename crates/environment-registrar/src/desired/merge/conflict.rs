//! Conflicts of an environment that wants a name, prefix or header: which environment has it, and
//! whether that one came first.

use std::sync::Arc;

use mayfly_core::claims::Claim;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use mayfly_core::yaml::Mark;

use super::{Merge, file_of};
use crate::desired::copies;
use crate::environments::EnvironmentEntry;

/// Why a candidate can't be accepted.
pub(super) struct Conflict {
    pub(super) mark: Mark,
    pub(super) reason: String,
    /// Whether the rival is another writer's, rather than of our own files.
    pub(super) foreign: bool,
    /// The rival, if it is another writer's and was registered after the candidate, which had this
    /// prefix or header already and keeps it.
    pub(super) latecomer: Option<EnvironmentName>,
}

impl Merge<'_> {
    pub(super) fn conflicts(
        &self,
        environment: &Environment,
        entry: Option<&EnvironmentEntry>,
    ) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let name = &environment.name;
        let mark = |of: fn(&EnvironmentEntry) -> Mark| entry.map_or(Mark::START, of);
        let at_name = mark(|entry| entry.marks.name);
        let takes_over = entry.is_some_and(|entry| copies::takes_over(entry, self.actual));
        if let Some(owner) = self.actual.other(name).filter(|_| !takes_over) {
            let reason = format!("environment {name} is registered by {owner}; give this one another name");
            conflicts.push(Conflict {
                mark: at_name,
                reason,
                foreign: true,
                latecomer: None,
            });
            return conflicts;
        }
        if let Some(rival) = self.merged.accepted.get(name) {
            let file = file_of(rival).unwrap_or_default();
            let reason = format!("environment {name} is registered from {file}; give this one another name");
            conflicts.push(Conflict {
                mark: at_name,
                reason,
                foreign: false,
                latecomer: None,
            });
            return conflicts;
        }
        for claim in Claim::keys_of(environment) {
            let mark = match claim {
                Claim::Prefix(_) => mark(|entry| entry.marks.prefix),
                Claim::Header(_) | Claim::Name(_) => mark(|entry| entry.marks.header),
            };
            let had = |version: Option<&Arc<Environment>>| version.is_some_and(|it| claim.is_of(it));
            let keeper = self
                .keepers
                .get(&claim)
                .filter(|keeper| entry.is_some() && *keeper != name && !had(self.last_good.get(name)));
            if let Some(rival) = self.merged.holder(&claim).or(keeper) {
                let version = self.merged.accepted.get(rival);
                let version = version.or_else(|| self.last_good.get(rival));
                let place = version.and_then(|rival| file_of(rival)).unwrap_or_default();
                conflicts.push(Conflict {
                    mark,
                    reason: taken(&claim, rival, place),
                    foreign: false,
                    latecomer: None,
                });
            }
            for rival in self.actual.others_with(&claim).filter(|rival| *rival != name) {
                let is_late = had(self.actual.ours(name)) && self.is_later(rival, name);
                let reason = if is_late {
                    let file = file_of(environment).unwrap_or_default();
                    format!(
                        "{claim} is taken by environment {name} of {file}, which was registered \
                         first, so routers set environment {rival} aside; register {rival} with \
                         another {}, or run `mayfly delete {rival}`",
                        claim.field()
                    )
                } else {
                    taken(&claim, rival, self.actual.other(rival).unwrap_or_default())
                };
                conflicts.push(Conflict {
                    mark,
                    reason,
                    foreign: true,
                    latecomer: is_late.then(|| rival.clone()),
                });
            }
        }
        conflicts
    }

    /// Whether an environment was registered after another that is registered, too: routers give
    /// both claims to the one that was first.
    fn is_later(&self, one: &EnvironmentName, other: &EnvironmentName) -> bool {
        let registered = |name| Some(self.actual.environments().get(name)?.create_revision);
        registered(other).is_some_and(|other| registered(one).is_some_and(|one| one > other))
    }
}

fn taken(claim: &Claim, rival: &EnvironmentName, place: &str) -> String {
    format!(
        "{claim} is taken by environment {rival} of {place}; choose another {}",
        claim.field()
    )
}
