//! Environments as Markdown: the comment on a pull request. What comes from outside is in code
//! spans and fenced blocks, in which Markdown and the forges find no links, mentions or HTML.

use std::fmt::Write as _;

use mayfly_core::index::ServiceView;
use mayfly_core::names::{DnsPrefix, EnvironmentName};
use mayfly_core::printable::{printable, printable_lines};
use mayfly_core::records::Environment;
use mayfly_core::shorten::shortened;

use crate::state::State;
use crate::wait::WaitState;

/// Services, reasons, and backends whose output is shown: a forge limits a comment to 64 KiB.
const MOST: usize = 30;
/// Characters of a reason or of the output of a backend.
const LONGEST: usize = 600;

/// A URL of HTTP with one `*` as the first label of its host, which stands for the prefix of an
/// environment.
///
/// # Errors
/// When it is none, with what would be right.
pub fn edge_url(text: &str) -> Result<String, String> {
    let host = ["http://*.", "https://*."]
        .iter()
        .find_map(|begin| text.strip_prefix(begin));
    let is_url = host.is_some_and(|rest| {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"*@\\<>\"".contains(&byte);
        !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(is_plain)
    });
    match is_url {
        true => Ok(text.to_owned()),
        false => Err("a URL whose host begins with `*.`, as https://*.example.com".to_owned()),
    }
}

/// One environment: its link, or why it is not in force.
pub fn one(state: &State, name: &EnvironmentName, edge_url: Option<&str>) -> String {
    let waited = WaitState::of(state, name);
    let environment = state.index.environment(name);
    let place = environment.map(|environment| place(&environment.prefix, edge_url));
    let shown = code(name.as_str());
    let mut text = match (&place, waited.is_ready()) {
        (Some(place), true) => format!("The environment {shown} answers at {place}.\n"),
        (Some(place), false) => format!("The environment {shown} is not in force yet, at {place}:\n\n"),
        (None, _) => format!("The environment {shown} is not registered:\n\n"),
    };
    for reason in waited.reasons.iter().take(MOST) {
        let _ = writeln!(text, "- {}", code(reason));
    }
    text += &more(waited.reasons.len());
    let outputs = waited.launching.iter().filter(|(_, it)| !it.output.is_empty());
    for (backend, launched) in outputs.take(MOST) {
        let _ = write!(
            text,
            "\n{} printed last:\n\n{}",
            code(backend),
            block(&launched.output.join("\n"))
        );
    }
    if let Some(view) = state.index.view(name) {
        text += &services(&view.services);
    }
    if let Some(end) = environment.and_then(end) {
        let _ = write!(text, "\nIt ends {end}.\n");
    }
    text
}

/// All environments, in a table.
pub fn all(state: &State, edge_url: Option<&str>) -> String {
    let mut text = "| environment | answers at | ends | state |\n|---|---|---|---|\n".to_owned();
    for environment in state.index.environments() {
        let reasons = state.index.view(&environment.name).map(|view| view.reasons());
        let reasons = reasons.unwrap_or_default();
        let word = match reasons.first() {
            None => "complete".to_owned(),
            Some(reason) => code(reason),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            code(environment.name.as_str()),
            place(&environment.prefix, edge_url),
            end(environment).unwrap_or_else(|| "-".to_owned()),
            in_cell(&word)
        );
    }
    text
}

/// Where an environment is opened: a link where the domain is known, else its first label.
fn place(prefix: &DnsPrefix, edge_url: Option<&str>) -> String {
    match edge_url {
        Some(url) => format!("<{}>", url.replacen('*', prefix.as_str(), 1)),
        None => code(prefix.as_str()),
    }
}

fn end(environment: &Environment) -> Option<String> {
    let at = environment.ends_at().map(|end| format!("at {end}"));
    let idle = environment.idle;
    let idle = idle.map(|idle| format!("after {idle} without a request"));
    let both: Vec<String> = at.into_iter().chain(idle).collect();
    (!environment.protected && !both.is_empty()).then(|| both.join(", or "))
}

/// The table of an environment's services, its own first.
fn services(all: &[ServiceView]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut text = "\n| service | version | from | state |\n|---|---|---|---|\n".to_owned();
    let (inherited, own): (Vec<_>, Vec<_>) = all.iter().partition(|it| it.inherited_from.is_some());
    for service in own.into_iter().chain(inherited).take(MOST) {
        let state = match (&service.missing, &service.awaited, service.outside) {
            (Some(_), Some(awaited), _) => format!("waits for {}", code(awaited)),
            (Some(_), None, _) => "missing".to_owned(),
            (None, _, true) => "outside".to_owned(),
            (None, _, false) => "ok".to_owned(),
        };
        let origin = service.inherited_from.as_ref();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            code(service.service.as_str()),
            in_cell(&service.version.as_deref().map_or_else(|| "-".to_owned(), code)),
            origin.map_or_else(|| "own".to_owned(), |origin| code(origin.as_str())),
            in_cell(&state)
        );
    }
    text + &more(all.len())
}

fn more(count: usize) -> String {
    match count.saturating_sub(MOST) {
        0 => String::new(),
        more => format!("\nAnd {more} more.\n"),
    }
}

/// A text as a code span of one line.
fn code(text: &str) -> String {
    let text = printable(&shortened(text, LONGEST));
    let fence = fence(&text, 1);
    // A blank at both ends is no part of the span, and parts it from a backtick.
    let blank = if text.contains('`') || text.starts_with(' ') {
        " "
    } else {
        ""
    };
    match text.trim().is_empty() {
        true => "(empty)".to_owned(),
        false => format!("{fence}{blank}{text}{blank}{fence}"),
    }
}

/// Lines as a block of code.
fn block(text: &str) -> String {
    let text = printable_lines(&shortened(text, LONGEST)).replace('\t', " ");
    let fence = fence(&text, 3);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

/// Backticks that do not occur in a text.
fn fence(text: &str, least: usize) -> String {
    let runs = text.split(|letter: char| letter != '`').map(str::len);
    "`".repeat(least.max(runs.max().unwrap_or_default() + 1))
}

/// A bar would end the cell, even in a code span.
fn in_cell(text: &str) -> String {
    text.replace('|', "\u{a6}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::SetAsides;
    use mayfly_daemon::store::Entry;
    use mayfly_daemon::watch::{Batch, Change};

    fn state(records: &[(&str, &str)]) -> State {
        let space = KeySpace::default();
        let changes = records.iter().map(|(key, value)| {
            let key = format!("/mayfly/{key}");
            let parsed = space.parse(&key).unwrap();
            let entry = Entry {
                key,
                value: value.as_bytes().to_vec(),
                create_revision: 1,
                mod_revision: 1,
                lease: None,
            };
            Change::of(parsed, &entry)
        });
        let changes = changes.collect();
        let mut state = State::new(&space, 1);
        state.take(Batch {
            revision: 9,
            listed: true,
            changes,
            set_aside: SetAsides::default(),
        });
        state
    }

    const ROUTER: (&str, &str) = (
        "status/haproxy-updater/one",
        r#"{"applied_revision": 9, "ready": true}"#,
    );

    #[test]
    fn a_comment_has_the_link_or_the_reason() {
        let record = r#"{"name": "pr-1", "prefix": "www-pr-1", "header": "pr-1", "idle": "2days",
            "services": [{"name": "web", "version": "1"}]}"#;
        let live = ("backends/web/1/x", r#"{"address": "10.0.0.1:80"}"#);
        let name = "pr-1".parse().unwrap();
        let url = Some("https://*.example.com:8443/");
        let up = state(&[ROUTER, ("environments/pr-1", record), live]);
        assert_eq!(
            one(&up, &name, url),
            "The environment `pr-1` answers at <https://www-pr-1.example.com:8443/>.\n\n\
             | service | version | from | state |\n|---|---|---|---|\n| `web` | `1` | own | ok |\n\n\
             It ends after 2days without a request.\n"
        );
        let waits = one(&state(&[ROUTER, ("environments/pr-1", record)]), &name, None);
        assert!(
            waits.starts_with(
                "The environment `pr-1` is not in force yet, at `www-pr-1`:\n\n- `no instance of web@1"
            ),
            "{waits}"
        );
        assert!(waits.contains("| `web` | `1` | own | missing |"), "{waits}");
        let table = all(&up, None);
        assert!(
            table.ends_with("| `pr-1` | `www-pr-1` | after 2days without a request | complete |\n"),
            "{table}"
        );
    }

    #[test]
    fn why_a_registrar_refuses_one_is_in_the_comment() {
        let status = r#"{"applied_revision": 9, "ready": true, "set_aside": [
            {"key": "pr-1.yaml:pr-1", "reason": "no room for `@all`\n# x"},
            {"key": "services/pr-1.yaml:pr-1", "reason": "a definition"}]}"#;
        let state = state(&[ROUTER, ("status/environment-registrar/one", status)]);
        let text = one(&state, &"pr-1".parse().unwrap(), None);
        assert_eq!(
            text,
            "The environment `pr-1` is not registered:\n\n- `there is no environment pr-1`\n\
             - `` pr-1.yaml of one is refused: no room for `@all`\\n# x ``\n"
        );
    }

    #[test]
    fn no_text_from_outside_leaves_its_code() {
        for (text, expected) in [
            ("plain", "`plain`"),
            ("a`b", "`` a`b ``"),
            ("``", "``` `` ```"),
            ("`", "`` ` ``"),
            (" x ", "`  x  `"),
            ("", "(empty)"),
            ("a\n\n# b", "`a\\n\\n# b`"),
            ("<b>@all</b>", "`<b>@all</b>`"),
            ("\u{202e}x\u{0}", "`\\u{202e}x\\u{0}`"),
        ] {
            assert_eq!(code(text), expected, "{text:?}");
        }
        assert_eq!(in_cell(&code("a|b\\|c")), "`a\u{a6}b\\\u{a6}c`");
        assert_eq!(block("a\n```\n# b\n"), "````text\na\n```\n# b\n````\n");
        assert_eq!(code(&"x".repeat(9999)).len(), LONGEST + 5);
    }

    #[test]
    fn an_edge_url_has_one_star() {
        assert_eq!(
            edge_url("https://*.example.com/").unwrap(),
            "https://*.example.com/"
        );
        for text in [
            "*.example.com",
            "https://www.example.com",
            "https://*.a*",
            "https://*.a>b",
        ] {
            assert!(
                edge_url(text).unwrap_err().contains("as https://*.example.com"),
                "{text}"
            );
        }
    }
}
