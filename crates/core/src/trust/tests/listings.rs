//! A registry that suddenly empties, data loss and outages, as daemons without a check have them. A listing is turned
//! into differences before, as the watch does it.

use super::*;

const GRACE: Duration = Duration::from_secs(60);

/// A trust, and what the watch knows of etcd.
struct Stage {
    trust: Trust,
    known: BTreeSet<String>,
    now: Instant,
}

fn gone(name: &str) -> TestChange {
    TestChange::Gone(parse(name))
}

fn put(name: &str) -> TestChange {
    TestChange::Put(parse(name), KeyState::default())
}

fn text(key: &Key) -> String {
    KeySpace::default().text(key).replace("/mayfly/", "")
}

fn texts(changes: &[TestChange]) -> Vec<String> {
    let texts = changes.iter().map(|change| match change {
        TestChange::Put(key, _) | TestChange::Unreadable(key) => format!("put {}", text(key)),
        TestChange::Gone(key) => format!("delete {}", text(key)),
    });
    texts.collect()
}

impl Stage {
    fn new(policy: Policy, names: &str) -> Self {
        let mut stage = Self {
            trust: Trust::new(policy),
            known: BTreeSet::new(),
            now: Instant::now(),
        };
        let count = stage.list(9, names).len();
        assert_eq!(count, names.split(' ').count());
        stage
    }

    fn launching(names: &str) -> Self {
        Self::new(Policy::launching(GRACE), names)
    }

    /// What a listing of these keys lets the consumer know, all else being gone.
    fn list(&mut self, revision: i64, names: &str) -> Vec<String> {
        let now: BTreeSet<String> = names.split_whitespace().map(str::to_owned).collect();
        let gone = self.known.difference(&now).map(|name| gone(name));
        let changes = gone.chain(now.difference(&self.known).map(|name| put(name)));
        let changes = changes.collect();
        self.known = now;
        texts(&self.trust.take(revision, true, changes, self.now))
    }

    /// What events let the consumer know: `x` for a put of a key, `-x` for a delete.
    fn events(&mut self, revision: i64, names: &str) -> Vec<String> {
        let mut changes = Vec::new();
        for name in names.split(' ') {
            changes.push(match name.strip_prefix('-') {
                Some(name) => {
                    self.known.remove(name);
                    gone(name)
                }
                None => {
                    self.known.insert(name.to_owned());
                    put(name)
                }
            });
        }
        texts(&self.trust.take(revision, false, changes, self.now))
    }

    fn later(&mut self, span: Duration) -> Vec<String> {
        self.now += span;
        self.trust.expire(self.now).iter().map(text).collect()
    }

    fn withheld(&self) -> usize {
        self.trust.withheld().len()
    }

    fn alarm(&self) -> Option<String> {
        self.trust.kept(&KeySpace::default()).alarm
    }
}

#[test]
fn a_kind_that_vanishes_as_a_whole_is_withheld_and_released_after_the_window() {
    let mut stage = Stage::launching("backends/s/1/x dns/host environments/a environments/b");
    let end = stage.now + GRACE;
    let changes = stage.list(10, "backends/s/1/x");
    assert_eq!(changes, ["delete dns/host"], "static records may all go");
    assert_eq!(
        stage.alarm().unwrap(),
        "2 of 2 environments vanished from etcd without being deregistered (/mayfly/environments/a, ...); the \
         launcher treats them as present for 1m, then as deleted"
    );
    assert_eq!((stage.withheld(), stage.trust.next_expiry()), (2, Some(end)));

    assert!(stage.later(GRACE / 2).is_empty());
    let changes = stage.list(10, "backends/s/1/x");
    assert!(changes.is_empty(), "a second empty listing does not release");
    assert_eq!(
        stage.trust.next_expiry(),
        Some(end),
        "a second empty listing does not prolong"
    );
    let released = stage.later(GRACE / 2);
    assert_eq!(released, ["environments/a", "environments/b"]);
    assert_eq!((stage.withheld(), stage.trust.next_expiry()), (0, None));
}

#[test]
fn what_comes_back_is_not_withheld_and_the_rest_is() {
    let mut stage = Stage::launching("environments/a environments/b");
    assert!(stage.list(1, "").is_empty());
    assert_eq!(stage.list(10, "environments/a"), ["put environments/a"]);
    assert_eq!(stage.withheld(), 1, "one that came back does not doom the others");
    stage.events(11, "environments/b");
    assert_eq!(stage.withheld(), 0);
    assert!(stage.later(GRACE).is_empty());
}

#[test]
fn a_part_that_vanishes_is_believed() {
    for policy in [Policy::launching(GRACE), Policy::naming(GRACE)] {
        let mut stage = Stage::new(
            policy,
            "environments/a environments/b backends/s/1/x backends/s/1/y",
        );
        assert_eq!(
            stage.list(10, "environments/a backends/s/1/x"),
            ["delete backends/s/1/y", "delete environments/b"]
        );
        assert_eq!(stage.alarm(), None);
    }
}

#[test]
fn of_an_etcd_that_lost_its_data_no_part_is_believed_to_be_gone() {
    let mut stage = Stage::launching("dns/host environments/a environments/b");
    stage.events(12, "environments/b");
    // Its revisions have begun again, and only one has been registered again so far.
    stage.known.remove("environments/a");
    assert_eq!(
        stage.list(2, "environments/a"),
        ["delete dns/host", "put environments/a"]
    );
    assert_eq!(stage.withheld(), 1);
    let back = stage.events(3, "environments/b");
    assert_eq!(
        (back, stage.withheld()),
        (vec!["put environments/b".to_owned()], 0)
    );
    // From then on it is believed as ever.
    assert_eq!(stage.list(4, "environments/a"), ["delete environments/b"]);
}

#[test]
fn ends_that_come_as_events_are_believed() {
    let mut stage = Stage::launching("environments/a environments/b");
    assert_eq!(
        stage.events(10, "-environments/a -environments/b"),
        ["delete environments/a", "delete environments/b"]
    );
    assert!(stage.list(11, "").is_empty() && stage.withheld() == 0);
}

#[test]
fn after_an_outage_the_end_of_a_leased_key_is_withheld() {
    for policy in [Policy::launching(GRACE), Policy::naming(GRACE)] {
        let mut stage = Stage::new(
            policy,
            "backends/s/1/w backends/s/1/x backends/s/1/y backends/s/1/z environments/a routers/n routers/o",
        );
        stage.trust.outage_ended(stage.now);
        let changes = stage.list(
            10,
            "backends/s/1/w backends/s/1/y backends/s/1/z environments/a routers/n",
        );
        assert!(
            changes.is_empty(),
            "x and o ran out while nobody could renew them"
        );
        assert_eq!(
            stage.events(11, "-backends/s/1/y -environments/a"),
            ["delete environments/a"],
            "nobody has to renew an environment"
        );
        assert_eq!((stage.withheld(), stage.alarm()), (3, None));
        assert_eq!(stage.events(12, "backends/s/1/y"), ["put backends/s/1/y"]);
        assert_eq!(stage.later(AFTERMATH), ["backends/s/1/x", "routers/o"]);
        assert_eq!(
            stage.events(13, "-backends/s/1/z"),
            ["delete backends/s/1/z"],
            "the outage is over"
        );
    }
}

#[test]
fn without_a_window_an_outage_and_a_loss_of_data_change_nothing() {
    let mut stage = Stage::new(Policy::default(), "backends/s/1/x environments/a");
    stage.trust.outage_ended(stage.now);
    assert_eq!(stage.events(10, "-backends/s/1/x"), ["delete backends/s/1/x"]);
    assert_eq!(stage.list(1, ""), ["delete environments/a"]);
}

#[test]
fn names_of_environments_stay_as_long_as_routers_keep_them() {
    for (listed, revision) in [(true, 10), (false, 10), (true, 1)] {
        let names = "environments/a environments/b";
        let [mut naming, mut routing] =
            [Policy::naming(GRACE), Policy::routing(WINDOW)].map(|policy| Stage::new(policy, names));
        for stage in [&mut naming, &mut routing] {
            let believed = match listed {
                true => stage.list(revision, ""),
                false => stage.events(revision, "-environments/a -environments/b"),
            };
            assert!(believed.is_empty(), "{believed:?}");
            assert!(stage.later(100 * GRACE).is_empty());
            assert_eq!(stage.trust.next_expiry(), None);
        }
        assert_eq!(naming.trust.withheld(), routing.trust.withheld());
        // One confirmation is for both.
        let ended = [
            "put confirmations/haproxy-updater",
            "delete environments/a",
            "delete environments/b",
        ];
        for stage in [&mut naming, &mut routing] {
            assert_eq!(stage.events(11, "confirmations/haproxy-updater"), ended);
        }
    }
}

#[test]
fn names_of_what_nothing_checks_stay_for_the_window() {
    let mut stage = Stage::new(
        Policy::naming(GRACE),
        "backends/s/1/x environments/a environments/b routers/n",
    );
    assert!(stage.list(10, "").is_empty());
    assert_eq!(
        stage.alarm().unwrap(),
        "1 of 1 instance, 2 of 2 environments and 1 of 1 router vanished from etcd without being \
         deregistered (/mayfly/backends/s/1/x, ...); service names of an environment still resolve \
         until it is registered again, other names for 1m"
    );
    assert_eq!(stage.later(GRACE), ["backends/s/1/x", "routers/n"]);
    assert_eq!(stage.withheld(), 2);
}

#[test]
fn a_launcher_s_confirmation_is_its_own() {
    let mut stage = Stage::launching("environments/a environments/b");
    assert!(stage.list(10, "").is_empty());
    let confirmed = "confirmations/haproxy-updater";
    assert_eq!(stage.events(11, confirmed).len(), 1);
    assert_eq!(stage.events(12, "confirmations/container-launcher").len(), 3);
    assert_eq!(stage.withheld(), 0);
}

#[test]
fn whoever_could_not_register_in_an_outage_has_time_after_it() {
    let mut stage = Stage::launching("backends/a/1/10.0.0.1:80 backends/a/1/10.0.0.2:80");
    assert_eq!(stage.list(10, ""), [""; 0]);
    // Then etcd was away for longer than that is kept.
    stage.now += 2 * GRACE;
    stage.trust.outage_ended(stage.now);
    assert_eq!(stage.later(Duration::from_secs(19)), [""; 0]);
    assert_eq!(stage.later(Duration::from_secs(1)).len(), 2);
}

#[test]
fn an_outage_counts_for_a_short_window_too() {
    let policy = Policy::naming(Duration::from_secs(5));
    let mut stage = Stage::new(policy, "backends/a/1/10.0.0.1:80 backends/a/1/10.0.0.2:80");
    stage.trust.outage_ended(stage.now);
    assert_eq!(stage.list(10, ""), [""; 0]);
    assert_eq!(stage.later(Duration::from_secs(19)), [""; 0]);
    assert_eq!(stage.later(Duration::from_secs(1)).len(), 2);
}
