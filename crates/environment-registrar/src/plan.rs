//! What is to be in etcd against what is there: which records to put and which to delete, and when. Pure; the clock is
//! an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use mayfly_daemon::store::Guard;

use crate::merge::Merged;
use crate::mirror::{Mirror, Owner};

/// What to write. All puts come before all deletes, so that what moves is never gone.
#[derive(Debug, Default)]
pub struct Plan {
    /// The records to put, each if nobody has changed the key since it was read.
    pub puts: Vec<(Arc<Environment>, Guard)>,
    /// The environments to delete, likewise.
    pub deletes: Vec<(EnvironmentName, Guard)>,
    /// When to plan again, because a grace ends then.
    pub again: Option<Instant>,
    /// Records that stand in etcd as they should.
    pub same: Vec<Arc<Environment>>,
}

/// Since when environments of etcd have been missing in the files.
#[derive(Debug)]
pub struct Absences {
    grace: Duration,
    since: BTreeMap<EnvironmentName, Instant>,
}

impl Absences {
    /// None yet. An environment is deleted once it has been missing for `grace`.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            since: BTreeMap::new(),
        }
    }
}

/// Plans the writes that bring etcd in step: for all environments, or for these only if nothing else has changed.
pub fn plan(
    merged: &Merged,
    mirror: &Mirror,
    only: Option<&BTreeSet<EnvironmentName>>,
    absences: &mut Absences,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    match only {
        Some(names) => names
            .iter()
            .for_each(|name| plan.consider(name, merged, mirror, absences, now)),
        None => {
            let present = merged
                .accepted
                .keys()
                .filter(|name| !mirror.environments().contains_key(*name));
            let all = mirror.environments().keys().chain(present);
            all.for_each(|name| plan.consider(name, merged, mirror, absences, now));
        }
    }
    absences.since.retain(|name, since| {
        let held = mirror
            .environments()
            .get(name)
            .filter(|held| held.owner == Owner::Us);
        let Some(held) = held.filter(|_| !merged.accepted.contains_key(name)) else {
            return false;
        };
        // While it stays, it would stand in the way of an environment that has got its prefix or header.
        let in_the_way = held
            .record
            .as_ref()
            .is_ok_and(|record| merged.has_keys_of(record));
        let due = *since + absences.grace;
        if in_the_way || due <= now {
            plan.deletes
                .push((name.clone(), Guard::ModRevision(held.mod_revision)));
        } else {
            plan.again = Some(plan.again.map_or(due, |again| again.min(due)));
        }
        true
    });
    plan
}

impl Plan {
    fn consider(
        &mut self,
        name: &EnvironmentName,
        merged: &Merged,
        mirror: &Mirror,
        absences: &mut Absences,
        now: Instant,
    ) {
        let held = mirror.environments().get(name);
        let Some(environment) = merged.accepted.get(name) else {
            if held.is_some_and(|held| held.owner == Owner::Us) {
                absences.since.entry(name.clone()).or_insert(now);
            }
            return;
        };
        let guard = match held.map(|held| (&held.owner, &held.record, held.mod_revision)) {
            None => Guard::Absent,
            // The merge knows what others have; this can only be news of this moment.
            Some((Owner::Other(_), ..)) => return,
            Some((Owner::Us, Ok(record), _)) if Arc::ptr_eq(record, environment) => return,
            Some((Owner::Us, Ok(record), _)) if record == environment => {
                self.same.push(environment.clone());
                return;
            }
            Some((_, _, revision)) => Guard::ModRevision(revision),
        };
        self.puts.push((environment.clone(), guard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::records::Source;
    use mayfly_daemon::watch::{Batch, Change};

    const GRACE: Duration = Duration::from_secs(1);

    fn environment(name: &str, prefix: &str) -> Arc<Environment> {
        let json = serde_json::json!({"name": name, "prefix": prefix, "header": name});
        let mut environment: Environment = serde_json::from_value(json).unwrap();
        environment.source = Some(Source {
            registrar: "us".parse().unwrap(),
            file: "f.yaml".to_owned(),
        });
        Arc::new(environment)
    }

    fn merged(environments: &[&Arc<Environment>]) -> Merged {
        let mut merged = Merged::default();
        environments
            .iter()
            .for_each(|environment| merged.accept(environment));
        merged
    }

    fn mirror(environments: &[&Arc<Environment>]) -> Mirror {
        let mut mirror = Mirror::new(mayfly_core::keys::KeySpace::default(), "us".parse().unwrap());
        mirror.take(Batch {
            revision: 1,
            listed: true,
            changes: Vec::new(),
        });
        for (index, environment) in environments.iter().enumerate() {
            mirror.published(environment, index as i64 + 2);
        }
        mirror
    }

    /// The writes in words, as `put x absent` and `delete y 3`.
    fn words(plan: &Plan) -> Vec<String> {
        let guard = |guard: &Guard| match guard {
            Guard::Absent => "absent".to_owned(),
            Guard::ModRevision(revision) => revision.to_string(),
            other => format!("{other:?}"),
        };
        let puts = plan
            .puts
            .iter()
            .map(|(e, g)| format!("put {} {}", e.name, guard(g)));
        puts.chain(
            plan.deletes
                .iter()
                .map(|(name, g)| format!("delete {name} {}", guard(g))),
        )
        .collect()
    }

    #[test]
    fn only_differences_are_written() {
        let (a, b, c) = (
            environment("a", "a"),
            environment("b", "b"),
            environment("c", "c"),
        );
        let changed = environment("b", "other");
        let plan = plan(
            &merged(&[&a, &changed, &c]),
            &mirror(&[&a, &b]),
            None,
            &mut Absences::new(GRACE),
            Instant::now(),
        );
        assert_eq!(
            (words(&plan), plan.again),
            (vec!["put b 3".to_owned(), "put c absent".to_owned()], None)
        );
    }

    #[test]
    fn an_equal_record_is_noticed_and_not_written() {
        let (read, stored) = (environment("a", "a"), environment("a", "a"));
        let plan = plan(
            &merged(&[&read]),
            &mirror(&[&stored]),
            None,
            &mut Absences::new(GRACE),
            Instant::now(),
        );
        assert_eq!((words(&plan), plan.same.len()), (vec![], 1));
    }

    #[test]
    fn what_is_missing_goes_after_the_grace_unless_it_comes_back() {
        let (a, now) = (environment("a", "a"), Instant::now());
        let (mirror, mut absences) = (mirror(&[&a]), Absences::new(GRACE));
        let first = plan(&merged(&[]), &mirror, None, &mut absences, now);
        assert_eq!((words(&first), first.again), (vec![], Some(now + GRACE)));
        assert_eq!(
            words(&plan(&merged(&[]), &mirror, None, &mut absences, now + GRACE)),
            ["delete a 2"]
        );
        plan(&merged(&[&a]), &mirror, None, &mut absences, now + GRACE);
        let again = plan(&merged(&[]), &mirror, None, &mut absences, now + 2 * GRACE);
        assert_eq!(
            (words(&again), again.again),
            (vec![], Some(now + 3 * GRACE)),
            "the grace begins anew"
        );
    }

    #[test]
    fn what_stands_in_the_way_goes_at_once_after_its_successor_is_there() {
        let (old, new) = (environment("old", "www"), environment("new", "www"));
        let plan = plan(
            &merged(&[&new]),
            &mirror(&[&old]),
            None,
            &mut Absences::new(GRACE),
            Instant::now(),
        );
        assert_eq!(words(&plan), ["put new absent", "delete old 2"]);
    }

    #[test]
    fn what_others_have_is_neither_written_nor_deleted() {
        let a = environment("a", "a");
        let mut mirror = mirror(&[]);
        let value =
            mayfly_core::records::to_json(&serde_json::json!({"name": "a", "prefix": "p", "header": "h"}));
        let key = "/mayfly/environments/a".to_owned();
        let entry = mayfly_daemon::store::Entry {
            key,
            value,
            create_revision: 5,
            mod_revision: 5,
            lease: None,
        };
        mirror.take(Batch {
            revision: 5,
            listed: false,
            changes: vec![Change::Put(entry)],
        });
        let mut absences = Absences::new(Duration::ZERO);
        assert_eq!(
            words(&plan(
                &merged(&[&a]),
                &mirror,
                None,
                &mut absences,
                Instant::now()
            )),
            [""; 0]
        );
        assert_eq!(
            words(&plan(&merged(&[]), &mirror, None, &mut absences, Instant::now())),
            [""; 0]
        );
    }
}
