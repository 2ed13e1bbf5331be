//! What a daemon reports about keys that it keeps although they vanished from etcd: a part of its
//! status record, which `mayfly status`, `mayfly explain` and `mayfly wait` read.

use serde_json::Value;

use super::{Policy, Trust};
use crate::keys::{Key, KeySpace, Kind};
use crate::records::Status;
use crate::shorten::counted;

/// The fields of a status record's `detail`.
const ALARM: &str = "guard";
const KEYS: &str = "guard_keeps";
const IS_WHOLE: &str = "guard_keeps_all";

/// Keys that a status record names at most.
const MOST: usize = 500;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// How much it is, in words; `None` when nothing is kept.
    pub alarm: Option<String>,
    /// The texts of the keys.
    texts: Vec<String>,
    /// Whether there are more keys.
    has_more: bool,
}

impl Trust {
    /// What counts as lost and is kept.
    pub fn kept(&self, space: &KeySpace) -> Kept {
        // Environments first: `mayfly` tells by them what is only kept, and instances can be many.
        let is_environment = |key: &&Key| key.kind() == Kind::Environment;
        let environments = self.lost().filter(is_environment).take(MOST / 2);
        let others = self.lost().filter(|key| !is_environment(key));
        let texts = environments.chain(others).take(MOST).map(|key| space.text(key));
        let texts: Vec<String> = texts.collect();
        Kept {
            alarm: self.alarm(space),
            has_more: self.lost_count() > texts.len(),
            texts,
        }
    }

    /// How many keys count as lost and are kept.
    pub fn lost_count(&self) -> usize {
        self.lost().count()
    }

    fn alarm(&self, space: &KeySpace) -> Option<String> {
        let first = space.text(self.lost().next()?);
        let lost = |kind: Kind| self.lost().filter(|key| key.kind() == kind).count();
        let kinds = [
            (Kind::Instance, "instance"),
            (Kind::Environment, "environment"),
            (Kind::Router, "router"),
        ];
        let shares = kinds.into_iter().filter(|(kind, _)| lost(*kind) > 0);
        let shares = shares
            .map(|(kind, name)| format!("{} of {}", lost(kind), counted(self.census.count(kind), name)));
        let shares: Vec<String> = shares.collect();
        let what = match shares.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => return None,
        };
        let more = if self.lost().nth(1).is_some() { ", ..." } else { "" };
        let environments = lost(Kind::Environment);
        let until = self
            .policy
            .until_in_words(self.lost_count() - environments, environments);
        Some(format!(
            "{what} vanished from etcd without being deregistered ({first}{more}); {until}"
        ))
    }
}

impl Policy {
    /// What becomes of so many environments and others.
    fn until_in_words(self, others: usize, environments: usize) -> String {
        let window = humantime::format_duration(self.window);
        match (self.has_witness, self.keeps_environments) {
            (true, _) => match (others, environments) {
                (_, 0) => "each instance stays routed while it passes HAProxy's check".to_owned(),
                (0, _) => "each environment stays routed until it is registered again".to_owned(),
                _ => "each instance stays routed while it passes HAProxy's check, and each \
                      environment until it is registered again"
                    .to_owned(),
            },
            (false, true) => match (others, environments) {
                (_, 0) => format!("names that depend on them still resolve for {window}"),
                (0, _) => {
                    "service names of an environment still resolve until it is registered again".to_owned()
                }
                _ => format!(
                    "service names of an environment still resolve until it is registered again, \
                     other names for {window}"
                ),
            },
            (false, false) => {
                format!("the launcher treats them as present for {window}, then as deleted")
            }
        }
    }
}

impl Kept {
    /// What a status record says; nothing where it says nothing.
    pub fn of(status: &Status) -> Self {
        let field = |name: &str| status.detail.get(name);
        let texts = field(KEYS).and_then(Value::as_array).into_iter().flatten();
        let is_whole = field(IS_WHOLE).and_then(Value::as_bool);
        Self {
            alarm: field(ALARM).and_then(Value::as_str).map(str::to_owned),
            texts: texts.filter_map(Value::as_str).map(str::to_owned).collect(),
            has_more: is_whole != Some(true),
        }
    }

    /// Puts it into a status record.
    pub fn put(&self, status: &mut Status) {
        let fields: [(&str, Value); 3] = [
            (ALARM, self.alarm.clone().into()),
            (KEYS, self.texts.clone().into()),
            (IS_WHOLE, (!self.has_more).into()),
        ];
        for (name, value) in fields {
            status.detail.insert(name.to_owned(), value);
        }
    }

    /// The texts of the keys, as far as they are named.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The keys, as far as they are named.
    pub fn keys(&self, space: &KeySpace) -> impl Iterator<Item = Key> {
        self.texts.iter().filter_map(|text| space.parse(text).ok())
    }

    /// Whether such a key may be kept: one is, or not all are named.
    pub fn may_have(&self, space: &KeySpace, is_it: impl Fn(&Key) -> bool) -> bool {
        let is_such = |text: &String| space.parse(text).ok().is_none_or(|key| is_it(&key));
        self.alarm.is_some() && (self.has_more || self.texts.iter().any(is_such))
    }
}
