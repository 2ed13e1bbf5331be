//! The values of fields: a scalar as a checked type, and what is said of one that is something
//! else.

use std::str::FromStr;

use super::{Faults, Place};
use crate::names::NameError;
use crate::yaml::{Mark, Node, Value};

/// A scalar as a checked type, with its place.
pub(crate) fn text<T: FromStr<Err = NameError>>(
    node: &Node,
    place: Place<'_>,
    faults: &mut Faults,
) -> Option<(T, Mark)> {
    let text = scalar(node, place, "a single value", faults)?;
    checked(text.parse(), node.mark, place, faults).map(|value| (value, node.mark))
}

pub(crate) fn checked<T>(
    value: Result<T, NameError>,
    mark: Mark,
    place: Place<'_>,
    faults: &mut Faults,
) -> Option<T> {
    value
        .map_err(|error| faults.add(mark, place, error.to_string()))
        .ok()
}

/// The text of a scalar; `what` says what should be there, if something else is.
pub(crate) fn scalar<'n>(
    node: &'n Node,
    place: Place<'_>,
    what: &str,
    faults: &mut Faults,
) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => {
            faults.add(node.mark, place, wanted(node, what));
            None
        }
    }
}

/// What is there, and what was wanted.
pub(crate) fn wanted(node: &Node, what: &str) -> String {
    let found = match &node.value {
        Value::Refused(reason) => return reason.clone(),
        _ if node.is_null() => "nothing",
        Value::Scalar { .. } => "a single value",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
    };
    format!("{found} where there should be {what}")
}
