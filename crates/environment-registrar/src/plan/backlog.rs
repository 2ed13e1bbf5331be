//! Writes that are put off, so that a file with tens of thousands of environments delays nothing
//! else. A round writes a limited number, those of the files with the fewest first, and then looks
//! at what else has changed.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::actual::Actual;
use crate::desired::Desired;
use crate::environments::Environments;
use crate::plan::{Plan, Put};
use crate::resource::{Name, Resource, SharedRecord};

/// Most writes of one round, and as many deletes: some 50 ms of them.
pub const ROUND: usize = 256;

/// The records whose writes are put off, those of the files with the fewest first.
#[derive(Debug, Default)]
pub struct Backlog<K: Resource = Environments>(BTreeSet<(usize, Name<K>)>);

impl<K: Resource> Backlog<K> {
    /// Whether nothing is put off.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets them, since everything is planned again.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The records to plan in this round.
    pub fn take(&mut self) -> Vec<K::Name> {
        let first = std::iter::from_fn(|| self.0.pop_first());
        first.take(ROUND).map(|(_, name)| name).collect()
    }

    /// Puts off what is too much for one round. A delete that is put off is planned again by
    /// itself, since the record is still missing. Says whether another round is to follow at once.
    pub fn put_off(&mut self, plan: &mut Plan<K>, desired: &impl Desired<K>, actual: &Actual<K>) -> bool {
        let planned: Vec<&SharedRecord<K>> = plan.writes().collect();
        if planned.len() > ROUND {
            let late: HashSet<K::Name> = self.late(planned).collect();
            plan.puts.retain(|put| !late.contains(put.name()));
            plan.doubts.retain(|doubt| !late.contains(doubt.put.name()));
        }
        if !self.is_empty() {
            // What stands in the way of another record goes after that has come.
            let put: HashSet<&K::Name> = plan.puts.iter().map(Put::name).collect();
            let is_there =
                |name: &K::Name| put.contains(name) || actual.ours(name) == desired.accepted().get(name);
            let may_go = |name: &K::Name| {
                actual
                    .ours(name)
                    .is_none_or(|ours| desired.holders(ours).all(is_there))
            };
            plan.deletes.retain(|(name, _)| may_go(name));
        }
        let deletes = plan.deletes.len();
        if deletes > ROUND {
            let mut sizes = HashMap::new();
            let file = |name: &K::Name| file_of::<K>(actual.ours(name)?);
            for (name, _) in &plan.deletes {
                *sizes.entry(file(name)).or_insert(0) += 1;
            }
            plan.deletes.sort_by_key(|(name, _)| sizes[&file(name)]);
            plan.deletes.truncate(ROUND);
        }
        !self.is_empty() || deletes > ROUND
    }

    /// Notes which of the records are too many for one round.
    fn late(&mut self, planned: Vec<&SharedRecord<K>>) -> impl Iterator<Item = K::Name> {
        let mut sizes: HashMap<Option<&str>, usize> = HashMap::new();
        for record in &planned {
            *sizes.entry(file_of::<K>(record)).or_default() += 1;
        }
        let size = |record: &K::Record| sizes[&file_of::<K>(record)];
        let mut order: Vec<_> = planned
            .into_iter()
            .map(|it| (size(it), K::name(it).clone()))
            .collect();
        order.sort_unstable();
        let late = order.split_off(ROUND);
        self.0.extend(late.iter().cloned());
        late.into_iter().map(|(_, name)| name)
    }
}

fn file_of<K: Resource>(record: &K::Record) -> Option<&str> {
    K::source(record).map(|source| source.file.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, Instant, SystemTime};

    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::lifetime::{Life, Moment};
    use mayfly_core::records::{Environment, Source};

    use crate::desired::merge::Merged;
    use crate::desired::{Quota, Scope, Terms};
    use crate::plan::{Absences, plan};

    fn environment(file: &str, name: &str, prefix: &str) -> Arc<Environment> {
        let json = serde_json::json!({"name": name, "prefix": prefix, "header": name});
        let mut environment: Environment = serde_json::from_value(json).unwrap();
        environment.source = Some(Source {
            registrar: "us".parse().unwrap(),
            file: file.to_owned(),
        });
        Arc::new(environment)
    }

    struct BacklogCase {
        backlog: Backlog,
        merged: Merged,
        actual: Actual,
        absences: Absences,
        now: Instant,
    }

    impl BacklogCase {
        /// Files with so many environments each, which are to be registered.
        fn new(files: &[(&str, usize)]) -> Self {
            let mut merged = Merged::default();
            for (file, count) in files {
                for number in 0..*count {
                    let name = format!("{file}-{number:05}");
                    merged.accept(&environment(file, &name, &name));
                }
            }
            Self {
                backlog: Backlog::default(),
                merged,
                actual: Actual::new(KeySpace::default(), "us".parse().unwrap()),
                absences: Absences::new(Duration::ZERO),
                now: Instant::now(),
            }
        }

        /// One round, which etcd takes: what is put, what is deleted, whether another one follows.
        fn round(&mut self, only: Option<&[&str]>) -> (Vec<String>, Vec<String>, bool) {
            if only.is_none() {
                self.backlog.clear();
            }
            let scope = only.map_or(Scope::Everything, |names| {
                let names = names.iter().map(|name| name.parse().unwrap());
                Scope::Only(names.chain(self.backlog.take()).collect())
            });
            let terms = Terms {
                now: SystemTime::UNIX_EPOCH,
                force: false,
                quota: Quota::default(),
            };
            let (merged, actual) = (&self.merged, &self.actual);
            let mut plan = plan(merged, actual, &scope, &mut self.absences, terms, self.now);
            let again = self.backlog.put_off(&mut plan, merged, actual);
            for put in &plan.puts {
                let life = Life::beginning(Moment::of(SystemTime::UNIX_EPOCH));
                self.actual.wrote(&put.record, life, 1);
            }
            for (name, _) in &plan.deletes {
                self.actual.deleted(name);
            }
            let puts = plan.puts.iter().map(|put| put.name().to_string());
            let deletes = plan.deletes.iter().map(|(name, _)| name.to_string());
            (puts.collect(), deletes.collect(), again)
        }
    }

    #[test]
    fn a_small_file_is_written_before_the_rest_of_a_large_one() {
        let mut case = BacklogCase::new(&[("a", 3 * ROUND), ("m", 5), ("z", 1)]);
        let (puts, _, again) = case.round(None);
        assert!(puts.len() == ROUND && again);
        for small in ["m-00000", "m-00004", "z-00000"] {
            assert!(puts.iter().any(|name| name == small), "{small}");
        }
        // What is new meanwhile goes with the next round, whatever else is put off.
        let new = environment("y", "y", "y");
        case.merged.accept(&new);
        let (puts, _, again) = case.round(Some(&["y"]));
        assert!(puts.len() == ROUND && puts.iter().any(|name| name == "y") && again);
        let mut rounds = 0;
        while case.round(Some(&[])).2 {
            rounds += 1;
            assert!(rounds < 5);
        }
        assert_eq!(case.actual.environments().len(), 3 * ROUND + 7);
    }

    #[test]
    fn a_small_file_goes_before_the_rest_of_a_large_one() {
        let mut case = BacklogCase::new(&[("a", 2 * ROUND), ("z", 1)]);
        case.round(None);
        while case.round(Some(&[])).2 {}
        case.merged = Merged::default();
        let (_, deletes, again) = case.round(None);
        assert!(deletes.len() == ROUND && deletes[0] == "z-00000" && again);
        while case.round(Some(&[])).2 {}
        assert_eq!(case.actual.environments().len(), 0);
    }

    #[test]
    fn what_is_in_the_way_of_a_write_that_is_put_off_goes_after_it() {
        let mut case = BacklogCase::new(&[("z", 1)]);
        case.round(None);
        let mut next = BacklogCase::new(&[("a", 2 * ROUND)]).merged;
        next.accept(&environment("a", "a-successor", "z-00000"));
        case.merged = next;
        for round in 0..5 {
            let (_, deletes, again) = case.round((round > 0).then_some(&[]));
            let successor = case.actual.ours(&"a-successor".parse().unwrap()).is_some();
            assert_eq!(deletes.is_empty(), !successor || round > 2, "{round}");
            if !again {
                assert!(successor && round == 2, "{round}");
                return;
            }
        }
        panic!("it does not end");
    }
}
