//! The fields of a mapping by name: unknown ones are refused with the nearest known name, repeated
//! ones at the second.

use super::{Faults, Place};
use crate::nearest::nearest;
use crate::yaml::{Node, Value};

/// The values of the `known` fields of a mapping, in their order; `None` for a field that is
/// missing or says nothing. Everything else in the mapping is a fault; `advice` knows what to say
/// of some fields that people may take for known.
pub(crate) fn of<'n, const N: usize>(
    pairs: &'n [(Node, Node)],
    place: Place<'_>,
    known: [&str; N],
    advice: fn(&str) -> Option<String>,
    faults: &mut Faults,
) -> [Option<&'n Node>; N] {
    let mut values = [None; N];
    let mut lines = [0; N];
    for (key, value) in pairs {
        let Value::Scalar { text, .. } = &key.value else {
            faults.add(
                key.mark,
                place,
                format!(
                    "the name of a field must be a single value: the known fields are {}",
                    list(&known)
                ),
            );
            continue;
        };
        let Some(position) = known.iter().position(|name| name == text) else {
            let message = advice(text).unwrap_or_else(|| unknown(text, &known));
            faults.add(key.mark, place.field(shortened(text)), message);
            continue;
        };
        if lines[position] > 0 {
            let message = format!("the field is repeated: it is already in line {}", lines[position]);
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
        return "merge keys are not supported: write the fields out".to_owned();
    }
    match nearest(text, known) {
        Some(name) => format!("unknown field: did you mean `{name}`?"),
        None => format!("unknown field: the known fields are {}", list(known)),
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
