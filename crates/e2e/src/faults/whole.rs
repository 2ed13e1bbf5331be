//! Environments and definitions all of whose parts carry one number, so that half of one shows: in etcd as it is, and as it
//! was at each of its revisions.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::etcd::Etcd;

/// Services of each environment.
const SERVICES: usize = 12;
/// What the names of such environments and definitions begin with.
const PREFIX: &str = "whole-";

/// An environment whose parts all carry this number, as a YAML document.
pub fn environment(name: &str, number: usize) -> String {
    let mut text = format!("---\nname: {PREFIX}{name}\ndescription: '{number}'\nservices:\n");
    for service in 0..SERVICES {
        text += &format!("  - name: service-{service}\n    version: {number}\n");
    }
    text
}

/// The same of a definition.
pub fn definition(name: &str, number: usize) -> String {
    let mut text =
        format!("---\nname: {PREFIX}{name}\nimage: 'team/{name}:{{{{ version }}}}'\nport: 80\nenv:\n");
    for variable in 0..SERVICES {
        text += &format!("  PART_{variable}: {number}\n");
    }
    text
}

/// The number that all parts of a record of etcd carry.
///
/// # Errors
/// When they do not all carry the same one.
pub fn number(key: &str, value: &str) -> Result<usize> {
    let record: Value = serde_json::from_str(value).with_context(|| format!("{key} is not JSON: {value}"))?;
    let text = |part: &Value| part.as_str().map(str::to_owned);
    let mut parts: Vec<Option<String>> = match &record["services"] {
        Value::Array(services) => services.iter().map(|service| text(&service["version"])).collect(),
        _ => record["env"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, part)| text(part))
            .collect(),
    };
    if record["services"].is_array() {
        ensure!(parts.len() == SERVICES, "half of {key}: {value}");
        parts.push(text(&record["description"]));
    }
    ensure!(
        parts.len() >= SERVICES && parts.iter().all(|part| part.is_some() && *part == parts[0]),
        "parts of different versions in {key}: {value}"
    );
    let number = parts.swap_remove(0).context("a number")?;
    number
        .parse()
        .with_context(|| format!("read the number of {key}"))
}

/// The environments and definitions of this kind that etcd has at a revision (0: now), with their numbers. The names of
/// definitions begin with `services/`.
///
/// # Errors
/// When etcd does not answer, or has half of one.
pub async fn at(etcd: &Etcd, revision: i64) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for (kind, shown) in [("environments", ""), ("services", "services/")] {
        let prefix = format!("/mayfly/{kind}/{PREFIX}");
        for (key, value) in etcd.list_at(&prefix, revision).await? {
            let name = key.strip_prefix(&prefix).context("a name")?;
            found.insert(format!("{shown}{name}"), number(&key, &value)?);
        }
    }
    Ok(found)
}

/// Checks that etcd never had half of one since a revision, and always those that `stay`; gives how many different ones it had.
///
/// # Errors
/// With the first revision at which it is not so.
pub async fn since(etcd: &Etcd, first: i64, stay: &[String]) -> Result<usize> {
    let mut seen = HashSet::new();
    for revision in first..=etcd.revision().await? {
        let found = at(etcd, revision).await;
        let found = found.with_context(|| format!("at revision {revision}"))?;
        for name in stay {
            ensure!(found.contains_key(name), "{name} is gone at revision {revision}");
        }
        seen.extend(found);
    }
    Ok(seen.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_one_shows() {
        let record = |version: &str, count: usize| {
            let service = |_| serde_json::json!({"name": "a", "version": version});
            serde_json::json!({"description": "1", "services": (0..count).map(service).collect::<Vec<_>>()})
        };
        assert_eq!(number("k", &record("1", SERVICES).to_string()).unwrap(), 1);
        assert!(number("k", &record("1", SERVICES - 1).to_string()).is_err());
        assert!(number("k", &record("2", SERVICES).to_string()).is_err());
    }
}
