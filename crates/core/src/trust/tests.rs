//! A router's histories in short form, and what must hold whatever happens. [`listings`] has the rules of daemons
//! without a check.

mod listings;

use super::*;
use crate::keys::KeySpace;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(10);

/// A change as tests make it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TestChange {
    Put(Key, KeyState),
    Unreadable(Key),
    Gone(Key),
}

impl TrustChange for TestChange {
    fn event(&self) -> KeyEvent {
        match self.clone() {
            Self::Put(key, state) => KeyEvent::Put(key, state),
            Self::Unreadable(key) => KeyEvent::Unreadable(key),
            Self::Gone(key) => KeyEvent::Gone(key),
        }
    }

    fn end(key: Key) -> Self {
        Self::Gone(key)
    }
}

/// A guard, the index that it feeds (as a set of keys), and what HAProxy's checks say.
struct Bench {
    trust: Trust,
    index: BTreeSet<Key>,
    health: BTreeMap<Key, Health>,
    start: Instant,
    now: Instant,
    revision: i64,
    /// Whether etcd is there.
    ages: bool,
}

fn parse(key: &str) -> Key {
    KeySpace::default().parse(&format!("/mayfly/{key}")).unwrap()
}

/// `a1` is instance 1 of service a, `-a1` one that drains, `=dev` an environment, `=dev+` one with a
/// lease, `~a1` a drain, `!` an operator's word.
fn key(name: &str) -> Key {
    let instance = |kind: &str, name: &str| format!("{kind}/{}/1/10.0.0.{}:80", &name[..1], &name[1..]);
    parse(&match (name, name.split_at(1)) {
        ("!", _) => "confirmations/haproxy-updater".to_owned(),
        (_, ("=", name)) => format!("environments/{}", name.trim_end_matches('+')),
        (_, ("~", name)) => instance("drains", name),
        (_, ("-", name)) => instance("backends", name),
        _ => instance("backends", name),
    })
}

fn put(name: &str) -> TestChange {
    let state = KeyState {
        leased: name.ends_with('+'),
        draining: name.starts_with('-'),
        ..KeyState::default()
    };
    TestChange::Put(key(name), state)
}

fn delete(name: &str) -> TestChange {
    TestChange::Gone(key(name))
}

impl Bench {
    fn new(names: &str) -> Self {
        Self::with(Policy::routing(WINDOW), names)
    }

    fn with(policy: Policy, names: &str) -> Self {
        let start = Instant::now();
        let mut bench = Self {
            trust: Trust::new(policy),
            index: BTreeSet::new(),
            health: BTreeMap::new(),
            start,
            now: start,
            revision: 100,
            ages: true,
        };
        bench.batch(true, names.split(' ').map(put).collect());
        bench
    }

    fn batch(&mut self, listed: bool, changes: Vec<TestChange>) {
        let believed = self.trust.take(self.revision, listed, changes, self.now);
        for change in believed {
            match change {
                TestChange::Put(key, _) => drop(self.index.insert(key)),
                TestChange::Unreadable(_) => {}
                TestChange::Gone(key) => drop(self.index.remove(&key)),
            }
        }
    }

    fn learn(&mut self, gone: Vec<Key>) {
        for key in gone {
            assert!(self.index.remove(&key), "{key:?} has gone before");
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

    fn at(&mut self, second: u64) {
        self.now = self.start + Duration::from_secs(second);
        let gone = self.trust.expire(self.now);
        self.learn(gone);
    }

    fn judge(&mut self, second: u64) {
        self.at(second);
        let of = |key: &Key| self.health.get(key).copied().unwrap_or(Health::Answers);
        let gone = self.trust.judge(of, self.ages, self.now);
        self.learn(gone);
    }

    fn alarm(&self) -> Option<String> {
        self.trust.kept(&KeySpace::default()).alarm
    }

    fn kept(&self) -> usize {
        self.trust.lost_count()
    }

    /// Which of the index' keys are these.
    #[track_caller]
    fn routes(&self, names: &str) {
        let names = names.split(' ').filter(|name| !name.is_empty());
        let expected: BTreeSet<Key> = names.map(key).collect();
        let kinds = |key: &&Key| matches!(key.kind(), Kind::Instance | Kind::Environment);
        let found: BTreeSet<Key> = self.index.iter().filter(kinds).cloned().collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn one_of_several_may_go_and_the_last_one_may_not() {
    let mut bench = Bench::new("a1 a2 b1 b2 b3");
    bench.delete("a1");
    bench.routes("a2 b1 b2 b3");
    assert_eq!(bench.alarm(), None);
    bench.delete("a2");
    bench.routes("a2 b1 b2 b3");
    assert_eq!(
        bench.alarm().unwrap(),
        "1 of 4 instances vanished from etcd without being deregistered (/mayfly/backends/a/1/10.0.0.2:80); each \
         instance stays routed while it passes HAProxy's check"
    );
    bench.judge(1000);
    bench.routes("a2 b1 b2 b3");
    bench.health("a2", Health::Fails);
    bench.judge(1001);
    bench.routes("b1 b2 b3");
    assert_eq!(bench.alarm(), None);
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
fn who_said_that_it_goes_goes_at_once_after_an_outage_too() {
    let mut bench = Bench::new("a1 a2 b1 b2 c1");
    bench.trust.outage_ended(bench.now);
    bench.put("-a1 ~a2");
    bench.delete("a1 a2 b1");
    bench.routes("b1 b2 c1");
    assert_eq!(bench.alarm(), None, "it is too early to say that b1 is lost");
    bench.put("~b1");
    bench.routes("b2 c1");
    bench.delete("c1");
    bench.judge(19);
    bench.routes("b2 c1");
    bench.put("c1");
    bench.delete("b2");
    // From then on the outage is over, and b2 is the last one of its backend.
    bench.judge(20);
    bench.routes("b2 c1");
    assert_eq!(bench.kept(), 1);
}

#[test]
fn after_an_outage_the_one_of_several_goes_late() {
    let mut bench = Bench::new("a1 a2 b1");
    bench.trust.outage_ended(bench.now);
    bench.batch(true, vec![delete("a1")]);
    bench.judge(19);
    bench.routes("a1 a2 b1");
    assert_eq!(bench.trust.next_expiry(), Some(bench.start + AFTERMATH));
    bench.at(20);
    bench.routes("a2 b1");
}

#[test]
fn after_an_outage_a_dead_one_of_several_goes_at_once() {
    let mut bench = Bench::new("a1 a2 a3 b1 c1 c2 c3");
    bench.trust.outage_ended(bench.now);
    bench.delete("a1 a2 b1");
    bench.judge(1);
    bench.routes("a1 a2 a3 b1 c1 c2 c3");
    for dead in ["a1", "b1"] {
        bench.health(dead, Health::Fails);
    }
    // The last one of its backend has time to register again: the check may be behind.
    bench.judge(2);
    bench.routes("a2 a3 b1 c1 c2 c3");
    bench.judge(21);
    bench.routes("a3 c1 c2 c3");
}

#[test]
fn half_of_all_is_kept_until_a_word() {
    let mut bench = Bench::new("a1 a2 a3 a4 b1 b2");
    bench.delete("a1 a2 a3");
    bench.judge(1000);
    bench.routes("a1 a2 a3 a4 b1 b2");
    bench.put("!");
    bench.routes("a4 b1 b2");
    assert_eq!(bench.kept(), 0);
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
fn while_etcd_is_away_only_the_check_counts() {
    let mut bench = Bench::new("a1 b1 b2 b3");
    bench.delete("a1");
    bench.put("a2");
    bench.ages = false;
    bench.judge(1000);
    bench.routes("a1 a2 b1 b2 b3");
    bench.health("a1", Health::Fails);
    bench.judge(1001);
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
    assert_eq!(bench.kept(), 1);
    bench.put("=prod");
    assert_eq!((bench.kept(), bench.alarm()), (0, None));
    let all = ["a1", "=dev"]
        .map(delete)
        .into_iter()
        .chain(["a1", "=dev"].map(put));
    bench.batch(true, all.collect());
    assert_eq!(bench.kept(), 0);
}

#[test]
fn what_comes_back_and_cannot_be_read_is_back_and_counts_for_nothing() {
    let mut bench = Bench::new("a1 b1");
    bench.delete("a1");
    bench.batch(
        false,
        vec![
            TestChange::Unreadable(key("a1")),
            TestChange::Unreadable(key("b2")),
        ],
    );
    assert_eq!(bench.kept(), 0);
    bench.delete("b1");
    bench.judge(1000);
    bench.routes("a1 b1");
    assert!(bench.alarm().unwrap().contains("1 of 2 instances"));
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
    let mut bench = Bench::with(Policy::routing(Duration::ZERO), "a1 =dev =prod");
    bench.trust.outage_ended(bench.now);
    bench.delete("a1 =dev =prod");
    bench.routes("");
}

#[test]
fn what_is_kept_goes_when_its_address_is_anothers() {
    let mut bench = Bench::new("a1 b1");
    bench.delete("a1 b1");
    bench.routes("a1 b1");
    let gone = bench.trust.let_go(|held| *held == key("a1"));
    bench.learn(gone);
    bench.routes("b1");
    assert_eq!(bench.kept(), 1);
}

#[test]
fn what_is_kept_survives_a_status_record() {
    let space = KeySpace::default();
    let mut bench = Bench::new("a1 =dev =prod");
    bench.delete("a1 =dev =prod");
    let (kept, mut status) = (bench.trust.kept(&space), crate::records::Status::default());
    assert!(
        !Kept::of(&status).may_have(&space, |_| true),
        "nothing is said of it"
    );
    kept.put(&mut status);
    assert_eq!(Kept::of(&status), kept);
    let has = |kept: &Kept, name: &str| kept.may_have(&space, |kept| *kept == key(name));
    assert!(has(&kept, "a1") && !has(&kept, "a2"));
    // One that does not name all that it keeps may keep anything.
    status.detail.remove("guard_keeps_all");
    assert!(has(&Kept::of(&status), "a2"));
}

/// One step of a history, of the instances a1 to b3.
#[derive(Debug, Clone)]
enum HistoryStep {
    Put(String),
    Drain(String),
    Delete(Vec<String>),
    Health(String, Health),
    Later(u64),
    Outage,
}

fn step() -> impl Strategy<Value = HistoryStep> {
    let name = || "[ab][123]";
    let health = prop_oneof![
        Just(Health::Answers),
        Just(Health::Fails),
        Just(Health::Unchecked)
    ];
    prop_oneof![
        4 => name().prop_map(HistoryStep::Put),
        1 => "-?[ab][123]".prop_map(HistoryStep::Put),
        1 => name().prop_map(HistoryStep::Drain),
        4 => prop::collection::vec(name(), 1..4).prop_map(HistoryStep::Delete),
        2 => (name(), health).prop_map(|(name, health)| HistoryStep::Health(name, health)),
        2 => (0u64..20).prop_map(HistoryStep::Later),
        1 => Just(HistoryStep::Outage),
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
                HistoryStep::Put(name) => {
                    bench.put(&name);
                    etcd.insert(name.trim_start_matches('-').to_owned(), name.starts_with('-'));
                }
                HistoryStep::Drain(name) => {
                    bench.put(&format!("~{name}"));
                    drains.insert(name);
                }
                HistoryStep::Delete(names) => {
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
                        if etcd.contains_key(name) && !lost.contains(name) {
                            prop_assert!(!bench.index.contains(&key(name)), "{name} was to go, and is doubted");
                        }
                    }
                    for name in names {
                        etcd.remove(&name);
                    }
                }
                HistoryStep::Health(name, health) => bench.health(&name, health),
                HistoryStep::Later(seconds) => {
                    second += seconds;
                    bench.judge(second);
                    judged = true;
                }
                HistoryStep::Outage => bench.trust.outage_ended(bench.now),
            }
            let held: BTreeSet<Key> = bench.trust.withheld().keys().cloned().collect();
            for name in &drains {
                prop_assert!(!held.contains(&key(name)), "{name} is drained and held");
            }
            for name in etcd.keys() {
                prop_assert!(bench.index.contains(&key(name)), "{name} is in etcd and not routed");
                prop_assert!(!held.contains(&key(name)));
            }
            let instances = bench.index.iter().filter(|key| key.kind() == Kind::Instance);
            for key in instances {
                let known = etcd.keys().any(|name| super::tests::key(name) == *key);
                prop_assert!(known || held.contains(key), "{key:?} is routed and nobody knows why");
                if judged && matches!(bench.trust.withheld().get(key), Some(Until::Fails(_))) {
                    prop_assert!(bench.health.get(key) != Some(&Health::Fails), "{key:?} fails its check and is held");
                }
            }
            prop_assert!(held.is_subset(&before) || !judged);
        }
    }
}

/// A note that an environment has ended, at a revision.
fn note(name: &str, why: Why, changed: i64) -> TestChange {
    let state = KeyState {
        why: Some(why),
        changed,
        ..KeyState::default()
    };
    TestChange::Put(parse(&format!("ended/{name}")), state)
}

/// An environment that was put at a revision.
fn environment(name: &str, changed: i64) -> TestChange {
    let state = KeyState {
        changed,
        ..KeyState::default()
    };
    TestChange::Put(parse(&format!("environments/{name}")), state)
}

/// Two environments that were put at revision 10, all of them.
fn two() -> Bench {
    let mut bench = Bench::new("a1");
    bench.batch(true, vec![environment("dev", 10), environment("prod", 10)]);
    bench
}

#[test]
fn environments_whose_end_is_noted_go_at_once() {
    for why in [Why::Deleted, Why::File, Why::Expired, Why::Idle] {
        // The note comes with the end, or before it, or after it.
        let mut bench = two();
        bench.batch(
            false,
            vec![
                note("dev", why, 11),
                delete("=dev"),
                delete("=prod"),
                note("prod", why, 12),
            ],
        );
        bench.routes("a1");
        let mut bench = two();
        bench.delete("=dev =prod");
        bench.routes("a1 =dev =prod");
        bench.batch(false, vec![note("dev", why, 12)]);
        bench.routes("a1 =prod");
        bench.batch(false, vec![note("prod", why, 13)]);
        bench.routes("a1");
        assert_eq!((bench.kept(), bench.alarm()), (0, None));
        // In an outage.
        let mut bench = two();
        let ends = ["dev", "prod"].map(|name| note(name, why, 11));
        bench.batch(
            true,
            ends.into_iter()
                .chain([delete("=dev"), delete("=prod")])
                .collect(),
        );
        bench.routes("a1");
    }
}

#[test]
fn a_note_of_an_earlier_life_or_of_a_removal_announces_nothing() {
    // An older copy of etcd's data, in which both had ended once before.
    let mut bench = two();
    bench.revision = 8;
    let mut changes = vec![note("dev", Why::File, 7), note("prod", Why::Deleted, 8)];
    changes.extend([delete("=dev"), delete("=prod")]);
    bench.batch(true, changes);
    bench.routes("a1 =dev =prod");
    // Removed through etcd: nobody says that this was meant.
    let mut bench = two();
    bench.delete("=dev =prod");
    bench.batch(
        false,
        vec![note("dev", Why::Removed, 12), note("prod", Why::Removed, 13)],
    );
    bench.routes("a1 =dev =prod");
    // A note that is gone, or that a removal has replaced.
    let mut bench = two();
    bench.batch(
        false,
        vec![
            note("dev", Why::File, 11),
            note("prod", Why::File, 12),
            TestChange::Gone(parse("ended/dev")),
            note("prod", Why::Removed, 13),
        ],
    );
    bench.delete("=dev =prod");
    bench.routes("a1 =dev =prod");
}
