//! Environments that had a prefix and have ended, for requests that still come for them. A running
//! environment hides its earlier end; of several ends with one prefix the newest counts.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Index;
use crate::names::{DnsPrefix, EnvironmentName};
use crate::records::ended::{ENDS_LIMIT, Ended};
use crate::routing::Touched;

/// All ends that are recorded.
#[derive(Debug, Default)]
pub(super) struct Ends {
    records: BTreeMap<EnvironmentName, Ended>,
    /// The prefixes, and the environments, that the router reports.
    prefixes: Vec<DnsPrefix>,
    names: Vec<EnvironmentName>,
    stale: bool,
}

impl Ends {
    /// Takes a record, or that there is none any more.
    pub(super) fn set(&mut self, name: &EnvironmentName, ended: Option<Ended>) {
        let before = match ended.clone() {
            Some(ended) => self.records.insert(name.clone(), ended),
            None => self.records.remove(name),
        };
        self.stale |= before != ended;
    }

    /// An environment comes or goes: whether it has ended is to be asked again.
    pub(super) fn concerns(&mut self, name: &EnvironmentName) {
        self.stale |= self.records.contains_key(name);
    }
}

impl Index {
    /// How an environment ended, if it has and that is recorded.
    pub fn ended(&self, name: &EnvironmentName) -> Option<&Ended> {
        let ended = self.ends.records.get(name)?;
        (!self.environments.contains_key(name)).then_some(ended)
    }

    /// Chooses the rows again: ends are few, and come seldom.
    pub(super) fn settle_ends(&mut self, touched: &mut Touched) {
        if !std::mem::take(&mut self.ends.stale) {
            return;
        }
        let over = self.ends.records.iter();
        let mut over: Vec<_> = over
            .filter(|(name, _)| !self.environments.contains_key(*name))
            .collect();
        over.sort_by_key(|(name, ended)| Reverse((ended.at, *name)));
        let mut newest: BTreeMap<&DnsPrefix, (&EnvironmentName, &Ended)> = BTreeMap::new();
        over.truncate(ENDS_LIMIT);
        let names: BTreeMap<_, _> = over.iter().copied().collect();
        for name in self.ends.names.iter().filter(|name| !names.contains_key(name)) {
            self.routing.set_ended_name(name, None, touched);
        }
        for (name, ended) in &names {
            self.routing.set_ended_name(name, Some(ended), touched);
        }
        for (name, ended) in over {
            newest.entry(&ended.prefix).or_insert((name, ended));
        }
        for prefix in self.ends.prefixes.iter().filter(|it| !newest.contains_key(it)) {
            self.routing.set_ended(prefix, None, touched);
        }
        for (prefix, (name, ended)) in &newest {
            let ended = ((*name).clone(), (*ended).clone());
            self.routing.set_ended(prefix, Some(ended), touched);
        }
        let names = names.into_keys().cloned().collect();
        self.ends.prefixes = newest.into_keys().cloned().collect();
        self.ends.names = names;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{gone_text, put_text};
    use crate::routing::Table;

    fn put(index: &mut Index, key: &str, value: &str) {
        put_text(index, &format!("/mayfly/{key}"), value, 1);
    }

    fn end(index: &mut Index, name: &str, prefix: &str, second: usize) {
        let at = format!(
            "2030-01-31T{:02}:{:02}:{:02}Z",
            second / 3600,
            second / 60 % 60,
            second % 60
        );
        let value = format!(r#"{{"prefix": "{prefix}", "at": "{at}", "why": "idle"}}"#);
        put(index, &format!("ended/{name}"), &value);
    }

    fn row(index: &mut Index, prefix: &str) -> Option<String> {
        index.resolve();
        let (name, ended) = index.routing().ended(&prefix.parse().unwrap())?;
        Some(format!("{name}, {} at {}", ended.why, ended.at))
    }

    #[test]
    fn the_newest_end_of_a_prefix_counts_until_the_environment_is_back() {
        let mut index = Index::default();
        end(&mut index, "b", "www", 2);
        end(&mut index, "a", "www", 1);
        assert_eq!(
            row(&mut index, "www").as_deref(),
            Some("b, idle at 2030-01-31T00:00:02Z")
        );
        put(
            &mut index,
            "environments/b",
            r#"{"name": "b", "prefix": "elsewhere", "header": "b"}"#,
        );
        assert_eq!(
            row(&mut index, "www").as_deref(),
            Some("a, idle at 2030-01-31T00:00:01Z")
        );
        assert_eq!(index.ended(&"b".parse().unwrap()), None);
        gone_text(&mut index, "/mayfly/environments/b");
        gone_text(&mut index, "/mayfly/ended/a");
        assert_eq!(
            row(&mut index, "www").as_deref(),
            Some("b, idle at 2030-01-31T00:00:02Z")
        );
        gone_text(&mut index, "/mayfly/ended/b");
        assert_eq!(row(&mut index, "www"), None);
    }

    #[test]
    fn as_many_as_a_router_keeps_are_the_newest_ones() {
        let mut index = Index::default();
        for number in 0..=ENDS_LIMIT {
            end(&mut index, &format!("e{number}"), &format!("p{number}"), number);
        }
        assert_eq!(row(&mut index, "p0"), None);
        assert_eq!(index.routing().count(Table::Ended), ENDS_LIMIT);
        gone_text(&mut index, &format!("/mayfly/ended/e{ENDS_LIMIT}"));
        assert!(row(&mut index, "p0").is_some());
    }

    #[test]
    fn what_is_no_record_of_an_end_is_set_aside() {
        let mut index = Index::default();
        for value in [
            "{}",
            r#"{"prefix": "a b", "at": "2030-01-31T00:00:00Z", "why": "idle"}"#,
            r#"{"prefix": "a", "at": "soon", "why": "idle"}"#,
        ] {
            put(&mut index, "ended/a", value);
            index.resolve();
            assert_eq!(index.set_aside().len(), 1, "{value}");
            assert_eq!(index.routing().count(Table::Ended), 0, "{value}");
        }
    }
}
