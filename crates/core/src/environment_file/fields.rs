//! The fields of a mapping by name: unknown ones are refused with the nearest known name, repeated ones at the second.

use super::fault::{Faults, Place};
use crate::yaml::{Node, Value};

/// The values of the `known` fields of a mapping, in their order; `None` for a field that is missing or says nothing.
/// Everything else in the mapping is a fault.
pub(super) fn of<'n, const N: usize>(
    pairs: &'n [(Node, Node)],
    place: Place<'_>,
    known: [&str; N],
    faults: &mut Faults,
) -> [Option<&'n Node>; N] {
    let mut values = [None; N];
    let mut lines = [0; N];
    for (key, value) in pairs {
        let Value::Scalar { text, .. } = &key.value else {
            faults.add(key.mark, place, format!("a field has a name: {}", list(&known)));
            continue;
        };
        let Some(position) = known.iter().position(|name| name == text) else {
            faults.add(key.mark, place.field(shortened(text)), unknown(text, &known));
            continue;
        };
        if lines[position] > 0 {
            let message = format!(
                "the field is repeated: it stands in line {} already",
                lines[position]
            );
            faults.add(key.mark, place.field(known[position]), message);
            continue;
        }
        lines[position] = key.mark.line;
        values[position] = Some(value).filter(|value| !value.is_null());
    }
    values
}

fn unknown(text: &str, known: &[&str]) -> String {
    if text == "<<" {
        return "merging is not taken: write the fields out, or use `extends`".to_owned();
    }
    match nearest(text, known) {
        Some(name) => format!("unknown field: did you mean `{name}`?"),
        None => format!("unknown field: known are {}", list(known)),
    }
}

fn list(known: &[&str]) -> String {
    known
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The beginning of a field's name, enough to recognise it.
fn shortened(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(end, _)| &text[..end])
}

/// The known name that differs least, if it differs by so little that it is probably meant.
fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let text = shortened(text).to_lowercase();
    let begins = |name: &&&str| text.len() >= 3 && (name.starts_with(&text) || text.starts_with(**name));
    if let Some(name) = known.iter().find(begins) {
        return Some(name);
    }
    let (least, name) = known.iter().map(|name| (distance(&text, name), *name)).min()?;
    let bearable = if name.len() <= 4 { 1 } else { 2 };
    (least <= bearable).then_some(name)
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour to turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_only_when_near() {
        let known = [
            "name",
            "prefix",
            "header",
            "extends",
            "expires",
            "description",
            "services",
        ];
        for (given, suggested) in [
            ("nmae", Some("name")),
            ("Name", Some("name")),
            ("service", Some("services")),
            ("serivces", Some("services")),
            ("desc", Some("description")),
            ("expiry", Some("expires")),
            ("extend", Some("extends")),
            ("headers", Some("header")),
            ("owner", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, &known), suggested, "{given}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("ab", "abc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }
}
