//! What a watch has told its consumer so far, and what a new listing therefore changes: the pure half of
//! [`crate::watch`]. A registry that suddenly empties is not believed at once: when a listing lacks every key of a
//! kind (environments, backends, routers) that was there, or etcd has gone back to an earlier revision and so has lost
//! its data, their deletes are held back for a grace. And after an outage
//! the end of a leased key is not believed at once: its lease may have run out only because nobody could renew it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use mayfly_core::keys::KeySpace;
use tokio::time::Instant;

use crate::store::{Entry, Listing};
use crate::watch::Change;

/// The kinds whose sudden absence is more likely a fault of etcd than anybody's wish.
const GUARDED: [&str; 3] = ["environments", "backends", "routers"];

/// The kinds that hang on leases.
const LEASED: [&str; 2] = ["backends", "routers"];

/// How long after an outage the end of a leased key is doubted: time enough to notice that the lease is lost and to
/// register again. Meanwhile HAProxy's own checks tell which instances are really gone.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(20);

/// What was told of a key. The value counts too: after etcd lost its data, another value can have an old revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    create_revision: i64,
    mod_revision: i64,
    value: u64,
}

impl Mark {
    fn of(entry: &Entry) -> Self {
        let mut hasher = DefaultHasher::new();
        entry.value.hash(&mut hasher);
        Self {
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            value: hasher.finish(),
        }
    }
}

/// A guarded kind that vanished and is not believed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vanished {
    /// How many keys of which kind.
    pub kind: &'static str,
    /// How many keys.
    pub keys: usize,
    /// Whether some of the kind are there: then it is the revision that tells.
    pub partly: bool,
}

/// Every key the consumer knows of.
#[derive(Debug)]
pub(crate) struct Known {
    keyspace: KeySpace,
    grace: Option<Duration>,
    doubts_leases: bool,
    keys: HashMap<String, Mark>,
    /// Keys that the store lacks and the consumer still has, with the end of their grace.
    held: BTreeMap<String, Instant>,
    /// Until when the end of a leased key is doubted.
    aftermath: Option<Instant>,
    /// The newest revision that was heard of since the last listing. That of etcd never goes back, unless it has lost data.
    revision: i64,
}

impl Known {
    pub(crate) fn new(keyspace: KeySpace, grace: Option<Duration>, doubts_leases: bool) -> Self {
        Self {
            keyspace,
            grace,
            doubts_leases,
            keys: HashMap::new(),
            held: BTreeMap::new(),
            aftermath: None,
            revision: 0,
        }
    }

    /// Notes that an outage has just ended.
    pub(crate) fn outage_ended(&mut self, now: Instant) {
        self.aftermath = self.doubts_leases.then(|| now + AFTERMATH);
    }

    /// Until when the end of this key is not to be believed; `None` when it is.
    fn doubted(&self, key: &str, now: Instant) -> Option<Instant> {
        let until = self.aftermath.filter(|until| now < *until)?;
        let leased = self.keyspace.kind(key).is_some_and(|kind| LEASED.contains(&kind));
        leased.then_some(until)
    }

    /// Turns a listing into the differences from what was told, and says which kinds are newly held back.
    pub(crate) fn list(&mut self, listing: Listing, now: Instant) -> (Vec<Change>, Vec<Vanished>) {
        let data_lost = listing.revision < self.revision;
        self.revision = listing.revision;
        let mut present = HashMap::with_capacity(listing.entries.len());
        let mut changes = Vec::new();
        for entry in listing.entries {
            let mark = Mark::of(&entry);
            self.held.remove(&entry.key);
            present.insert(entry.key.clone(), mark);
            if self.keys.get(&entry.key) != Some(&mark) {
                changes.push(Change::Put(entry));
            }
        }
        let mut missing: Vec<String> = self
            .keys
            .keys()
            .filter(|key| !present.contains_key(*key))
            .cloned()
            .collect();
        missing.sort_unstable();

        let vanished = self.hold(&missing, &present, data_lost, now);
        for key in &missing {
            if let (Some(until), false) = (self.doubted(key, now), self.held.contains_key(key)) {
                self.held.insert(key.clone(), until);
            }
        }
        let mut deletes = Vec::new();
        for key in missing {
            if let (true, Some(mark)) = (self.held.contains_key(&key), self.keys.get(&key)) {
                present.insert(key, *mark);
            } else {
                deletes.push(Change::Delete { key });
            }
        }
        // Deletes first, so that a name that moved from one key to another is free when it is taken.
        deletes.append(&mut changes);
        self.keys = present;
        (deletes, vanished)
    }

    fn hold(
        &mut self,
        missing: &[String],
        present: &HashMap<String, Mark>,
        data_lost: bool,
        now: Instant,
    ) -> Vec<Vanished> {
        let Some(grace) = self.grace else {
            return Vec::new();
        };
        let mut vanished = Vec::new();
        for kind in GUARDED {
            let of_kind = |key: &&String| self.keyspace.kind(key) == Some(kind);
            let partly = present.keys().any(|key| of_kind(&key));
            // Where the data was lost, who registers again does so one by one.
            if partly && !data_lost {
                continue;
            }
            let new: Vec<&String> = missing
                .iter()
                .filter(of_kind)
                .filter(|key| !self.held.contains_key(*key))
                .collect();
            if !new.is_empty() {
                vanished.push(Vanished {
                    kind,
                    keys: new.len(),
                    partly,
                });
                self.held
                    .extend(new.into_iter().map(|key| (key.clone(), now + grace)));
            }
        }
        vanished
    }

    /// Takes changes that came as events, and gives those to pass on: they hold at once, but for the end of leased keys
    /// after an outage.
    pub(crate) fn events(&mut self, mut changes: Vec<Change>, now: Instant) -> Vec<Change> {
        changes.retain(|change| match change {
            Change::Put(entry) => {
                self.revision = self.revision.max(entry.mod_revision);
                self.held.remove(&entry.key);
                self.keys.insert(entry.key.clone(), Mark::of(entry));
                true
            }
            Change::Delete { key } => {
                if let (Some(until), true) = (self.doubted(key, now), self.keys.contains_key(key)) {
                    self.held.entry(key.clone()).or_insert(until);
                    return false;
                }
                self.held.remove(key);
                self.keys.remove(key);
                true
            }
        });
        changes
    }

    /// The deletes whose grace has ended.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Change> {
        let ended: Vec<String> = self
            .held
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &ended {
            self.held.remove(key);
            self.keys.remove(key);
        }
        ended.into_iter().map(|key| Change::Delete { key }).collect()
    }

    /// When the next grace ends.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.held.values().min().copied()
    }

    /// How many deletes are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn entry(key: &str, value: &str, mod_revision: i64) -> Entry {
        let (key, value) = (format!("/mayfly/{key}"), value.as_bytes().to_vec());
        Entry {
            key,
            value,
            create_revision: 1,
            mod_revision,
            lease: None,
        }
    }

    fn listing(revision: i64, entries: &[Entry]) -> Listing {
        Listing {
            revision,
            entries: entries.to_vec(),
        }
    }

    fn texts(changes: &[Change]) -> Vec<String> {
        let text = |change: &Change| match change {
            Change::Put(entry) => format!("put {}", entry.key.trim_start_matches("/mayfly/")),
            Change::Delete { key } => format!("delete {}", key.trim_start_matches("/mayfly/")),
        };
        changes.iter().map(text).collect()
    }

    fn delete(key: &str) -> Change {
        Change::Delete {
            key: format!("/mayfly/{key}"),
        }
    }

    fn known(grace: Option<Duration>, entries: &[Entry]) -> Known {
        let mut known = Known::new(KeySpace::default(), grace, grace.is_some());
        let (changes, vanished) = known.list(listing(9, entries), Instant::now());
        assert_eq!((changes.len(), vanished.len()), (entries.len(), 0));
        known
    }

    #[test]
    fn a_listing_becomes_only_the_differences_and_tells_what_has_vanished() {
        let now = Instant::now();
        let (a, b) = (entry("environments/a", "1", 2), entry("environments/b", "1", 3));
        let mut known = known(None, &[a.clone(), b]);
        let changed = entry("environments/c", "1", 5);
        let (changes, _) = known.list(listing(9, &[a.clone(), changed.clone()]), now);
        assert_eq!(texts(&changes), ["delete environments/b", "put environments/c"]);
        let (changes, _) = known.list(listing(9, &[a, changed]), now);
        assert!(changes.is_empty());
    }

    #[test]
    fn another_value_at_an_old_revision_is_a_difference() {
        let mut known = known(None, &[entry("environments/a", "before", 2)]);
        let (changes, _) = known.list(listing(2, &[entry("environments/a", "after", 2)]), Instant::now());
        assert_eq!(texts(&changes), ["put environments/a"]);
    }

    #[test]
    fn without_a_grace_everything_may_vanish_at_once() {
        let mut known = known(None, &[entry("environments/a", "1", 2)]);
        let (changes, vanished) = known.list(listing(1, &[]), Instant::now());
        assert_eq!(
            (texts(&changes), vanished),
            (vec!["delete environments/a".to_owned()], vec![])
        );
    }

    #[test]
    fn a_kind_that_vanishes_as_a_whole_is_held_back_and_released_after_the_grace() {
        let now = Instant::now();
        let before = [
            entry("backends/s/1/x", "1", 2),
            entry("dns/host", "1", 3),
            entry("environments/a", "1", 4),
            entry("environments/b", "1", 5),
        ];
        let mut known = known(Some(GRACE), &before);
        let (changes, vanished) = known.list(listing(10, &before[..1]), now);
        assert_eq!(texts(&changes), ["delete dns/host"], "static records may all go");
        assert_eq!(
            vanished,
            [Vanished {
                kind: "environments",
                keys: 2,
                partly: false
            }]
        );
        assert_eq!((known.held(), known.next_expiry()), (2, Some(now + GRACE)));

        let later = now + GRACE / 2;
        let (changes, vanished) = known.list(listing(10, &before[..1]), later);
        assert!(
            changes.is_empty() && vanished.is_empty(),
            "a second empty listing neither releases nor prolongs"
        );
        assert!(known.expire(later).is_empty());
        let released = known.expire(now + GRACE);
        assert_eq!(
            texts(&released),
            ["delete environments/a", "delete environments/b"]
        );
        assert_eq!((known.held(), known.next_expiry()), (0, None));
    }

    #[test]
    fn what_comes_back_unchanged_is_not_told_again_and_the_rest_stays_held() {
        let now = Instant::now();
        let before = [entry("environments/a", "1", 4), entry("environments/b", "1", 5)];
        let mut known = known(Some(GRACE), &before);
        known.list(listing(1, &[]), now);

        let back = entry("environments/a", "1", 4);
        let (changes, _) = known.list(listing(10, &[back]), now);
        assert!(changes.is_empty(), "{changes:?}");
        assert_eq!(known.held(), 1, "one that came back does not doom the others");

        known.events(vec![Change::Put(entry("environments/b", "2", 7))], now);
        assert_eq!(known.held(), 0);
        assert!(known.expire(now + GRACE).is_empty());
    }

    #[test]
    fn a_part_that_vanishes_is_believed() {
        let before = [entry("environments/a", "1", 4), entry("environments/b", "1", 5)];
        let mut known = known(Some(GRACE), &before);
        let (changes, vanished) = known.list(listing(10, &before[..1]), Instant::now());
        assert_eq!(
            (texts(&changes), vanished),
            (vec!["delete environments/b".to_owned()], vec![])
        );
    }

    #[test]
    fn of_an_etcd_that_lost_its_data_no_part_is_believed_to_be_gone() {
        let now = Instant::now();
        let before = [
            entry("dns/host", "1", 3),
            entry("environments/a", "1", 4),
            entry("environments/b", "1", 5),
        ];
        let mut known = known(Some(GRACE), &before);
        known.events(vec![Change::Put(entry("environments/b", "2", 12))], now);
        // Its revisions have begun anew, and only one has been registered again so far.
        let again = entry("environments/a", "1", 2);
        let (changes, vanished) = known.list(listing(2, &[again]), now);
        assert_eq!(texts(&changes), ["delete dns/host", "put environments/a"]);
        assert_eq!(
            vanished,
            [Vanished {
                kind: "environments",
                keys: 1,
                partly: true
            }]
        );
        let back = known.events(vec![Change::Put(entry("environments/b", "2", 3))], now);
        assert_eq!(
            (texts(&back), known.held()),
            (vec!["put environments/b".to_owned()], 0)
        );
        // From then on it is believed as ever.
        let (changes, _) = known.list(listing(4, &[entry("environments/a", "1", 2)]), now);
        assert_eq!(texts(&changes), ["delete environments/b"]);
    }

    #[test]
    fn deletes_that_come_as_events_are_believed() {
        let mut known = known(Some(GRACE), &[entry("environments/a", "1", 4)]);
        let changes = known.events(vec![delete("environments/a")], Instant::now());
        assert_eq!(texts(&changes), ["delete environments/a"]);
        let (changes, vanished) = known.list(listing(10, &[]), Instant::now());
        assert!(changes.is_empty() && vanished.is_empty());
    }

    #[test]
    fn after_an_outage_the_end_of_a_leased_key_is_doubted() {
        let now = Instant::now();
        let before = [
            entry("backends/s/1/x", "1", 2),
            entry("backends/s/1/y", "1", 3),
            entry("backends/s/1/z", "1", 4),
            entry("environments/a", "1", 5),
        ];
        let mut known = known(Some(GRACE), &before);
        known.outage_ended(now);
        let (changes, _) = known.list(listing(10, &before[1..]), now);
        assert!(changes.is_empty(), "x ran out while nobody could renew it");
        let ends = vec![delete("backends/s/1/y"), delete("environments/a")];
        let changes = known.events(ends, now);
        assert_eq!(
            texts(&changes),
            ["delete environments/a"],
            "an environment has no lease"
        );
        assert_eq!(known.held(), 2);

        let back = known.events(vec![Change::Put(entry("backends/s/1/y", "1", 9))], now);
        assert_eq!(texts(&back), ["put backends/s/1/y"]);
        let released = known.expire(now + AFTERMATH);
        assert_eq!(texts(&released), ["delete backends/s/1/x"]);
        let later = known.events(vec![delete("backends/s/1/z")], now + AFTERMATH);
        assert_eq!(
            texts(&later),
            ["delete backends/s/1/z"],
            "the outage is long over"
        );
    }

    #[test]
    fn without_doubt_an_outage_changes_nothing() {
        let now = Instant::now();
        let mut known = known(None, &[entry("backends/s/1/x", "1", 2)]);
        known.outage_ended(now);
        let changes = known.events(vec![delete("backends/s/1/x")], now);
        assert_eq!(texts(&changes), ["delete backends/s/1/x"]);
    }
}
