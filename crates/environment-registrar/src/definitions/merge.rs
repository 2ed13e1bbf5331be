//! All files and what etcd holds, merged: which definitions should be in etcd, and which are
//! refused. A service belongs to the file that it was registered from; among new rivals, to the
//! first file by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use mayfly_core::names::ServiceName;
use mayfly_core::records;
use mayfly_core::records::definition::Definition;
use mayfly_core::yaml::Mark;

use super::{DefinitionEntry, Definitions};
use crate::actual::{Actual, Held};
use crate::changes::Changes;
use crate::desired::files::Files;
use crate::desired::{Desired, Quota, Refused, Scope, Terms};

/// Most definitions of one registrar, and most bytes of their records together: 20 for each of the
/// 50 services that are measured, each of 16 kB. Who may push files must not fill etcd with them.
pub const QUOTA: Quota = Quota {
    environments: 1000,
    bytes: 16 << 20,
    sources: &[],
};

/// How often a merge is repeated at most until it changes nothing any more.
const SETTLES: usize = 8;

/// Which definitions are to be in etcd.
#[derive(Debug, Clone, Default)]
pub struct MergedDefinitions {
    accepted: BTreeMap<ServiceName, Arc<Definition>>,
    /// What is not, although a file says it, and why; by service.
    refused: Vec<DefinitionRefusal>,
}

/// A definition that does not stand in etcd as a file says, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DefinitionRefusal {
    file: String,
    service: ServiceName,
    mark: Mark,
    reason: String,
}

impl Desired<Definitions> for MergedDefinitions {
    fn merge(
        &mut self,
        files: &Files<Definitions>,
        actual: &Actual<Definitions>,
        changes: &Changes<Definitions>,
        terms: Terms,
    ) -> Scope<ServiceName> {
        if changes.is_empty() {
            // Only a time has come, for what was put off or for a grace.
            return Scope::Only(BTreeSet::new());
        }
        // What one gives back may be what another waits for.
        for _ in 0..SETTLES {
            let merged = merge(files, actual, self, terms.quota);
            let is_settled = merged.accepted == self.accepted;
            *self = merged;
            if is_settled {
                break;
            }
        }
        Scope::Everything
    }

    fn life(
        &self,
        _: &Arc<Definition>,
        _: Option<&Held<Definitions>>,
        _: &Actual<Definitions>,
        _: SystemTime,
    ) {
    }

    fn accepted(&self) -> &BTreeMap<ServiceName, Arc<Definition>> {
        &self.accepted
    }

    fn refused(&self) -> impl Iterator<Item = Refused<'_, Definitions>> {
        let refused = self.refused.iter();
        refused.map(|it| (&*it.file, &it.service, Some(it.mark), &*it.reason))
    }
}

/// What should be in etcd. `before` is the last such result, which can be newer than etcd.
fn merge(
    files: &Files<Definitions>,
    actual: &Actual<Definitions>,
    before: &MergedDefinitions,
    quota: Quota,
) -> MergedDefinitions {
    let mut merged = MergedDefinitions::default();
    let mut candidates: BTreeMap<&ServiceName, Vec<(&str, &DefinitionEntry)>> = BTreeMap::new();
    for (file, document) in files.iter() {
        for entry in &document.entries {
            let of_name = candidates.entry(&entry.record.name).or_default();
            of_name.push((file, entry));
        }
    }
    let registered = actual.records().keys();
    let registered = registered.filter_map(|name| Some((name, actual.ours(name)?)));
    let mut last_good: BTreeMap<&ServiceName, &Arc<Definition>> = registered.collect();
    last_good.extend(&before.accepted);
    let names: BTreeSet<&ServiceName> = candidates.keys().chain(last_good.keys()).copied().collect();
    // What is registered comes first, and stays.
    let (registered, new): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| last_good.contains_key(name));
    let mut bytes: usize = last_good.values().map(|good| bytes(good)).sum();
    for name in registered.into_iter().chain(new) {
        let candidates = candidates.get(name).map_or(&[][..], Vec::as_slice);
        let good = last_good.get(name).copied();
        let had = good.map_or(0, |good| self::bytes(good));
        if let Some(owner) = actual.other(name) {
            let reason = format!(
                "service {name} is defined by {owner}; rename the service, or delete one of the \
                 two definitions"
            );
            merged.refuse(candidates, None, &reason);
            bytes -= had;
            continue;
        }
        let home = good.and_then(|good| file_of(good));
        let at_home = candidates.iter().find(|(file, _)| Some(*file) == home);
        let document = home.and_then(|file| files.get(file));
        let is_faulty = document.is_some_and(|document| document.may_hold(name));
        let accepted = match (at_home, good) {
            (Some((_, entry)), _) => Some(&entry.record),
            (None, Some(good)) if is_faulty => Some(good),
            (None, _) => candidates.first().map(|(_, entry)| &entry.record),
        };
        let Some(accepted) = accepted else {
            bytes -= had;
            continue;
        };
        let needed = self::bytes(accepted);
        let is_full = good.is_none() && merged.accepted.len() >= quota.environments;
        if is_full || (needed > had && bytes - had + needed > quota.bytes) {
            let reason = format!(
                "there is no room for the definition of service {name}: a registrar registers at \
                 most {} definitions, and at most {} bytes of their records; delete definitions \
                 that are not needed",
                quota.environments, quota.bytes
            );
            merged.refuse(candidates, None, &reason);
            merged
                .accepted
                .extend(good.map(|good| (name.clone(), good.clone())));
            continue;
        }
        bytes = bytes - had + needed;
        let file = file_of(accepted).unwrap_or_default();
        let reason =
            format!("service {name} is already registered from {file}; delete one of the two definitions");
        merged.refuse(candidates, Some(file), &reason);
        merged.accepted.insert(name.clone(), accepted.clone());
    }
    merged
}

impl MergedDefinitions {
    /// Refuses what all files but one say of a service.
    fn refuse(&mut self, candidates: &[(&str, &DefinitionEntry)], but: Option<&str>, reason: &str) {
        let others = candidates.iter().filter(|(file, _)| Some(*file) != but);
        self.refused.extend(others.map(|(file, entry)| DefinitionRefusal {
            file: (*file).to_owned(),
            service: entry.record.name.clone(),
            mark: entry.marks,
            reason: reason.to_owned(),
        }));
    }
}

/// How much of etcd a definition takes.
fn bytes(definition: &Definition) -> usize {
    records::to_json(definition).len()
}

/// The file that a definition comes from.
fn file_of(definition: &Definition) -> Option<&str> {
    definition.source.as_ref().map(|source| source.file.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files_in::scan::{Content, FoundFile};
    use crate::plan::{Absences, Plan, plan};
    use std::time::{Duration, Instant};

    use mayfly_core::keys::{Key, KeySpace};
    use mayfly_core::records::{Record, SetAsides};
    use mayfly_daemon::store::LeaseId;
    use mayfly_daemon::watch::{Batch, Change, Stored};
    use proptest::prelude::*;

    const MOST: usize = QUOTA.environments;
    const GRACE: Duration = Duration::from_secs(1);

    fn gone(service: &str) -> Change {
        Change::Gone(Key::Definition(service.parse().unwrap()))
    }

    /// A registrar without I/O: etcd does what is planned.
    struct World {
        files: Files<Definitions>,
        actual: Actual<Definitions>,
        merged: MergedDefinitions,
        absences: Absences<Definitions>,
        revision: i64,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let mut actual = Actual::new(KeySpace::default(), "us".parse().unwrap());
            actual.update(Batch {
                revision: 1,
                listed: true,
                changes: Vec::new(),
                set_aside: SetAsides::default(),
            });
            Self {
                files: Files::new("us".parse().unwrap()),
                actual,
                merged: MergedDefinitions::default(),
                absences: Absences::new(GRACE),
                revision: 1,
                now: Instant::now(),
            }
        }

        /// Saves a file: `a:80 b:81` are definitions, `a!` one with a fault, `!` what is no YAML.
        fn save(&mut self, file: &str, says: &str) {
            let entry = |word: &str| match word.split_once(':') {
                Some((name, port)) => {
                    format!("- {{name: {name}, image: 'x:{{{{ version }}}}', port: {port}}}\n")
                }
                None if word == "!" => "[\n".to_owned(),
                None => format!("- {{name: {}, ports: []}}\n", word.trim_end_matches('!')),
            };
            let text: String = says.split_whitespace().map(entry).collect();
            let found = FoundFile {
                fingerprint: None,
                content: Content::Bytes(text.into_bytes()),
            };
            self.files.update(file, Some(found));
        }

        fn put(&mut self, service: &str, source: Option<&str>) {
            self.revision += 1;
            let source = source.map(|node| serde_json::json!({"registrar": node, "file": "theirs.yaml"}));
            let record =
                serde_json::json!({"name": service, "image": "x:{{ version }}", "port": 1, "source": source});
            self.tell_put(serde_json::from_value(record).unwrap(), None);
        }

        fn tell_put(&mut self, definition: Definition, lease: Option<LeaseId>) {
            self.tell(Change::Put(Stored {
                record: Record::Definition(definition),
                revision: self.revision.into(),
                lease,
            }));
        }

        fn tell(&mut self, change: Change) {
            self.actual.update(Batch {
                revision: self.revision,
                listed: false,
                changes: vec![change],
                set_aside: SetAsides::default(),
            });
        }

        fn plan(&mut self) -> Plan<Definitions> {
            self.merged = merge(&self.files, &self.actual, &self.merged, QUOTA);
            let terms = Terms {
                now: SystemTime::UNIX_EPOCH,
                force: false,
                quota: QUOTA,
            };
            let (merged, absences) = (&self.merged, &mut self.absences);
            plan(
                merged,
                &self.actual,
                &Scope::Everything,
                absences,
                terms,
                self.now,
            )
        }

        /// Carries a plan out, and gives what was refused.
        fn round(&mut self) -> Vec<String> {
            let plan = self.plan();
            for put in plan.puts {
                self.revision += 1;
                self.actual.wrote(&put.record, (), self.revision);
            }
            for (name, _) in plan.deletes {
                self.actual.deleted(&name);
            }
            let refused = self.merged.refused.iter();
            let reported = refused.map(|it| format!("{}:{} {}", it.file, it.service, it.reason));
            reported.collect()
        }

        fn ours_held(&self) -> impl Iterator<Item = (&ServiceName, &Held<Definitions>)> {
            self.actual.records().iter().filter(|(_, held)| held.is_ours())
        }

        /// What is ours in etcd, as `service:port@file`.
        fn ours(&self) -> String {
            let each = self.ours_held().map(|(name, held)| {
                let record = held.record.as_ref().unwrap();
                format!("{name}:{}@{}", record.port, file_of(record).unwrap_or("?"))
            });
            each.collect::<Vec<_>>().join(" ")
        }

        fn after_the_grace(&mut self) {
            self.round();
            self.now += GRACE;
            self.round();
        }
    }

    #[test]
    fn a_file_comes_changes_and_goes_after_the_grace() {
        let mut world = World::new();
        world.save("f.yaml", "a:80 b:81");
        world.round();
        assert_eq!(world.ours(), "a:80@f.yaml b:81@f.yaml");
        assert!(world.plan().puts.is_empty(), "what stands there is not put again");
        world.save("f.yaml", "a:90");
        world.round();
        assert_eq!(world.ours(), "a:90@f.yaml b:81@f.yaml");
        assert!(world.plan().again.is_some());
        world.after_the_grace();
        assert_eq!(world.ours(), "a:90@f.yaml");
        // A save by delete and create makes no gap, and the grace begins again.
        world.files.update("f.yaml", None);
        world.round();
        world.now += GRACE / 2;
        world.save("f.yaml", "a:91");
        world.round();
        world.files.update("f.yaml", None);
        world.now += GRACE / 2;
        world.round();
        assert_eq!(world.ours(), "a:91@f.yaml");
    }

    #[test]
    fn the_last_good_version_stays_while_its_file_is_faulty() {
        let mut world = World::new();
        world.save("f.yaml", "a:80");
        world.round();
        for fault in ["a!", "!"] {
            world.save("f.yaml", fault);
            world.after_the_grace();
            assert_eq!(world.ours(), "a:80@f.yaml", "{fault}");
            // Neither does another file get it meanwhile.
            world.save("a.yaml", "a:1");
            assert_eq!(
                world.round(),
                ["a.yaml:a service a is already registered from f.yaml; delete one of the two definitions"]
            );
            world.files.update("a.yaml", None);
        }
        // A fault elsewhere is about something else.
        world.save("f.yaml", "b!");
        world.after_the_grace();
        assert_eq!(world.ours(), "");
    }

    #[test]
    fn of_two_files_the_one_registered_first_has_it_then_the_first_by_name() {
        let mut world = World::new();
        world.save("b.yaml", "a:80");
        world.save("c.yaml", "a:81");
        assert_eq!(world.round().len(), 1);
        assert_eq!(world.ours(), "a:80@b.yaml");
        world.save("a.yaml", "a:82");
        assert_eq!(world.round().len(), 2);
        // Also for a registrar that is started again.
        world.merged = MergedDefinitions::default();
        assert_eq!(world.round().len(), 2);
        assert_eq!(world.ours(), "a:80@b.yaml");
        world.files.update("b.yaml", None);
        world.round();
        assert_eq!(world.ours(), "a:82@a.yaml", "without a gap");
    }

    #[test]
    fn what_another_writer_registered_is_never_touched() {
        for source in [Some("them"), None] {
            let mut world = World::new();
            world.put("a", source);
            world.save("f.yaml", "a:80 b:81");
            let refused = world.round();
            assert!(
                refused.len() == 1 && refused[0].starts_with("f.yaml:a service a is defined by"),
                "{refused:?}"
            );
            world.after_the_grace();
            assert_eq!(world.ours(), "b:81@f.yaml");
            world.revision += 1;
            world.tell(gone("a"));
            assert!(world.round().is_empty());
            assert_eq!(world.ours(), "a:80@f.yaml b:81@f.yaml");
        }
    }

    #[test]
    fn what_etcd_lost_is_put_again_and_what_hangs_on_a_lease_without_it() {
        let mut world = World::new();
        world.save("f.yaml", "a:80");
        world.round();
        world.save("f.yaml", "!");
        world.actual.update(Batch {
            revision: 1,
            listed: true,
            changes: vec![gone("a")],
            set_aside: SetAsides::default(),
        });
        world.round();
        assert_eq!(world.ours(), "a:80@f.yaml");
        let record = world.actual.records()[&"a".parse().unwrap()].record.clone();
        for (lease, puts) in [(None, 0), (Some(LeaseId::default()), 1)] {
            world.revision += 1;
            world.tell_put((*record.clone().unwrap()).clone(), lease);
            assert_eq!(world.plan().puts.len(), puts);
        }
    }

    #[test]
    fn there_is_room_for_so_many_and_what_is_registered_stays() {
        let mut world = World::new();
        world.save("z.yaml", "z:80");
        world.round();
        let flood: String = (0..2000).map(|number| format!("s{number}:80 ")).collect();
        world.save("flood.yaml", &flood);
        for _ in 0..2 {
            let refused = world.round();
            assert_eq!((refused.len(), world.ours_held().count()), (2001 - MOST, MOST));
            assert!(
                refused[0].starts_with("flood.yaml:s")
                    && refused[0].contains("there is no room for the definition"),
                "{}",
                refused[0]
            );
            assert!(world.ours().ends_with("z:80@z.yaml"));
            world.merged = MergedDefinitions::default();
        }
        // A change of what is there, and what comes once there is room.
        world.save("z.yaml", "z:81 y:80");
        assert!(world.round().iter().any(|it| it.starts_with("z.yaml:y there")));
        assert!(world.ours().ends_with("z:81@z.yaml"));
        world.save("flood.yaml", "s1:80");
        world.after_the_grace();
        assert_eq!(world.ours(), "s1:80@flood.yaml y:80@z.yaml z:81@z.yaml");
    }

    proptest! {
        /// Whatever happens to the files: each service stands there once and as a file of that name
        /// says or said, no good file is without its service or a word why, and once nothing
        /// changes any more nothing is written.
        #[test]
        fn files_of_any_history_end_in_sync(
            steps in prop::collection::vec((0..3usize, "((a|b|c):8[0-3] ?|(a|b|c)! |! )?((a|b|c):8[0-3])?|-", any::<bool>()), 1..20),
        ) {
            let mut world = World::new();
            for (file, says, long) in steps {
                let file = ["x.yaml", "y.yaml", "z.yaml"][file];
                match says.as_str() {
                    "-" => drop(world.files.update(file, None)),
                    says => world.save(file, says),
                }
                let refused = world.round();
                for (file, document) in world.files.iter() {
                    for DefinitionEntry { record: definition, .. } in &document.entries {
                        let name = &definition.name;
                        let stands = world.actual.records()[name].record.as_ref() == Ok(definition);
                        let is_told = refused.iter().any(|it| it.starts_with(&format!("{file}:{name} ")));
                        prop_assert!(stands != is_told, "{file} {name}: {refused:?}");
                    }
                }
                if long {
                    world.after_the_grace();
                }
            }
            world.after_the_grace();
            for (name, held) in world.ours_held() {
                let file = file_of(held.record.as_ref().unwrap()).unwrap();
                let document = world.files.get(file).unwrap();
                prop_assert!(document.is_about(name));
            }
            let plan = world.plan();
            prop_assert!(plan.puts.is_empty() && plan.deletes.is_empty() && plan.again.is_none());
        }
    }
}
