//! An explanation for people: its steps as a table, what comes of them, and what needs attention.

use mayfly_core::explain::{Explanation, Responder, Step};
use mayfly_daemon::output::{Look, TextTable, Tone, printable};

use super::{EnvironmentLack, ExplainOutput};
use crate::attention;
use crate::launchers;
use crate::state::DaemonView;

/// Where the request ends without an instance, what its environment lacks, and what is wrong with
/// the routers.
pub(super) fn needs_attention(told: &ExplainOutput, routers: &[DaemonView]) -> Vec<String> {
    let mut needed: Vec<String> = dead_end(&told.explanation).map(in_words).into_iter().collect();
    needed.extend(told.environment.as_ref().map(lacking));
    if routers.is_empty() {
        needed.push("no router reports".to_owned());
    }
    let troubled = routers
        .iter()
        .filter_map(|router| Some((router, attention::trouble(router)?)));
    needed.extend(troubled.map(|(router, what)| format!("router {} {what}", router.node)));
    needed
}

/// The step at which a request ends that no instance answers.
fn dead_end(explanation: &Explanation) -> Option<&Step> {
    let refused = matches!(explanation.answer, Responder::Router { status: 400.., .. });
    explanation.steps.last().filter(|_| refused)
}

fn in_words(
    Step {
        step,
        key,
        found,
        note,
    }: &Step,
) -> String {
    // Of a request without a header there is nothing to look up.
    let of = match key.is_empty() {
        true => String::new(),
        false => format!(" for `{key}`"),
    };
    match (found, note) {
        (Some(found), _) => format!("{step} {key}: {found}"),
        (None, Some(note)) => format!("no {step}{of}: {note}"),
        (None, None) => format!("no {step}{of}"),
    }
}

fn lacking(environment: &EnvironmentLack) -> String {
    let name = &environment.name;
    let what = match environment.complete {
        true => "complete in part",
        false => "incomplete, so calls inside it may fail",
    };
    let more = match environment.reasons.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let first = environment.reasons.first().map_or("", String::as_str);
    format!("{name} is {what}: {first}{more} (`mayfly status {name}`)")
}

/// The steps and what comes of them.
pub(super) fn text(told: &ExplainOutput, look: Look) -> String {
    let ExplainOutput {
        explanation,
        launching,
        environment: _,
    } = told;
    let mut table = TextTable::new(["STEP", "LOOKED UP", "FOUND", "NOTE"]);
    for step in &explanation.steps {
        let tone = match dead_end(explanation) {
            Some(end) if end == step => Tone::Bad,
            _ => Tone::Plain,
        };
        let cells = [
            step.step.to_owned(),
            step.key.clone(),
            step.found.clone().unwrap_or_else(|| "-".to_owned()),
            step.note.clone().unwrap_or_default(),
        ];
        table.toned_row(tone, cells);
    }
    let end = match &explanation.answer {
        Responder::Backend {
            backend,
            environment,
            origin,
            servers,
        } => {
            format!(
                "answered by {backend} in {environment} ({origin}) at {}",
                servers.join(" or ")
            )
        }
        Responder::Router { text, .. } => format!("the router itself answers with {text}"),
    };
    let wanted = explanation.steps.last().map(|step| &step.key);
    let output = launchers::outputs(wanted.zip(launching.as_ref()));
    let tone = match explanation.answer.is_good() {
        true => Tone::Good,
        false => Tone::Bad,
    };
    format!(
        "{}\n{}\n{output}",
        table.render_as(look),
        look.paint(tone, &printable(&end))
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::{Environment, Record, SetAsides};
    use mayfly_daemon::watch::{Batch, Change, Stored};

    use super::*;
    use crate::explain::{ExplainRequest, explain};
    use crate::state::State;

    #[test]
    fn what_was_looked_up_is_named_if_anything_was() {
        let said = |key: &str, note: Option<&str>| {
            in_words(&Step {
                step: "x-mayfly",
                key: key.to_owned(),
                found: None,
                note: note.map(str::to_owned),
            })
        };
        assert_eq!(said("a", Some("why")), "no x-mayfly for `a`: why");
        assert_eq!(said("", Some("why")), "no x-mayfly: why");
        assert_eq!(said("", None), "no x-mayfly");
    }

    #[test]
    fn an_incomplete_environment_needs_attention_although_an_instance_answers() {
        let put = |record: Record| {
            Change::Put(Stored {
                record,
                revision: 1.into(),
                lease: None,
            })
        };
        let environment = |name: &str, fields: serde_json::Value| -> Environment {
            let mut record = serde_json::json!({"name": name, "prefix": name, "header": name});
            let fields = fields.as_object().unwrap().clone();
            record.as_object_mut().unwrap().extend(fields);
            serde_json::from_value(record).unwrap()
        };
        let services = serde_json::json!([
            {"name": "web", "version": "1", "routes": ["/"]}, {"name": "orders", "version": "2"}
        ]);
        let own = serde_json::json!([{"name": "orders", "version": "1"}]);
        let instance = |backend: &str, at: &str| {
            let value = serde_json::json!({"address": at});
            let instance = serde_json::from_value(value).unwrap();
            put(Record::Instance(
                backend.parse().unwrap(),
                at.parse().unwrap(),
                instance,
            ))
        };
        let mut state = State::new(&KeySpace::default(), 1);
        state.take(Batch {
            revision: 1,
            listed: true,
            changes: vec![
                put(Record::Environment(environment(
                    "prod",
                    serde_json::json!({"services": services}),
                ))),
                put(Record::Environment(environment(
                    "temp",
                    serde_json::json!({"extends": "prod", "services": own}),
                ))),
                instance("web@1", "10.0.0.1:80"),
                instance("orders@1", "10.0.0.2:80"),
            ],
            set_aside: SetAsides::default(),
        });
        let said = |host: &str| {
            let asked = ExplainRequest {
                target: host.to_owned(),
                ..ExplainRequest::default()
            };
            let explained = explain(&state, &asked, SystemTime::now()).unwrap();
            assert!(explained.output.explanation.answer.is_good());
            let json = serde_json::to_value(&explained.output).unwrap();
            let needed = needs_attention(&explained.output, &[]);
            (needed[..needed.len() - 1].join("; "), json["environment"].clone())
        };
        let (sentence, json) = said("prod.example.com");
        assert_eq!(
            sentence,
            "prod is incomplete, so calls inside it may fail: no instance of orders@2 is live \
             (`mayfly status prod`)"
        );
        assert_eq!(
            json,
            serde_json::json!({
                "name": "prod", "complete": false, "reasons": ["no instance of orders@2 is live"]
            })
        );
        assert_eq!(said("temp.example.com"), (String::new(), serde_json::Value::Null));
    }
}
