//! The format of a dump: lines of JSON. The first is a [`Header`], which says how many records
//! follow and what their SHA-256 is, so that a file that was cut off or changed is recognised. Each
//! record is `{"key":KEY,"value":VALUE}`; the value has the very bytes that etcd has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, bail, ensure};
use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::records::Record;
use mayfly_core::records::lifetime::Moment;
use mayfly_core::shorten::counted;
use mayfly_daemon::output::printable;
use mayfly_daemon::store::Entry;
use mayfly_daemon::watch::{Change, Stored};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::kept::{Contents, is_kept};

/// The format that this Mayfly writes, and the newest that it reads. It grows when an earlier
/// Mayfly would restore something else than what is meant.
pub const FORMAT: u32 = 1;

/// Longer lines are not looked at: twice the longest value of etcd.
const LINE_LIMIT: usize = 4 << 20;

/// The first line of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format of the file.
    pub mayfly_dump: u32,
    /// The Mayfly that wrote it.
    pub version: String,
    /// The prefix that the keys had.
    pub prefix: String,
    /// The revision of etcd that all records are of.
    pub revision: i64,
    pub at: Moment,
    /// How many records follow.
    pub records: usize,
    /// The SHA-256 of everything behind this line.
    pub sha256: String,
    /// How many keys are not in it, by their kind.
    #[serde(default)]
    pub left_out: BTreeMap<String, usize>,
}

impl Header {
    /// How many records it has.
    pub fn records_in_words(&self) -> String {
        counted(self.records, "record")
    }
}

/// A record of a dump.
#[derive(Debug, Clone, PartialEq)]
pub struct DumpedRecord {
    pub key: Key,
    /// The value as it is.
    pub value: Vec<u8>,
    pub record: Record,
}

/// What only the number of a format says: a newer header may have other fields.
#[derive(Deserialize)]
struct Format {
    mayfly_dump: u32,
    #[serde(default)]
    version: String,
}

/// The text of a dump.
pub fn write(space: &KeySpace, contents: &Contents, at: Moment) -> (Header, String) {
    let mut body = String::new();
    let mut records = 0;
    for kept in contents.kept.iter().filter(|kept| kept.record.is_some()) {
        // Every record is JSON, so its line breaks are nothing but space between two tokens.
        let value = String::from_utf8_lossy(&kept.entry.value).replace(['\n', '\r'], " ");
        let key = relative(space, &kept.key);
        let _ = writeln!(body, r#"{{"key":"{key}","value":{value}}}"#);
        records += 1;
    }
    let header = Header {
        mayfly_dump: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        prefix: space.to_string(),
        revision: contents.revision,
        at,
        records,
        sha256: sha256(&body),
        left_out: contents.left_out.clone(),
    };
    // A header is texts and numbers, which JSON can always hold.
    let first = serde_json::to_string(&header).unwrap_or_default();
    (header, format!("{first}\n{body}"))
}

/// Reads a dump: all of it, or why it cannot be restored.
///
/// # Errors
/// When it is none, was cut off or changed, or has what this Mayfly does not know.
pub fn read(space: &KeySpace, text: &str) -> anyhow::Result<(Header, Vec<DumpedRecord>)> {
    let (first, body) = text.split_once('\n').unwrap_or((text, ""));
    let no_dump = "this is no dump of Mayfly: the first line of a dump begins with `{\"mayfly_dump\":`";
    let format: Format = serde_json::from_str(first).context(no_dump)?;
    let by = match format.version.as_str() {
        "" => "another Mayfly".to_owned(),
        version => format!("Mayfly {}", printable(version)),
    };
    let own = env!("CARGO_PKG_VERSION");
    ensure!(
        (1..=FORMAT).contains(&format.mayfly_dump),
        "the dump was written by {by} in format {}, and Mayfly {own} reads formats up to {FORMAT}: \
         restore the dump with the version that wrote it",
        format.mayfly_dump
    );
    let header: Header = serde_json::from_str(first).context("the header, line 1, is not valid")?;
    let lines = body.lines().count();
    ensure!(
        lines >= header.records && (body.is_empty() || body.ends_with('\n')),
        "the dump was cut off: the header announces {}, but {lines} lines follow the header",
        header.records_in_words()
    );
    ensure!(
        lines == header.records && sha256(body) == header.sha256,
        "the dump was changed after `mayfly dump` wrote it: the SHA-256 of its records differs from the header"
    );
    let mut seen = BTreeSet::new();
    let mut records = Vec::with_capacity(header.records);
    for (number, line) in (2..).zip(body.lines()) {
        let record = record(space, line).with_context(|| {
            format!("Mayfly {own} cannot restore line {number}; the dump was written by {by}")
        })?;
        ensure!(
            seen.insert(record.key.clone()),
            "line {number}: an earlier line has the same key {}",
            relative(space, &record.key)
        );
        records.push(record);
    }
    Ok((header, records))
}

fn record(space: &KeySpace, line: &str) -> anyhow::Result<DumpedRecord> {
    ensure!(
        line.len() <= LINE_LIMIT,
        "the line is longer than {LINE_LIMIT} bytes"
    );
    let parts = line.strip_prefix(r#"{"key":""#).and_then(|rest| {
        let (key, rest) = rest.split_once(r#"","value":"#)?;
        Some((key, rest.strip_suffix('}')?))
    });
    let Some((name, value)) = parts else {
        bail!("a record is a line {{\"key\":KEY,\"value\":VALUE}}");
    };
    let shown = printable(name);
    let key = space
        .parse(&format!("{space}/{name}"))
        .with_context(|| format!("key {shown}"))?;
    ensure!(
        is_kept(key.kind(), false) && relative(space, &key) == name,
        "key {shown}: a dump cannot contain keys of this kind"
    );
    let entry = Entry {
        key: space.text(&key),
        value: value.as_bytes().to_vec(),
        create_revision: 0,
        mod_revision: 0,
        lease: None,
    };
    match Change::of(key.clone(), &entry) {
        Change::Put(Stored { record, .. }) => Ok(DumpedRecord {
            key,
            value: entry.value,
            record,
        }),
        Change::Unreadable(unreadable) => bail!("key {shown}: {}", unreadable.reason),
        Change::Gone(_) => bail!("key {shown}: the key has no value"),
    }
}

/// A key without the prefix.
pub fn relative(space: &KeySpace, key: &Key) -> String {
    let text = space.text(key);
    let below = text.strip_prefix(&format!("{space}/"));
    below.map_or(text.clone(), str::to_owned)
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests;
