//! Rows as they are beside rows as they should be: both come in nearly the same order, so that half
//! a million are compared in one pass, and only what differs is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use smol_str::SmolStr;

use crate::haproxy::maps::Rows;

/// Keys of one map that may differ, with the values that they have and that they should have.
pub(super) type Differences = BTreeMap<String, (Option<String>, Option<String>)>;

/// Compares `present` with what `each_wanted` shows: every wanted row once, in any order, best in
/// that of the keys.
pub(super) fn differences(
    present: &Rows,
    each_wanted: impl FnOnce(&mut dyn FnMut(&str, &str)),
) -> Differences {
    let mut differences = Differences::new();
    let mut pass = Pass::over(present);
    each_wanted(&mut |key, value| {
        let found = pass.find(key);
        if found.is_none_or(|found| found != value) {
            let found = found.map(SmolStr::to_string);
            differences.insert(key.to_owned(), (found, Some(value.to_owned())));
        }
    });
    for (key, value) in pass.not_found() {
        differences.insert(key.to_string(), (Some(value.to_string()), None));
    }
    differences
}

/// A pass over rows that looks for one key after the other.
struct Pass<'a> {
    present: &'a Rows,
    rest: std::iter::Peekable<std::collections::btree_map::Range<'a, SmolStr, SmolStr>>,
    /// What the pass has gone by without being asked for it.
    passed: BTreeSet<&'a SmolStr>,
}

impl<'a> Pass<'a> {
    fn over(present: &'a Rows) -> Self {
        Self {
            present,
            rest: present
                .range::<str, _>((Bound::Unbounded, Bound::Unbounded))
                .peekable(),
            passed: BTreeSet::new(),
        }
    }

    fn find(&mut self, key: &str) -> Option<&'a SmolStr> {
        while let Some((before, _)) = self.rest.next_if(|(row, _)| row.as_str() < key) {
            self.passed.insert(before);
        }
        if let Some((_, value)) = self.rest.next_if(|(row, _)| row.as_str() == key) {
            return Some(value);
        }
        let (row, value) = self
            .present
            .get_key_value(key)
            .filter(|(row, _)| self.passed.contains(row))?;
        self.passed.remove(row);
        Some(value)
    }

    /// The rows that no look-up has found.
    fn not_found(self) -> impl Iterator<Item = (&'a SmolStr, &'a SmolStr)> {
        let passed = self.passed.into_iter();
        passed
            .filter_map(|key| self.present.get_key_value(key))
            .chain(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_pass_finds_what_a_look_at_each_row_finds(
            present in proptest::collection::btree_map("[a-c]{1,2}[-/]?[a-b]?", "[xy]", 0..12),
            in_any_order in proptest::collection::btree_map("[a-c]{1,2}[-/]?[a-b]?", "[xy]", 0..12)
                .prop_map(Vec::from_iter)
                .prop_shuffle(),
        ) {
            let wanted: BTreeMap<_, _> = in_any_order.iter().cloned().collect();
            let as_read: Rows = present.iter().map(|(key, value)| (key.into(), value.into())).collect();
            let found = differences(&as_read, |show| in_any_order.iter().for_each(|(key, value)| show(key, value)));
            let keys = present.keys().chain(wanted.keys());
            let pairs = keys.map(|key| (key.clone(), (present.get(key).cloned(), wanted.get(key).cloned())));
            let expected: BTreeMap<_, _> = pairs.filter(|(_, (present, wanted))| present != wanted).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
