//! The state as JSON: whole, and as what has changed. One pass makes the report of one environment
//! at a time and keeps a hash of it, so the memory does not grow with the length of the JSON.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher as _};
use std::time::{Duration, Instant};

use mayfly_core::names::EnvironmentName;
use mayfly_core::printable::printable_json;
use mayfly_state::report::{LeftOut, ReportBuilder};
use mayfly_state::state::State;
use serde::Serialize;

use crate::live::Facts;
use crate::pieces::{Piece, PieceWriter};

/// The whole state as JSON.
#[derive(Debug, Clone)]
pub struct Whole {
    /// The JSON, on one line.
    pub json: Piece,
    /// The revision of etcd that it shows.
    pub revision: i64,
    /// Differs where the JSON does.
    pub tag: String,
}

/// What was last made of the state.
#[derive(Debug, Default)]
pub struct Rendering {
    /// A hash of the JSON of each environment; `None` before the first pass.
    environments: Option<HashMap<EnvironmentName, u64>>,
    /// A hash of the rest.
    rest: u64,
    whole: Option<Whole>,
    /// How long the last pass took.
    pub cost: Duration,
}

impl Rendering {
    /// The whole, as long as nothing has changed since.
    pub fn whole(&self) -> Option<&Whole> {
        self.whole.as_ref()
    }

    /// Looks at everything, and gives what has changed since the last pass as an event. With
    /// `whole` it makes the whole JSON, too.
    pub fn pass(&mut self, state: &State, facts: &Facts, whole: bool) -> Option<Piece> {
        let begun = Instant::now();
        let reporter = ReportBuilder::new(state, &facts.idle_ends);
        let fields = rest(&reporter, facts);
        let rest = hash(&fields);
        let revision = state.revision;
        let mut writer = whole.then(PieceWriter::new);
        if let Some(writer) = &mut writer {
            writer.text(&format!("{{\"revision\":{revision},{fields},\"environments\":["));
        }
        let known = self.environments.take();
        let mut change = ChangeEvent::new(revision);
        let mut hashes = HashMap::with_capacity(known.as_ref().map_or(0, HashMap::len));
        let mut content = rest;
        for report in reporter.environments() {
            let json = json(&report);
            let hash = hash(&json);
            content = content.rotate_left(1) ^ hash;
            if let Some(writer) = &mut writer {
                if !hashes.is_empty() {
                    writer.text(",");
                }
                writer.text(&json);
            }
            let name = report.view.name;
            if known
                .as_ref()
                .is_some_and(|known| known.get(&name) != Some(&hash))
            {
                change.environment(&json);
            }
            hashes.insert(name, hash);
        }
        let vanished = known.iter().flatten().map(|(name, _)| name);
        let mut gone: Vec<&EnvironmentName> = vanished.filter(|name| !hashes.contains_key(*name)).collect();
        gone.sort();
        let rest_changed = known.is_some() && rest != self.rest;
        let event = change.done(&gone, rest_changed.then_some(&fields));
        (self.environments, self.rest) = (Some(hashes), rest);
        if let Some(mut writer) = writer {
            writer.text("]}");
            self.whole = Some(Whole {
                json: writer.done(),
                revision,
                tag: format!("\"{revision}-{content:016x}\""),
            });
        } else if event.is_some()
            || self
                .whole
                .as_ref()
                .is_some_and(|whole| whole.revision != revision)
        {
            self.whole = None;
        }
        self.cost = begun.elapsed();
        event
    }
}

/// The event for what has changed, as it is written.
struct ChangeEvent {
    revision: i64,
    environments: Option<PieceWriter>,
}

impl ChangeEvent {
    fn new(revision: i64) -> Self {
        Self {
            revision,
            environments: None,
        }
    }

    fn begin(revision: i64) -> PieceWriter {
        let mut writer = PieceWriter::new();
        writer.text(&format!(
            "id: {revision}\nevent: state\ndata: {{\"revision\":{revision},\"environments\":["
        ));
        writer
    }

    fn environment(&mut self, json: &str) {
        match &mut self.environments {
            Some(writer) => {
                writer.text(",");
                writer.text(json);
            }
            None => {
                let mut writer = Self::begin(self.revision);
                writer.text(json);
                self.environments = Some(writer);
            }
        }
    }

    fn done(self, gone: &[&EnvironmentName], rest: Option<&String>) -> Option<Piece> {
        if self.environments.is_none() && gone.is_empty() && rest.is_none() {
            return None;
        }
        let mut writer = self.environments.unwrap_or_else(|| Self::begin(self.revision));
        let mut end = format!("],\"gone\":{}", json(&gone));
        if let Some(fields) = rest {
            let _ = write!(end, ",\"rest\":{{{fields}}}");
        }
        writer.text(&end);
        writer.text("}\n\n");
        Some(writer.done())
    }
}

/// The fields of the report besides the revision and the environments, as JSON without braces.
fn rest(reporter: &ReportBuilder<'_>, facts: &Facts) -> String {
    #[derive(Serialize)]
    struct Beside<'a, T> {
        #[serde(flatten)]
        report: &'a T,
        etcd_unreachable_since: Option<mayfly_core::records::lifetime::Moment>,
        #[serde(skip_serializing_if = "Option::is_none")]
        edge_url: Option<&'a str>,
    }
    let mut report = reporter.report(LeftOut, |_| true);
    (report.revision, report.etcd) = (0, facts.etcd);
    let text = json(&Beside {
        report: &report,
        etcd_unreachable_since: facts.unreachable_since,
        edge_url: facts.edge_url.as_deref(),
    });
    // The revision stands first, and what is beside the environments changes without it.
    let fields = text.strip_prefix("{\"revision\":0,").unwrap_or(&text);
    fields.strip_suffix('}').unwrap_or(fields).to_owned()
}

/// Compact JSON with hidden characters escaped, as `mayfly status --format json` has it.
pub fn json(value: &impl Serialize) -> String {
    // Names, texts and numbers cannot fail to become JSON.
    printable_json(&serde_json::to_string(value).unwrap_or_default())
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::{Record, SetAsides};
    use mayfly_daemon::watch::{Batch, Change, Stored};
    use serde_json::{Value, json};

    fn put(name: &str, description: &str) -> Change {
        let record = json!({"name": name, "prefix": name, "header": name, "description": description});
        Change::Put(Stored {
            record: Record::Environment(serde_json::from_value(record).unwrap()),
            revision: 1.into(),
            lease: None,
        })
    }

    fn text(piece: &Piece) -> String {
        let chunks: Vec<_> = piece.inflate().collect();
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[test]
    fn an_event_has_what_has_changed_and_nothing_else() {
        let mut state = State::new(&KeySpace::default(), 1);
        let mut revision = 0;
        let mut take = |state: &mut State, changes: Vec<Change>| {
            revision += 1;
            state.take(Batch {
                revision,
                listed: false,
                changes,
                set_aside: SetAsides::default(),
            });
        };
        let (mut rendering, mut facts) = (Rendering::default(), Facts::default());
        take(
            &mut state,
            vec![put("a", "1\u{202e}"), put("b", "1"), put("c", "1")],
        );
        assert!(
            rendering.pass(&state, &facts, true).is_none(),
            "nobody knows it yet"
        );
        let whole = rendering.whole().unwrap().clone();
        assert!(whole.tag.starts_with("\"1-") && text(&whole.json).contains("1\\u202e"));
        let read: Value = serde_json::from_str(&text(&whole.json)).unwrap();
        assert_eq!(
            (&read["revision"], read["environments"].as_array().unwrap().len()),
            (&json!(1), 3)
        );
        assert_eq!(read["etcd_unreachable_since"], Value::Null);

        assert!(rendering.pass(&state, &facts, false).is_none());
        assert!(rendering.whole().is_some(), "it is still true");
        let gone = Change::Gone(mayfly_core::keys::Key::Environment("a".parse().unwrap()));
        take(&mut state, vec![gone, put("b", "2"), put("c", "1")]);
        let event = text(&rendering.pass(&state, &facts, false).unwrap());
        let data = event.strip_prefix("id: 2\nevent: state\ndata: ").unwrap();
        let change: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
        assert_eq!(change["gone"], json!(["a"]));
        assert_eq!(change["environments"].as_array().unwrap().len(), 1);
        assert_eq!(change["environments"][0]["description"], "2");
        assert_eq!(change.get("rest"), None, "{change}");
        assert!(rendering.whole().is_none(), "it is no longer true");

        facts.etcd = Some("full");
        let event = text(&rendering.pass(&state, &facts, true).unwrap());
        assert!(
            event.contains("\"environments\":[],\"gone\":[],\"rest\":{\"etcd\":\"full\""),
            "{event}"
        );
        let read: Value = serde_json::from_str(&text(&rendering.whole().unwrap().json)).unwrap();
        assert_eq!(
            (&read["etcd"], &read["environments"][0]["name"]),
            (&json!("full"), &json!("b"))
        );
    }
}
