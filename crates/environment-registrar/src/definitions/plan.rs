//! All files together against what etcd holds: which definitions are to be there, what has to be written for that, and
//! what is refused. A service belongs to the file that it was registered from, and of new rivals to the first by name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mayfly_core::definition::Definition;
use mayfly_core::names::ServiceName;
use mayfly_core::records;
use mayfly_core::yaml::Mark;
use mayfly_daemon::store::Guard;

use super::library::Library;
use super::mirror::Mirror;

/// Most definitions of one registrar, and most bytes of their records together: 20 for each of the 50 services that are
/// measured, each of 16 kB. Who may push files must not fill etcd with them.
const MOST: usize = 1000;
const MOST_BYTES: usize = 16 << 20;

/// What to do, and what not.
#[derive(Debug, Default)]
pub struct Plan {
    /// What is to be in etcd.
    pub accepted: BTreeMap<ServiceName, Definition>,
    /// What is not, although a file says it, and why; by service.
    pub refused: Vec<Refusal>,
    /// The records to put, each if nobody has changed the key since it was read.
    pub puts: Vec<(Definition, Guard)>,
    /// The records to delete, likewise.
    pub deletes: Vec<(ServiceName, Guard)>,
    /// When to plan again, because a grace ends then.
    pub again: Option<Instant>,
}

/// A definition that does not stand in etcd as a file says, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The file.
    pub file: String,
    /// The service.
    pub service: ServiceName,
    /// The place in the file, if it is the file's fault.
    pub mark: Option<Mark>,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Since when definitions of etcd have been missing in the files.
#[derive(Debug)]
pub struct Absences {
    grace: Duration,
    since: BTreeMap<ServiceName, Instant>,
}

impl Absences {
    /// None yet. A definition is deleted once it has been missing for `grace`.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            since: BTreeMap::new(),
        }
    }

    /// What is missing counts as missing only from now on.
    pub fn begin_anew(&mut self, now: Instant) {
        self.since.values_mut().for_each(|since| *since = now);
    }
}

/// Plans the writes that bring etcd in step. `before` is what was accepted last, which can be newer than etcd.
pub fn plan(
    library: &Library,
    mirror: &Mirror,
    before: &BTreeMap<ServiceName, Definition>,
    absences: &mut Absences,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    plan.merge(library, mirror, before);
    let mut sizes: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    for definition in plan.accepted.values() {
        *sizes.entry(file_of(definition)).or_default() += 1;
    }
    for (name, definition) in &plan.accepted {
        let guard = match mirror.definitions().get(name) {
            None => Guard::Absent,
            Some(held) if !held.leased && held.record.as_ref() == Ok(definition) => continue,
            Some(held) => Guard::ModRevision(held.mod_revision),
        };
        plan.puts.push((definition.clone(), guard));
    }
    // A small file is not to wait for a large one.
    plan.puts
        .sort_by_key(|(definition, _)| sizes[&file_of(definition)]);
    let missing = mirror
        .ours()
        .filter(|(name, _)| !plan.accepted.contains_key(*name));
    let missing: Vec<_> = missing
        .map(|(name, held)| (name.clone(), held.mod_revision))
        .collect();
    let names: BTreeSet<&ServiceName> = missing.iter().map(|(name, _)| name).collect();
    absences.since.retain(|name, _| names.contains(name));
    for (name, revision) in missing {
        let due = *absences.since.entry(name.clone()).or_insert(now) + absences.grace;
        if due <= now {
            plan.deletes.push((name, Guard::ModRevision(revision)));
        } else {
            plan.again = Some(plan.again.map_or(due, |again| again.min(due)));
        }
    }
    plan
}

impl Plan {
    fn merge(&mut self, library: &Library, mirror: &Mirror, before: &BTreeMap<ServiceName, Definition>) {
        let mut candidates: BTreeMap<&ServiceName, Vec<(&str, &Definition, Mark)>> = BTreeMap::new();
        for (file, document) in library.files() {
            for (name, (definition, mark)) in document.entries() {
                candidates
                    .entry(name)
                    .or_default()
                    .push((file, definition, *mark));
            }
        }
        let registered = mirror
            .ours()
            .filter_map(|(name, held)| Some((name, held.record.as_ref().ok()?)));
        let mut last_good: BTreeMap<&ServiceName, &Definition> = registered.collect();
        last_good.extend(before);
        let names: BTreeSet<&ServiceName> = candidates.keys().chain(last_good.keys()).copied().collect();
        // What is registered comes first, and stays.
        let (registered, new): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| last_good.contains_key(name));
        let mut bytes: usize = last_good.values().map(|good| bytes(good)).sum();
        for name in registered.into_iter().chain(new) {
            let files = candidates.get(name).map_or(&[][..], Vec::as_slice);
            let good = last_good.get(name).copied();
            if let Some(owner) = mirror.other(name) {
                let reason = format!(
                    "service {name} is defined by {owner}, and stays so: name another service, or delete the one of the two"
                );
                self.refuse(name, files, None, &reason);
                continue;
            }
            let home = good.and_then(file_of);
            let at_home = files.iter().find(|(file, ..)| Some(*file) == home);
            let document = home.and_then(|file| library.get(file));
            let is_faulty = document.is_some_and(|document| document.may_hold(name));
            let accepted = match (at_home, good) {
                (Some((_, definition, _)), _) => Some(*definition),
                (None, Some(good)) if is_faulty => Some(good),
                (None, _) => files.first().map(|(_, definition, _)| *definition),
            };
            let had = good.map_or(0, self::bytes);
            let Some(accepted) = accepted else {
                bytes -= had;
                continue;
            };
            let needed = self::bytes(accepted);
            let is_full = good.is_none() && self.accepted.len() >= MOST;
            if is_full || (needed > had && bytes - had + needed > MOST_BYTES) {
                let reason = format!(
                    "there is no room for the definition of service {name}: a registrar has at most {MOST}, and of their \
                     records at most {MOST_BYTES} bytes: delete what is not needed"
                );
                self.refuse(name, files, None, &reason);
                self.accepted
                    .extend(good.map(|good| (name.clone(), good.clone())));
                continue;
            }
            bytes = bytes - had + needed;
            let file = file_of(accepted).unwrap_or_default();
            let reason = format!(
                "service {name} is registered from {file}: a service is defined once, so delete the one of the two"
            );
            self.refuse(name, files, Some(file), &reason);
            self.accepted.insert(name.clone(), accepted.clone());
        }
    }

    /// Refuses what all files but one say of a service.
    fn refuse(
        &mut self,
        name: &ServiceName,
        files: &[(&str, &Definition, Mark)],
        but: Option<&str>,
        reason: &str,
    ) {
        let others = files.iter().filter(|(file, ..)| Some(*file) != but);
        self.refused.extend(others.map(|(file, _, mark)| Refusal {
            file: (*file).to_owned(),
            service: name.clone(),
            mark: Some(*mark),
            reason: reason.to_owned(),
        }));
    }
}

/// How much of etcd a definition takes.
fn bytes(definition: &Definition) -> usize {
    records::to_json(definition).len()
}

/// The file that a definition of ours comes from.
pub fn file_of(definition: &Definition) -> Option<&str> {
    definition.source.as_ref().map(|source| source.file.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Content, Found};
    use mayfly_core::keys::KeySpace;
    use mayfly_daemon::store::{Entry, LeaseId};
    use mayfly_daemon::watch::{Batch, Change};
    use proptest::prelude::*;

    const GRACE: Duration = Duration::from_secs(1);

    /// A registrar without I/O: etcd does what is planned.
    struct World {
        library: Library,
        mirror: Mirror,
        before: BTreeMap<ServiceName, Definition>,
        absences: Absences,
        revision: i64,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let mut mirror = Mirror::new(KeySpace::default(), "us".parse().unwrap());
            mirror.take(Batch {
                revision: 1,
                listed: true,
                changes: Vec::new(),
            });
            Self {
                library: Library::new("us".parse().unwrap()),
                mirror,
                before: BTreeMap::new(),
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
            let found = Found {
                fingerprint: None,
                content: Content::Octets(text.into_bytes()),
            };
            self.library.take(file, Some(found));
        }

        fn put(&mut self, service: &str, source: Option<&str>) {
            self.revision += 1;
            let source = source.map(|node| serde_json::json!({"registrar": node, "file": "theirs.yaml"}));
            let record =
                serde_json::json!({"name": service, "image": "x:{{ version }}", "port": 1, "source": source});
            let entry = Entry {
                key: format!("/mayfly/services/{service}"),
                value: records::to_json(&record),
                create_revision: self.revision,
                mod_revision: self.revision,
                lease: None,
            };
            self.tell(Change::Put(entry));
        }

        fn tell(&mut self, change: Change) {
            self.mirror.take(Batch {
                revision: self.revision,
                listed: false,
                changes: vec![change],
            });
        }

        fn plan(&mut self) -> Plan {
            let plan = plan(
                &self.library,
                &self.mirror,
                &self.before,
                &mut self.absences,
                self.now,
            );
            self.before.clone_from(&plan.accepted);
            plan
        }

        /// Carries a plan out, and gives what was refused.
        fn round(&mut self) -> Vec<String> {
            let plan = self.plan();
            for (definition, _) in plan.puts {
                self.revision += 1;
                self.mirror.published(definition, self.revision);
            }
            for (name, _) in plan.deletes {
                self.mirror.deleted(&name);
            }
            let told = plan
                .refused
                .iter()
                .map(|it| format!("{}:{} {}", it.file, it.service, it.reason));
            told.collect()
        }

        /// What is ours in etcd, as `service:port@file`.
        fn ours(&self) -> String {
            let each = self.mirror.ours().map(|(name, held)| {
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
        // A save by delete and create makes no gap, and the grace begins anew.
        world.library.take("f.yaml", None);
        world.round();
        world.now += GRACE / 2;
        world.save("f.yaml", "a:91");
        world.round();
        world.library.take("f.yaml", None);
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
                [
                    "a.yaml:a service a is registered from f.yaml: a service is defined once, so delete the one of the two"
                ]
            );
            world.library.take("a.yaml", None);
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
        // Also for a registrar that is started anew.
        world.before.clear();
        assert_eq!(world.round().len(), 2);
        assert_eq!(world.ours(), "a:80@b.yaml");
        world.library.take("b.yaml", None);
        world.round();
        assert_eq!(world.ours(), "a:82@a.yaml", "without a gap");
    }

    #[test]
    fn what_somebody_else_registered_is_never_touched() {
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
            let key = "/mayfly/services/a".to_owned();
            world.revision += 1;
            world.tell(Change::Delete { key });
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
        world.mirror.take(Batch {
            revision: 1,
            listed: true,
            changes: vec![Change::Delete {
                key: "/mayfly/services/a".to_owned(),
            }],
        });
        world.round();
        assert_eq!(world.ours(), "a:80@f.yaml");
        let record = world.mirror.definitions()[&"a".parse().unwrap()].record.clone();
        let entry = |revision: i64, lease: Option<LeaseId>| Entry {
            key: "/mayfly/services/a".to_owned(),
            value: records::to_json(record.as_ref().unwrap()),
            create_revision: revision,
            mod_revision: revision,
            lease,
        };
        for (lease, puts) in [(None, 0), (Some(LeaseId::default()), 1)] {
            world.revision += 1;
            world.tell(Change::Put(entry(world.revision, lease)));
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
            assert_eq!((refused.len(), world.mirror.ours().count()), (2001 - MOST, MOST));
            assert!(
                refused[0].starts_with("flood.yaml:s")
                    && refused[0].contains("there is no room for the definition"),
                "{}",
                refused[0]
            );
            assert!(world.ours().ends_with("z:80@z.yaml"));
            world.before.clear();
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
        /// Whatever happens to the files: each service stands there once and as a file of that name says or said, no good
        /// file is without its service or a word why, and once nothing changes any more nothing is written.
        #[test]
        fn files_of_any_history_end_in_step(
            steps in prop::collection::vec((0..3usize, "((a|b|c):8[0-3] ?|(a|b|c)! |! )?((a|b|c):8[0-3])?|-", any::<bool>()), 1..20),
        ) {
            let mut world = World::new();
            for (file, says, long) in steps {
                let file = ["x.yaml", "y.yaml", "z.yaml"][file];
                match says.as_str() {
                    "-" => world.library.take(file, None),
                    says => world.save(file, says),
                }
                let refused = world.round();
                for (file, document) in world.library.files() {
                    for (name, (definition, _)) in document.entries() {
                        let stands = world.mirror.definitions()[name].record.as_ref() == Ok(definition);
                        let is_told = refused.iter().any(|it| it.starts_with(&format!("{file}:{name} ")));
                        prop_assert!(stands != is_told, "{file} {name}: {refused:?}");
                    }
                }
                if long {
                    world.after_the_grace();
                }
            }
            world.after_the_grace();
            for (name, held) in world.mirror.ours() {
                let file = file_of(held.record.as_ref().unwrap()).unwrap();
                let document = world.library.get(file).unwrap();
                prop_assert!(document.entries().contains_key(name) || document.may_hold(name));
            }
            let plan = world.plan();
            prop_assert!(plan.puts.is_empty() && plan.deletes.is_empty() && plan.again.is_none());
        }
    }
}
