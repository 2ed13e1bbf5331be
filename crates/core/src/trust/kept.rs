//! What a daemon reports about keys that it keeps although they vanished from etcd: a part of its
//! status record, which `mayfly status`, `mayfly explain` and `mayfly wait` read.

use serde_json::Value;

use super::{Policy, Trust};
use crate::keys::{Key, KeySpace, Kind};
use crate::records::Status;

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
        let share = |kind: Kind, name: &str| format!("{} of {} {name}", lost(kind), self.census.count(kind));
        let instances = share(Kind::Instance, "instances");
        let environments = share(Kind::Environment, "environments");
        let what = match lost(Kind::Router) {
            0 => format!("{instances} and {environments}"),
            _ => format!(
                "{instances}, {environments} and {}",
                share(Kind::Router, "routers")
            ),
        };
        let more = if self.lost().nth(1).is_some() { ", ..." } else { "" };
        let until = self.policy.until_in_words();
        Some(format!(
            "{what} vanished from etcd without being deregistered ({first}{more}): {until}"
        ))
    }
}

impl Policy {
    fn until_in_words(self) -> String {
        let window = humantime::format_duration(self.window);
        match (self.has_witness, self.keeps_environments) {
            (true, _) => "they are kept; an instance is kept while it answers HAProxy's check".to_owned(),
            (false, true) => format!(
                "their names are kept: names of environments until the environments are back, \
                 other names for {window}"
            ),
            (false, false) => format!("they are kept for {window} in case they come back"),
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
