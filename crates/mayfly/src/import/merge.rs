//! What two descriptions of one service come to, as compose merges them: of a later file over an
//! earlier one, and of a service over the one that it extends.

use std::collections::BTreeMap;

use super::tree::{ComposeNode, ComposeValue, KeyedNode};

/// Keys that are replaced as a whole, also where both are lists.
const REPLACED: [&str; 3] = ["command", "entrypoint", "test"];
/// Keys that may be a list of `NAME=VALUE` or a mapping.
const ASSIGNMENTS: [&str; 6] = [
    "environment",
    "labels",
    "args",
    "annotations",
    "sysctls",
    "extra_hosts",
];
/// Keys that may be a list of names or a mapping of names.
const NAMES: [&str; 2] = ["networks", "depends_on"];

/// The pairs of `over` over those of `base`.
pub(super) fn merged(base: Vec<KeyedNode>, over: Vec<KeyedNode>) -> Vec<KeyedNode> {
    let mut pairs = base;
    let places: BTreeMap<String, usize> = pairs
        .iter()
        .zip(0..)
        .map(|(it, at)| (it.key.clone(), at))
        .collect();
    for pair in over {
        match places.get(&pair.key).map(|at| &mut pairs[*at]) {
            None => pairs.push(pair),
            Some(before) => {
                let KeyedNode { spot, node, .. } = std::mem::replace(before, pair);
                let over = std::mem::replace(
                    &mut before.node,
                    ComposeNode {
                        spot,
                        value: ComposeValue::Null,
                    },
                );
                before.node = both(&before.key, node, over);
            }
        }
    }
    pairs
}

fn both(key: &str, base: ComposeNode, over: ComposeNode) -> ComposeNode {
    if REPLACED.contains(&key) {
        return over;
    }
    let (base, over) = (as_mapping(key, base), as_mapping(key, over));
    let spot = over.spot;
    let value = match (base.value, over.value) {
        (ComposeValue::Map(base), ComposeValue::Map(over)) => ComposeValue::Map(merged(base, over)),
        (ComposeValue::List(mut base), ComposeValue::List(over)) => {
            base.extend(over);
            ComposeValue::List(base)
        }
        // Nothing says nothing.
        (base, ComposeValue::Null) => base,
        (_, over) => over,
    };
    ComposeNode { spot, value }
}

/// A list as the mapping that it stands for, where the key has both forms.
pub(super) fn as_mapping(key: &str, node: ComposeNode) -> ComposeNode {
    let is_names = NAMES.contains(&key);
    if !is_names && !ASSIGNMENTS.contains(&key) {
        return node;
    }
    let ComposeNode { spot, value } = node;
    let ComposeValue::List(items) = value else {
        return ComposeNode { spot, value };
    };
    // Only texts have the short form: anything else is refused where the key is read.
    if items.iter().any(|item| item.text().is_none()) {
        return ComposeNode {
            spot,
            value: ComposeValue::List(items),
        };
    }
    let pairs = items.into_iter().map(|item| {
        let text = item.text().unwrap_or_default();
        let (name, value) = match text.split_once('=').filter(|_| !is_names) {
            Some((name, value)) => (name.to_owned(), ComposeValue::Text(value.to_owned())),
            None => (text.to_owned(), ComposeValue::Null),
        };
        let spot = item.spot;
        KeyedNode {
            key: name,
            spot,
            node: ComposeNode { spot, value },
        }
    });
    // Of a name that is there twice the last counts.
    let mut last: Vec<KeyedNode> = Vec::new();
    let mut places = BTreeMap::new();
    for pair in pairs {
        match places.get(&pair.key) {
            Some(place) => last[*place] = pair,
            None => {
                places.insert(pair.key.clone(), last.len());
                last.push(pair);
            }
        }
    }
    ComposeNode {
        spot,
        value: ComposeValue::Map(last),
    }
}
