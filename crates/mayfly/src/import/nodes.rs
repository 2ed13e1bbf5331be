//! The usual forms of a value in a compose file. Another form is a fault with its place.

use super::faults::ComposeFaults;
use super::tree::{ComposeNode, ComposeValue, KeyedNode};

/// A single value.
pub(super) fn text<'n>(node: &'n ComposeNode, place: &str, faults: &mut ComposeFaults) -> Option<&'n str> {
    let text = node.text();
    if text.is_none() {
        faults.add(
            node.spot,
            place,
            format!("{} where there should be a single value", node.kind()),
        );
    }
    text
}

/// A list of single values, or one of them alone.
pub(super) fn texts(node: &ComposeNode, place: &str, faults: &mut ComposeFaults) -> Vec<String> {
    match &node.value {
        ComposeValue::Null => Vec::new(),
        ComposeValue::Map(_) => {
            faults.add(node.spot, place, "a mapping where there should be a list");
            Vec::new()
        }
        _ => {
            let items = node.items().iter();
            items
                .filter_map(|item| text(item, place, faults).map(str::to_owned))
                .collect()
        }
    }
}

/// A mapping of names to single values, as `as_mapping` makes of a list.
pub(super) fn assignments<'n>(
    node: &'n ComposeNode,
    place: &str,
    faults: &mut ComposeFaults,
) -> Vec<(&'n KeyedNode, Option<&'n str>)> {
    let Some(pairs) = node.pairs() else {
        if node.value != ComposeValue::Null {
            let message = format!(
                "{} where there should be a mapping, or a list of NAME=VALUE",
                node.kind()
            );
            faults.add(node.spot, place, message);
        }
        return Vec::new();
    };
    let mut found = Vec::new();
    for pair in pairs {
        match &pair.node.value {
            ComposeValue::Null => found.push((pair, None)),
            ComposeValue::Text(value) => found.push((pair, Some(value.as_str()))),
            _ => {
                let message = format!("{} where there should be a single value", pair.node.kind());
                faults.add(pair.node.spot, format!("{place}.{}", pair.key), message);
            }
        }
    }
    found
}
