//! What restoring a dump changes, and in which transactions. Pure: [`super`] carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use mayfly_core::claims::Claim;
use mayfly_core::keys::{Key, Kind};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::ended::ENDS_LAST;
use mayfly_core::records::{Instance, Record};
use serde_json::Value;

use crate::dump::file::DumpedRecord;
use crate::dump::kept::{Contents, KeptEntry};

/// Keys of one transaction: etcd takes 128, or what `--max-txn-ops` says.
const KEYS: usize = 100;
/// Bytes of one transaction: etcd takes 1.5 MiB, or what `--max-request-bytes` says.
const BYTES: usize = 1 << 20;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RestoreAction {
    /// It is in the dump only.
    Create,
    /// It has another value.
    Replace,
    /// It is not in the dump.
    Delete,
    /// It has this value already, a running registrar has an instance there, or it is the history
    /// of an environment that lives although its time in the dump is over.
    Keep,
    /// Its time is over.
    Over,
}

/// What happens to one key.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoreStep {
    pub key: Key,
    pub change: RestoreAction,
    /// The value that the key gets.
    pub value: Vec<u8>,
    /// How long the key lives; for ever where there is nothing.
    pub ttl: Option<Duration>,
    /// The revision at which the key that stands there was put.
    pub before: Option<i64>,
    /// The instance that stands there, if it is one that is deleted.
    pub leaving: Option<Instance>,
    /// What no other environment may claim, or no other instance have, in the same transaction.
    claims: Vec<String>,
}

/// The steps, in their order.
#[derive(Debug, Default)]
pub struct RestorePlan {
    pub steps: Vec<RestoreStep>,
}

impl RestorePlan {
    /// What makes `there` equal to the dump.
    pub fn of(dumped: &[DumpedRecord], there: &Contents, now: SystemTime) -> Self {
        let by_key: BTreeMap<&Key, &KeptEntry> = there.kept.iter().map(|kept| (&kept.key, kept)).collect();
        let mut steps: Vec<RestoreStep> = dumped
            .iter()
            .map(|dumped| {
                let running = there.running.contains(&dumped.key);
                restored(dumped, by_key.get(&dumped.key).copied(), running, now)
            })
            .collect();
        leave_prolonged(&mut steps);
        let wanted: BTreeSet<&Key> = dumped.iter().map(|dumped| &dumped.key).collect();
        // What cannot be read may be a newer Mayfly's: it is left alone.
        let is_surplus = |kept: &&KeptEntry| kept.record.is_some() && !wanted.contains(&kept.key);
        let surplus = there.kept.iter().filter(is_surplus);
        steps.extend(surplus.map(deleted));
        Self { steps }
    }

    /// How many keys of a kind, or of all, change in this way.
    pub fn count(&self, kind: Option<Kind>, change: RestoreAction) -> usize {
        let of_kind = |step: &&RestoreStep| kind.is_none_or(|kind| step.key.kind() == kind);
        let steps = self.steps.iter().filter(of_kind);
        steps.filter(|step| step.change == change).count()
    }

    /// Whether it only adds what is missing.
    pub fn only_adds(&self) -> bool {
        self.count(None, RestoreAction::Replace) + self.count(None, RestoreAction::Delete) == 0
    }

    /// Whether there is nothing to do.
    pub fn is_done(&self) -> bool {
        self.only_adds() && self.count(None, RestoreAction::Create) == 0
    }

    /// The steps that write or delete, in transactions. An environment is in one with its history
    /// and its end: a registrar takes a history without its environment for one that has ended.
    pub fn transactions(&self) -> Vec<Vec<&RestoreStep>> {
        let mut transactions: Vec<Vec<&RestoreStep>> = Vec::new();
        let mut open = Transaction::default();
        for unit in self.units() {
            if !open.takes(&unit) {
                transactions.push(std::mem::take(&mut open).steps);
            }
            open.add(unit);
        }
        transactions.push(open.steps);
        transactions.retain(|transaction| !transaction.is_empty());
        transactions
    }

    /// The steps that write or delete; those about one environment together, at the place of the
    /// first of them. Deletions come last: until then nothing is missing.
    fn units(&self) -> Vec<Vec<&RestoreStep>> {
        let (mut units, mut deletions): (Vec<Vec<&RestoreStep>>, Vec<Vec<&RestoreStep>>) = Default::default();
        let mut places: BTreeMap<(bool, &EnvironmentName), usize> = BTreeMap::new();
        let works = |step: &&RestoreStep| !matches!(step.change, RestoreAction::Keep | RestoreAction::Over);
        // A name with something to write is no deletion as a whole.
        let written: BTreeSet<&EnvironmentName> = self
            .steps
            .iter()
            .filter(|step| works(step) && step.change != RestoreAction::Delete)
            .filter_map(|step| environment_of(&step.key))
            .collect();
        for step in self.steps.iter().filter(works) {
            let name = environment_of(&step.key);
            let deletes =
                step.change == RestoreAction::Delete && !name.is_some_and(|name| written.contains(name));
            let units = if deletes { &mut deletions } else { &mut units };
            match name.and_then(|name| places.get(&(deletes, name))) {
                Some(place) => units[*place].push(step),
                None => {
                    if let Some(name) = name {
                        places.insert((deletes, name), units.len());
                    }
                    units.push(vec![step]);
                }
            }
        }
        units.extend(deletions);
        units
    }
}

/// A transaction that is being filled.
#[derive(Debug, Default)]
struct Transaction<'a> {
    steps: Vec<&'a RestoreStep>,
    bytes: usize,
    claims: BTreeSet<&'a str>,
}

impl<'a> Transaction<'a> {
    /// Whether the steps fit in; into one without any, all do. What is put in one transaction has
    /// one revision, by which rivals could not be told apart.
    fn takes(&self, unit: &[&'a RestoreStep]) -> bool {
        let bytes: usize = unit.iter().map(|step| step.value.len()).sum();
        let mut claims = unit.iter().flat_map(|step| &step.claims);
        self.steps.is_empty()
            || (self.steps.len() + unit.len() <= KEYS
                && self.bytes + bytes <= BYTES
                && !claims.any(|claim| self.claims.contains(claim.as_str())))
    }

    fn add(&mut self, unit: Vec<&'a RestoreStep>) {
        for step in unit {
            self.bytes += step.value.len();
            self.claims.extend(step.claims.iter().map(String::as_str));
            self.steps.push(step);
        }
    }
}

fn environment_of(key: &Key) -> Option<&EnvironmentName> {
    match key {
        Key::Environment(name) | Key::History(name) | Key::Ended(name) => Some(name),
        _ => None,
    }
}

fn restored(dumped: &DumpedRecord, there: Option<&KeptEntry>, running: bool, now: SystemTime) -> RestoreStep {
    let (ttl, over, claims) = match &dumped.record {
        Record::Environment(environment) => {
            let ttl = environment.time_to_live(now);
            let over = ttl.is_some_and(|ttl| ttl.is_zero());
            let claims = Claim::keys_of(environment).map(|claim| claim.to_string());
            (ttl, over, claims.to_vec())
        }
        Record::Ended(_, ended) => {
            let left = ended.at.after(ENDS_LAST).left(now);
            (Some(left), left.is_zero(), Vec::new())
        }
        Record::Instance(_, _, instance) => (None, false, vec![instance.address.to_string()]),
        _ => (None, false, Vec::new()),
    };
    let change = match there {
        Some(there) if is_same(&there.entry.value, &dumped.value) => RestoreAction::Keep,
        _ if running => RestoreAction::Keep,
        _ if over => RestoreAction::Over,
        Some(_) => RestoreAction::Replace,
        None => RestoreAction::Create,
    };
    RestoreStep {
        key: dumped.key.clone(),
        change,
        value: dumped.value.clone(),
        ttl,
        before: there.map(|there| there.entry.mod_revision),
        leaving: None,
        claims,
    }
}

/// Leaves out the history of each environment whose time in the dump is over, but that lives: such
/// as one that was kept after the dump. What was restored would be the history of another life.
fn leave_prolonged(steps: &mut [RestoreStep]) {
    let is_prolonged = |step: &&RestoreStep| step.change == RestoreAction::Over && step.before.is_some();
    let prolonged = steps
        .iter()
        .filter(is_prolonged)
        .filter_map(|step| match &step.key {
            Key::Environment(name) => Some(name.clone()),
            _ => None,
        });
    let prolonged: BTreeSet<EnvironmentName> = prolonged.collect();
    for step in steps {
        if matches!(&step.key, Key::History(name) if prolonged.contains(name)) {
            step.change = RestoreAction::Keep;
        }
    }
}

/// Whether two values say the same. A dump has every value on one line.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let json = |value| serde_json::from_slice::<Value>(value).ok();
    one == other || json(one).is_some_and(|one| json(other) == Some(one))
}

fn deleted(there: &KeptEntry) -> RestoreStep {
    RestoreStep {
        key: there.key.clone(),
        change: RestoreAction::Delete,
        value: Vec::new(),
        ttl: None,
        before: Some(there.entry.mod_revision),
        leaving: match &there.record {
            Some(Record::Instance(_, _, instance)) => Some(instance.clone()),
            _ => None,
        },
        claims: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
