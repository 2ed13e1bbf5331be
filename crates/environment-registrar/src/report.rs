//! What the registrar reports: metrics, and the entries of its status record.

use std::collections::BTreeMap;

use mayfly_core::file::Fault;
use mayfly_core::records::SetAside;
use mayfly_core::yaml::Mark;
use mayfly_daemon::metrics::{metric, show};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::actual::Actual;
use crate::apply::Applied;
use crate::desired::Desired;
use crate::desired::files::Files;
use crate::resource::Resource;

/// Most faults of one environment or definition that an entry tells in full.
const FAULTS: usize = 3;

/// The registrar's own metrics of one kind of records.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    records: Gauge,
    files: Gauge,
    faults: Gauge,
    puts: Counter,
    deletes: Counter,
}

impl Metrics {
    /// Registers the metrics. Names begin with that of the kind.
    pub fn register<K: Resource>(registry: &mut Registry) -> Self {
        let name = |end: &str| format!("mayfly_{}{end}", K::METRIC);
        let help = |what: &str| format!("{}: {what}", K::NOUN);
        let mut gauge = |end, what| metric(registry, &name(end), &help(what));
        let (records, files, faults) = (
            gauge("s", "of this registrar that should be in etcd"),
            gauge("_files", "files in the directory"),
            gauge("_faults", "faults and conflicts in the files"),
        );
        let mut counter = |end, what| metric(registry, &name(end), &help(what));
        Self {
            records,
            files,
            faults,
            puts: counter("_puts", "records put into etcd"),
            deletes: counter("_deletes", "records deleted from etcd"),
        }
    }

    /// Sets the metrics to the state of things.
    pub fn set<K: Resource>(&self, files: &Files<K>, desired: &impl Desired<K>) {
        let faults = files.faulty().map(|(_, document)| document.faults().len());
        show(&self.records, desired.accepted().len());
        show(&self.files, files.count());
        show(&self.faults, faults.sum::<usize>() + desired.refused().count());
    }

    pub fn count<K: Resource>(&self, outcome: &Applied<K>) {
        self.puts.inc_by(outcome.puts);
        self.deletes.inc_by(outcome.gone().count() as u64);
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
        let entries = self.0.into_iter().map(|(key, mut reasons)| {
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
        entries.collect()
    }
}

/// Every record that is left out, with the reason: keys are `<file>:<name>`, `<file>`, or keys of
/// etcd.
pub fn set_aside<K: Resource>(
    files: &Files<K>,
    desired: &impl Desired<K>,
    actual: &Actual<K>,
) -> Vec<SetAside> {
    let mut reasons = Reasons::default();
    for (file, document) in files.faulty() {
        reasons.add_faults(&format!("{}{file}", K::FOLDER), document.faults());
    }
    for (file, name, mark, reason) in desired.refused() {
        reasons.add(format!("{}{file}:{name}", K::FOLDER), mark, reason);
    }
    let mut entries = reasons.entries();
    entries.extend(desired.latecomers().map(|(name, reason)| SetAside {
        key: actual.text_of(name),
        reason: reason.clone(),
    }));
    entries.extend(actual.set_aside().iter());
    entries.sort();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::merge::Merged;
    use crate::files_in::scan::{Content, FoundFile};

    #[test]
    fn entries_tell_file_environment_and_reason() {
        let node: mayfly_core::names::NodeName = "us".parse().unwrap();
        let mut files = Files::new(node.clone());
        let actual = Actual::new(mayfly_core::keys::KeySpace::default(), node);
        let mut save = |file: &str, text: &str| {
            let content = Content::Bytes(text.as_bytes().to_vec());
            files.update(
                file,
                Some(FoundFile {
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
        let mut merged = Merged::default();
        let terms = crate::desired::Terms {
            now: std::time::SystemTime::now(),
            force: false,
            quota: crate::desired::Quota::default(),
        };
        let changes = crate::changes::Changes::all();
        crate::desired::merge::merge(&mut merged, &files, &actual, &changes, terms);
        let entries = set_aside(&files, &merged, &actual);
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
