//! Histories in short form, and what must hold whatever happens.

use super::*;
use mayfly_daemon::store::LeaseId;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(10);

/// A guard, the index that it feeds (as a set of keys), and what HAProxy's checks say.
struct Bench {
    guard: Guard,
    index: BTreeSet<String>,
    health: BTreeMap<String, Health>,
    start: Instant,
    now: Instant,
    revision: i64,
}

/// `a1` is instance 1 of service a, `-a1` one that drains, `=dev` an environment, `=dev+` one with a
/// lease, `~a1` a drain, `!` an operator's word.
fn key(name: &str) -> String {
    let instance =
        |kind: &str, name: &str| format!("/mayfly/{kind}/{}/1/10.0.0.{}:80", &name[..1], &name[1..]);
    match (name, name.split_at(1)) {
        ("!", _) => "/mayfly/confirmations/haproxy-updater".to_owned(),
        (_, ("=", name)) => format!("/mayfly/environments/{}", name.trim_end_matches('+')),
        (_, ("~", name)) => instance("drains", name),
        (_, ("-", name)) => instance("backends", name),
        _ => instance("backends", name),
    }
}

fn put(name: &str) -> Change {
    let state = if name.starts_with('-') { "draining" } else { "up" };
    Change::Put(Entry {
        key: key(name),
        value: format!(r#"{{"address": "10.0.0.1:80", "state": "{state}"}}"#).into_bytes(),
        create_revision: 1,
        mod_revision: 1,
        lease: name.ends_with('+').then(LeaseId::default),
    })
}

fn delete(name: &str) -> Change {
    Change::Delete { key: key(name) }
}

impl Bench {
    fn new(names: &str) -> Self {
        let start = Instant::now();
        let mut bench = Self {
            guard: Guard::new(KeySpace::default(), Some(WINDOW)),
            index: BTreeSet::new(),
            health: BTreeMap::new(),
            start,
            now: start,
            revision: 100,
        };
        bench.batch(true, names.split(' ').map(put).collect());
        bench
    }

    fn batch(&mut self, listed: bool, changes: Vec<Change>) {
        let revision = self.revision;
        let batch = Batch {
            revision,
            listed,
            changes,
        };
        let passed = self.guard.filter(batch, self.now);
        self.learn(passed);
    }

    fn learn(&mut self, passed: Vec<Change>) {
        for change in passed {
            match change {
                Change::Put(entry) => drop(self.index.insert(entry.key)),
                Change::Delete { key } => drop(self.index.remove(&key)),
            }
        }
    }

    fn delete(&mut self, names: &str) {
        self.batch(false, names.split(' ').map(delete).collect());
    }

    fn put(&mut self, names: &str) {
        self.batch(false, names.split(' ').map(put).collect());
    }

    fn health(&mut self, name: &str, health: Health) {
        self.health.insert(key(name), health);
    }

    fn judge(&mut self, second: u64) {
        self.now = self.start + Duration::from_secs(second);
        let of = |key: &str| self.health.get(key).copied().unwrap_or(Health::Answers);
        let gone = self.guard.judge(of, self.now);
        self.learn(gone);
    }

    /// Which of the index' keys are these.
    #[track_caller]
    fn routes(&self, names: &str) {
        let expected: BTreeSet<String> = names
            .split(' ')
            .filter(|name| !name.is_empty())
            .map(key)
            .collect();
        let kinds = |key: &&String| key.contains("/backends/") || key.contains("/environments/");
        let found: BTreeSet<String> = self.index.iter().filter(kinds).cloned().collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn one_of_several_may_go_and_the_last_one_may_not() {
    let mut bench = Bench::new("a1 a2 b1 b2 b3");
    bench.delete("a1");
    bench.routes("a2 b1 b2 b3");
    assert_eq!(bench.guard.alarm(), None);
    bench.delete("a2");
    bench.routes("a2 b1 b2 b3");
    assert_eq!(
        bench.guard.alarm().unwrap(),
        "etcd has lost 1 of 4 instances and 0 of 0 environments without a word (/mayfly/backends/a/1/10.0.0.2:80): they \
         are kept, an instance while it answers HAProxy's check"
    );
    bench.judge(1000);
    bench.routes("a2 b1 b2 b3");
    bench.health("a2", Health::Fails);
    bench.judge(1001);
    bench.routes("b1 b2 b3");
    assert_eq!(bench.guard.alarm(), None);
}

#[test]
fn who_said_that_it_goes_goes_at_once() {
    let mut bench = Bench::new("a1 b1");
    bench.put("-a1");
    bench.delete("a1");
    bench.routes("b1");
    bench.put("~b1");
    bench.delete("b1");
    bench.routes("");
    let mut bench = Bench::new("a1 b1");
    bench.delete("a1");
    bench.put("~a1");
    bench.routes("b1");
}

#[test]
fn half_of_all_is_kept_until_a_word() {
    let mut bench = Bench::new("a1 a2 a3 a4 b1 b2");
    bench.delete("a1 a2 a3");
    bench.judge(1000);
    bench.routes("a1 a2 a3 a4 b1 b2");
    bench.put("!");
    bench.routes("a4 b1 b2");
    assert_eq!(bench.guard.held(), 0);
}

#[test]
fn one_after_the_other_within_the_window_is_a_mass_too() {
    let mut bench = Bench::new("a1 a2 a3 a4");
    bench.delete("a1");
    bench.delete("a2");
    bench.routes("a2 a3 a4");
    let mut bench = Bench::new("a1 a2 a3 a4");
    bench.delete("a1");
    bench.judge(11);
    bench.delete("a2");
    bench.routes("a3 a4");
}

#[test]
fn the_last_one_goes_after_the_window_when_another_came() {
    let mut bench = Bench::new("a1 b1 b2 b3");
    bench.delete("a1");
    bench.put("a2");
    bench.judge(9);
    bench.routes("a1 a2 b1 b2 b3");
    bench.judge(10);
    bench.routes("a2 b1 b2 b3");
}

#[test]
fn what_haproxy_does_not_check_is_kept_for_the_window() {
    let mut bench = Bench::new("a1 b1 b2");
    bench.health("a1", Health::Unchecked);
    bench.delete("a1");
    bench.judge(9);
    bench.routes("a1 b1 b2");
    bench.judge(10);
    bench.routes("b1 b2");
}

#[test]
fn what_comes_back_is_as_if_nothing_had_been() {
    let mut bench = Bench::new("a1 =dev =prod");
    bench.delete("a1 =dev =prod");
    bench.routes("a1 =dev =prod");
    bench.put("a1 =dev");
    assert_eq!(bench.guard.held(), 1);
    bench.put("=prod");
    assert_eq!((bench.guard.held(), bench.guard.alarm()), (0, None));
    let all = ["a1", "=dev"]
        .map(delete)
        .into_iter()
        .chain(["a1", "=dev"].map(put));
    bench.batch(true, all.collect());
    assert_eq!(bench.guard.held(), 0);
}

#[test]
fn a_list_of_environments_that_empties_at_a_stroke_is_not_believed() {
    let mut bench = Bench::new("=dev =prod =qa");
    bench.delete("=dev =prod");
    bench.routes("=qa");
    bench.delete("=qa");
    bench.routes("");
    let mut bench = Bench::new("=dev =prod");
    bench.delete("=dev =prod");
    bench.judge(1000);
    bench.routes("=dev =prod");
    bench.put("!");
    bench.routes("");
    // Leases end, and may end together.
    let mut bench = Bench::new("=dev+ =qa+");
    bench.delete("=dev =qa");
    bench.routes("");
    let mut bench = Bench::new("=dev");
    bench.batch(true, vec![delete("=dev")]);
    bench.routes("=dev");
}

#[test]
fn when_etcd_lost_its_data_every_environment_is_kept() {
    let mut bench = Bench::new("=dev =prod =qa");
    bench.revision = 3;
    bench.batch(true, vec![delete("=dev"), delete("=prod")]);
    bench.routes("=dev =prod =qa");
    bench.put("=dev =prod");
    bench.delete("=dev");
    bench.routes("=prod =qa");
}

#[test]
fn without_a_window_everything_is_believed() {
    let mut bench = Bench::new("a1 =dev =prod");
    bench.guard = Guard::new(KeySpace::default(), None);
    bench.put("a1 =dev =prod");
    bench.delete("a1 =dev =prod");
    bench.routes("");
}

/// One step of a history, of the instances a1 to b3.
#[derive(Debug, Clone)]
enum Step {
    Put(String),
    Drain(String),
    Delete(Vec<String>),
    Health(String, Health),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || "[ab][123]";
    let health = prop_oneof![
        Just(Health::Answers),
        Just(Health::Fails),
        Just(Health::Unchecked)
    ];
    prop_oneof![
        4 => name().prop_map(Step::Put),
        1 => "-?[ab][123]".prop_map(Step::Put),
        1 => name().prop_map(Step::Drain),
        4 => prop::collection::vec(name(), 1..4).prop_map(Step::Delete),
        2 => (name(), health).prop_map(|(name, health)| Step::Health(name, health)),
        2 => (0u64..20).prop_map(Step::Later),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new("a1 a2 b1");
        // What etcd has: name and whether it drains; and what is drained by a key.
        let mut etcd: BTreeMap<String, bool> = ["a1", "a2", "b1"].map(|name| (name.to_owned(), false)).into();
        let mut drains: BTreeSet<String> = BTreeSet::new();
        let mut second = 0;
        for step in steps {
            let before = bench.index.clone();
            let mut judged = false;
            match step {
                Step::Put(name) => {
                    bench.put(&name);
                    etcd.insert(name.trim_start_matches('-').to_owned(), name.starts_with('-'));
                }
                Step::Drain(name) => {
                    bench.put(&format!("~{name}"));
                    drains.insert(name);
                }
                Step::Delete(names) => {
                    let quiet = |name: &String| etcd.get(name) == Some(&false) && !drains.contains(name);
                    let alive: BTreeSet<&String> = etcd.keys().filter(|name| quiet(name)).collect();
                    let lost: BTreeSet<&String> = names.iter().filter(|name| alive.contains(name)).collect();
                    let left: Vec<&&String> = alive.difference(&lost).collect();
                    bench.delete(&names.join(" "));
                    for name in &names {
                        let backend = &name[..1];
                        let is_last = !left.iter().any(|other| other.starts_with(backend));
                        if lost.contains(name) && is_last {
                            prop_assert!(bench.index.contains(&key(name)), "the last of {backend} vanished");
                        }
                    }
                    for name in names {
                        etcd.remove(&name);
                    }
                }
                Step::Health(name, health) => bench.health(&name, health),
                Step::Later(seconds) => {
                    second += seconds;
                    bench.judge(second);
                    judged = true;
                }
            }
            let held: BTreeSet<String> = bench.guard.held_instances().map(str::to_owned).collect();
            for name in &drains {
                prop_assert!(!held.contains(&key(name)), "{name} is drained and held");
            }
            for (name, _) in etcd.iter() {
                prop_assert!(bench.index.contains(&key(name)), "{name} is in etcd and not routed");
                prop_assert!(!held.contains(&key(name)));
            }
            for key in bench.index.iter().filter(|key| key.contains("/backends/")) {
                let known = etcd.keys().any(|name| super::tests::key(name) == *key);
                prop_assert!(known || held.contains(key), "{key} is routed and nobody knows why");
                if judged && held.contains(key) {
                    prop_assert!(bench.health.get(key) != Some(&Health::Fails), "{key} fails its check and is held");
                }
            }
            prop_assert!(held.is_subset(&before) || !judged);
        }
    }
}

#[test]
fn what_is_kept_goes_when_its_address_is_anothers() {
    let mut bench = Bench::new("a1 b1");
    bench.delete("a1 b1");
    bench.routes("a1 b1");
    let gone = bench.guard.let_go(|held| held == key("a1"));
    bench.learn(gone);
    bench.routes("b1");
    assert_eq!(bench.guard.held(), 1);
}
