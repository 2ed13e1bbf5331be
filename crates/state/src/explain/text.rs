//! An explanation for people: its steps as a table, what comes of them, and what needs attention.

use mayfly_core::explain::{Explanation, Responder, Step};
use mayfly_daemon::output::{Look, TextTable, Tone, printable};

use super::ExplainOutput;
use crate::attention;
use crate::launchers;
use crate::state::DaemonView;

/// Where the request ends without an instance, and what is wrong with the routers.
pub(super) fn needs_attention(explanation: &Explanation, routers: &[DaemonView]) -> Vec<String> {
    let mut needed: Vec<String> = dead_end(explanation).map(in_words).into_iter().collect();
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
    match (found, note) {
        (Some(found), _) => format!("{step} {key}: {found}"),
        (None, Some(note)) => format!("no {step} for `{key}`: {note}"),
        (None, None) => format!("no {step} for `{key}`"),
    }
}

/// The steps and what comes of them.
pub(super) fn text(told: &ExplainOutput, look: Look) -> String {
    let ExplainOutput {
        explanation,
        launching,
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
