//! The files that `env_file` of a service names, and what they hold.

use std::collections::BTreeMap;

use super::faults::Spot;
use super::project::join;
use super::reading::ReadWith;
use super::tree::{ComposeNode, ComposeValue};
use super::variables::{dotenv, raw_entries};

/// The variables of the files by name, each with its value, if it has one, and where its file is
/// named. Of two files with the same variable, the later one counts.
pub(super) fn entries_of_files(
    node: &ComposeNode,
    place: &str,
    around: &mut ReadWith<'_>,
) -> BTreeMap<String, (Option<String>, Spot)> {
    let items = match &node.value {
        ComposeValue::Map(_) => std::slice::from_ref(node),
        _ => node.items(),
    };
    let mut all = BTreeMap::new();
    for item in items {
        let path = item.text().or_else(|| item.get("path")?.text());
        let Some(path) = path else {
            around
                .faults
                .add(item.spot, place, "the path of a file is missing");
            continue;
        };
        let format = item.get("format").filter(|it| it.value != ComposeValue::Null);
        let is_raw = match format {
            None => false,
            Some(format) if format.text() == Some("raw") => true,
            Some(format) => {
                let shown = format.text().unwrap_or(format.kind());
                let message = format!(
                    "`{shown}` is no format of such a file: write `format: raw`, or leave `format` out"
                );
                around.faults.add(format.spot, format!("{place}.format"), message);
                continue;
            }
        };
        let is_required = item.get("required").and_then(ComposeNode::text) != Some("false");
        let full = join(&around.base(item.spot), path);
        let text = match (around.read)(&full) {
            Ok(Some(text)) => text,
            Ok(None) if !is_required => continue,
            found => {
                let reason = found.err().unwrap_or_else(|| "there is no such file".to_owned());
                around
                    .faults
                    .add(item.spot, place, format!("{}: {reason}", full.display()));
                continue;
            }
        };
        around.interpolation.is_setting = true;
        let entries = match is_raw {
            true => raw_entries(&text),
            false => dotenv(&text, around.variables, around.interpolation),
        };
        match entries {
            Ok(entries) => all.extend(
                entries
                    .into_iter()
                    .map(|(name, value)| (name, (value, item.spot))),
            ),
            Err((line, reason)) => {
                let message = format!("{}:{line}: {reason}", full.display());
                around.faults.add(item.spot, place, message);
            }
        }
    }
    all
}
