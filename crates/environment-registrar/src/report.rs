//! What the registrar says of itself: the metrics, and the entries of its status record.

use std::collections::BTreeMap;

use mayfly_core::file::Fault;
use mayfly_core::records::SetAside;
use mayfly_core::yaml::Mark;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::library::Library;
use crate::merge::Merged;
use crate::mirror::Mirror;
use crate::publish::Outcome;

/// Most faults of one environment or definition that an entry tells in full.
const FAULTS: usize = 3;

/// The registrar's own metrics.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    environments: Gauge,
    files: Gauge,
    faults: Gauge,
    puts: Counter,
    deletes: Counter,
}

impl Metrics {
    /// Registers the metrics. Names begin with `mayfly_environment`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let gauges = [
            (
                "mayfly_environments",
                "Environments of this registrar that are to be in etcd",
                &metrics.environments,
            ),
            (
                "mayfly_environment_files",
                "Files in the directory",
                &metrics.files,
            ),
            (
                "mayfly_environment_faults",
                "Faults and clashes in the files",
                &metrics.faults,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "mayfly_environment_puts",
            "Records put into etcd",
            metrics.puts.clone(),
        );
        registry.register(
            "mayfly_environment_deletes",
            "Records deleted from etcd",
            metrics.deletes.clone(),
        );
        metrics
    }

    /// Sets the metrics to the state of things.
    pub fn set(&self, library: &Library, merged: &Merged) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let faults: usize = library
            .faulty()
            .map(|(_, document)| document.faults().len())
            .sum();
        self.environments.set(number(merged.accepted.len()));
        self.files.set(number(library.len()));
        self.faults.set(number(faults + merged.refused.len()));
    }

    /// Counts what was written.
    pub fn count(&self, outcome: &Outcome) {
        self.puts.inc_by(outcome.puts);
        self.deletes.inc_by(outcome.deletes);
    }
}

/// Why what files say is left out, by the file, or by the file and what the fault is about.
#[derive(Debug, Default)]
pub struct Reasons(BTreeMap<String, Vec<String>>);

impl Reasons {
    /// Adds a reason, with its place where there is one.
    pub fn add(&mut self, key: String, mark: Option<Mark>, reason: &str) {
        let place = mark.map(|mark| format!("line {}, column {}: ", mark.line, mark.column));
        let reason = place.unwrap_or_default() + reason;
        self.0.entry(key).or_default().push(reason);
    }

    /// Adds the faults of a file.
    pub fn add_faults(&mut self, file: &str, faults: &[Fault]) {
        for fault in faults {
            let key = fault
                .subject
                .as_ref()
                .map_or_else(|| file.to_owned(), |subject| format!("{file}:{subject}"));
            self.add(key, None, &fault.to_string());
        }
    }

    /// An entry for each key, not too long.
    pub fn entries(self) -> Vec<SetAside> {
        let told = self.0.into_iter().map(|(key, mut reasons)| {
            let more = reasons.len().saturating_sub(FAULTS);
            reasons.truncate(FAULTS);
            if more > 0 {
                reasons.push(format!("and {more} more"));
            }
            SetAside {
                key,
                reason: reasons.join("; "),
            }
        });
        told.collect()
    }
}

/// Every environment that is left out, with the reason: keys are `<file>:<environment>`, `<file>`, or keys of etcd.
pub fn set_aside(library: &Library, merged: &Merged, mirror: &Mirror) -> Vec<SetAside> {
    let mut reasons = Reasons::default();
    for (file, document) in library.faulty() {
        reasons.add_faults(file, document.faults());
    }
    for refusal in &merged.refused {
        let key = format!("{}:{}", refusal.file, refusal.environment);
        reasons.add(key, refusal.mark, &refusal.reason);
    }
    let mut entries = reasons.entries();
    entries.extend(mirror.set_aside());
    entries.sort();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Content, Found};

    #[test]
    fn entries_tell_file_environment_and_reason() {
        let node: mayfly_core::names::NodeName = "us".parse().unwrap();
        let mut library = Library::new(node.clone());
        let mirror = Mirror::new(mayfly_core::keys::KeySpace::default(), node);
        let mut save = |file: &str, text: &str| {
            let content = Content::Octets(text.as_bytes().to_vec());
            library.take(
                file,
                Some(Found {
                    fingerprint: None,
                    content,
                }),
            );
        };
        save(
            "a.yaml",
            "- {name: x, a: 1, b: 2, c: 3, d: 4}\n- {name: y}\n---\n[",
        );
        save("b.yaml", "name: y");
        let merged = crate::merge::merge(
            &library,
            &mirror,
            &Merged::default(),
            crate::merge::Terms {
                now: std::time::SystemTime::now(),
                force: false,
                quota: crate::merge::Quota::default(),
            },
        );
        let entries = set_aside(&library, &merged, &mirror);
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["a.yaml", "a.yaml:x", "b.yaml:y"]);
        assert!(
            entries[1]
                .reason
                .starts_with("line 1, column 13, [0].a: unknown field"),
            "{}",
            entries[1].reason
        );
        assert!(
            entries[1].reason.ends_with("; and 1 more"),
            "{}",
            entries[1].reason
        );
        assert!(
            entries[2].reason.contains("is registered from a.yaml"),
            "{}",
            entries[2].reason
        );
    }
}
