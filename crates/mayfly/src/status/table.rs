//! The report as tables.

mod backends;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use mayfly_core::index::ServiceView;
use mayfly_core::keys::Daemon;
use mayfly_core::lost::LostHeader;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::SetAside;
use mayfly_core::shorten::first_of;
use mayfly_daemon::output::{Look, TextTable, Tone, printable};

use mayfly_state::attention::{self, trouble};
use mayfly_state::launchers;
use mayfly_state::report::{EnvironmentReport, Report};
use mayfly_state::state::{DaemonView, FailingView};

/// Reasons that stand in one cell.
const MOST_REASONS: usize = 3;
/// Entries set aside, and instances that a check keeps out, that are shown.
const MOST_SET_ASIDE: usize = 20;

/// All tables that have something to say, and what needs attention.
pub(super) fn text(report: &Report, one: bool, now: SystemTime, look: Look) -> String {
    let mut parts = Vec::new();
    parts.extend(report.etcd.map(|wrong| look.paint(Tone::Bad, wrong) + "\n"));
    match report.environments.first() {
        Some(environment) if one => parts.push(services(environment, now, look)),
        None => parts.push("no environments\n".to_owned()),
        Some(_) => parts.push(environments(report, now, look)),
    }
    if report.daemons.is_empty() {
        parts.push("no daemon reports a status\n".to_owned());
    } else {
        parts.push(daemons(&report.daemons, look));
    }
    parts.extend(unreachable(&report.unreachable, look));
    parts.extend(lost_headers(&report.lost_headers, look));
    let aside = set_aside(report);
    if !one {
        let launching = report.launching.as_ref();
        parts.extend(launching.and_then(|launching| backends::table(launching, now, look)));
        parts.extend(failing(&report.failing, look));
        parts.extend(set_aside_table(&aside, look));
    }
    parts.push(attention::line(report, one, aside.len(), look));
    parts.join("\n")
}

fn environments(report: &Report, now: SystemTime, look: Look) -> String {
    let mut table = TextTable::new(["ENVIRONMENT", "PREFIX", "EXTENDS", "ENDS", "SOURCE", "STATE"]);
    for environment in &report.environments {
        let source = environment.source.as_ref();
        let cells = [
            environment.view.name.to_string(),
            environment.prefix.to_string(),
            environment
                .view
                .parents
                .first()
                .map_or_else(dash, ToString::to_string),
            ends(environment, now),
            source.map_or_else(dash, |source| format!("{} ({})", source.file, source.registrar)),
            // The last, since it can be long.
            state(environment),
        ];
        table.toned_row(tone(environment), cells);
    }
    let mut text = table.render_as(look);
    if !report.ended.is_empty() {
        text += &format!(
            "ended: {}\n",
            first_of(report.ended.iter().map(EnvironmentName::as_str), MOST_SET_ASIDE)
        );
    }
    text
}

fn services(environment: &EnvironmentReport, now: SystemTime, look: Look) -> String {
    let view = &environment.view;
    let complete = if view.complete { "complete" } else { "incomplete" };
    let mut text = format!(
        "{}: {}\nprefix {}, x-mayfly {}, ends: {}\n",
        view.name,
        look.paint(tone(environment), complete),
        environment.prefix,
        environment.header,
        ends(environment, now)
    );
    if let Some(access) = &view.access {
        let whose = match access.of == view.name || access.unknown {
            true => String::new(),
            false => format!(" (inherited from {})", access.of),
        };
        text += &format!("open to {}{whose}\n", access.in_words());
    }
    if let Some(description) = &environment.description {
        text += &format!("{}\n", printable(description));
    }
    if let Some(source) = &environment.source {
        text += &format!("from {} of {}\n", printable(&source.file), source.registrar);
    }
    for reason in environment
        .reasons
        .iter()
        .chain(&environment.launcher)
        .chain(&environment.failing)
    {
        text += &format!("- {}\n", printable(reason));
    }
    text += &launchers::outputs(&environment.launching);
    let mut table = TextTable::new([
        "SERVICE", "VERSION", "ASKED", "FROM", "ROUTES", "LIVE", "DRAINING", "STATE",
    ]);
    for service in &view.services {
        let ServiceView { live, draining, .. } = service;
        let state = match (&service.missing, service.outside) {
            (Some(reason), _) => reason.clone(),
            (None, true) => "outside".to_owned(),
            (None, false) => "ok".to_owned(),
        };
        let origin = service.inherited_from.as_ref();
        let cells = [
            service.service.to_string(),
            service.version.clone().unwrap_or_else(dash),
            // An address is long, and is the version too.
            match service.outside {
                true => "address".to_owned(),
                false => service.selector.clone(),
            },
            origin.map_or_else(|| "own".to_owned(), ToString::to_string),
            Some(service.routes.join(" "))
                .filter(|routes| !routes.is_empty())
                .unwrap_or_else(dash),
            if service.outside { dash() } else { live.to_string() },
            if service.outside {
                dash()
            } else {
                draining.to_string()
            },
            state,
        ];
        table.toned_row(service_tone(service), cells);
    }
    if view.services.is_empty() {
        return text + "\nno services\n";
    }
    text += "\n";
    text += &table.render_as(look);
    for service in view
        .services
        .iter()
        .filter(|service| !service.passed_over.is_empty())
    {
        let (name, selector) = (&service.service, &service.selector);
        let live: Vec<String> = service.passed_over.iter().map(|live| printable(live)).collect();
        text += &format!("no candidates for {name} {selector}: {}\n", live.join("; "));
    }
    text
}

fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        more => format!("and {more} more\n"),
    }
}

/// Who called others without an environment.
fn lost_headers(all: &[LostHeader], look: Look) -> Option<String> {
    if all.is_empty() {
        return None;
    }
    let mut table = TextTable::new(["DROPPED THE HEADER", "CALLS IN 10 MIN"]);
    for LostHeader { caller, calls } in all.iter().take(MOST_SET_ASIDE) {
        table.toned_row(Tone::Bad, [caller.to_string(), calls.to_string()]);
    }
    Some(table.render_as(look) + &and_more(all.len().saturating_sub(MOST_SET_ASIDE)))
}

/// The instances that a check keeps out.
fn failing(all: &[FailingView], look: Look) -> Option<String> {
    if all.is_empty() {
        return None;
    }
    let mut table = TextTable::new(["NOT REGISTERED", "AT", "CONTAINER", "BY", "CHECK"]);
    for FailingView { node, failing } in all.iter().take(MOST_SET_ASIDE) {
        let cells = [
            failing.backend.to_string(),
            failing.address.to_string(),
            failing.container.clone().unwrap_or_else(dash),
            node.to_string(),
            failing.reason.clone(),
        ];
        table.toned_row(Tone::Bad, cells);
    }
    Some(table.render_as(look) + &and_more(all.len().saturating_sub(MOST_SET_ASIDE)))
}

/// What a launcher is to the others.
fn lead(daemon: &DaemonView, all: &[DaemonView]) -> Option<String> {
    let role = match daemon.leading? {
        true => "leading".to_owned(),
        false => match all.iter().find(|other| other.leading == Some(true)) {
            Some(leader) => format!("standing by: {} leads", leader.node),
            None => "standing by: no launcher leads".to_owned(),
        },
    };
    Some(match &daemon.guard {
        Some(guard) => format!("{role}, retires nothing: {guard}"),
        None => role,
    })
}

fn daemons(daemons: &[DaemonView], look: Look) -> String {
    let mut table = TextTable::new(["DAEMON", "NODE", "APPLIED", "LAG", "STATE"]);
    for daemon in daemons {
        let lag = match daemon.lag {
            0 => "in sync".to_owned(),
            1 => "1 revision".to_owned(),
            lag => format!("{lag} revisions"),
        };
        let mut state = match (&daemon.error, daemon.ready) {
            (Some(error), _) => error.clone(),
            (None, true) => "ready".to_owned(),
            (None, false) => "not ready".to_owned(),
        };
        if let Some(lead) = lead(daemon, daemons) {
            state += &format!(", {lead}");
        } else if let Some(guard) = daemon.guard.as_ref().filter(|guard| **guard != state) {
            state += &format!(", {guard}");
        }
        let nameless = &daemon.host_names_without_address;
        if let Some(name) = nameless.first() {
            state += &format!(", no address of {name}");
        }
        if nameless.len() > 1 {
            state += &format!(" and {} more", nameless.len() - 1);
        }
        state += &aside_of(daemon);
        // What follows nothing in etcd has no revision.
        let follows = daemon.daemon != Daemon::ContainerRegistrar;
        let applied = follows.then(|| (daemon.applied_revision.to_string(), lag));
        let (applied, lag) = applied.unwrap_or_else(|| (dash(), dash()));
        let tone = match trouble(daemon) {
            None => Tone::Good,
            Some(_) if daemon.error.is_some() || daemon.guard.is_some() => Tone::Bad,
            Some(_) => Tone::Pending,
        };
        let cells = [
            daemon.daemon.to_string(),
            daemon.node.to_string(),
            applied,
            lag,
            state,
        ];
        table.toned_row(tone, cells);
    }
    table.render_as(look) + &kept(daemons) + &confirmations(daemons) + &notes(daemons)
}

/// How much a daemon sets aside, and of a router what of it is told at the environments: no table
/// has that.
fn aside_of(daemon: &DaemonView) -> String {
    let is_router = daemon.daemon == Daemon::HaproxyUpdater;
    let at_environments = |entry: &&SetAside| is_router && entry.key.contains("/environments/");
    let told = daemon.set_aside.iter().filter(at_environments).count();
    let others = daemon.set_aside.len() - told;
    let mut text = String::new();
    if told > 0 {
        text += &format!(", {told} set aside in environments");
    }
    if others > 0 {
        text += &format!(", {others} set aside");
    }
    text
}

/// The commands that confirm what daemons withhold, each once.
fn confirmations(daemons: &[DaemonView]) -> String {
    let guarded = daemons.iter().filter(|daemon| daemon.guard.is_some());
    let commands: BTreeSet<Daemon> = guarded.filter_map(DaemonView::confirmed_by).collect();
    let line = |daemon: Daemon| format!("if the loss was intended: `mayfly confirm {daemon}`\n");
    commands.into_iter().map(line).collect()
}

/// The keys that are kept although etcd has lost them, each once, and by whom.
fn kept(daemons: &[DaemonView]) -> String {
    let mut by_key: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for daemon in daemons {
        let who = format!("{} of {}", daemon.daemon, daemon.node);
        for key in &daemon.keeps {
            by_key.entry(key).or_default().push(who.clone());
        }
    }
    let more = by_key.len().saturating_sub(MOST_SET_ASIDE);
    let shown = by_key.into_iter().take(MOST_SET_ASIDE);
    let line = |(key, who): (&str, Vec<String>)| format!("kept by {}: {}\n", who.join(", "), printable(key));
    shown.map(line).collect::<String>() + &and_more(more)
}

/// What daemons have to say that is no error, each once, however many say so.
fn notes(daemons: &[DaemonView]) -> String {
    let mut said: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for daemon in daemons {
        for note in &daemon.notes {
            said.entry(note).or_default().push(daemon.node.to_string());
        }
    }
    let line =
        |(note, nodes): (&str, Vec<String>)| format!("note of {}: {}\n", nodes.join(", "), printable(note));
    said.into_iter().map(line).collect()
}

/// What is registered where others do not reach it.
fn unreachable(lines: &[String], look: Look) -> Option<String> {
    let more = lines.len().saturating_sub(MOST_SET_ASIDE);
    let shown = lines.iter().take(MOST_SET_ASIDE);
    let mut text: String = shown
        .map(|line| look.paint(Tone::Bad, &format!("warning: {}", printable(line))) + "\n")
        .collect();
    text += &and_more(more);
    (!text.is_empty()).then_some(text)
}

/// What is set aside that no line of an environment tells: keys that cannot be read, files, and
/// containers.
fn set_aside(report: &Report) -> Vec<&SetAside> {
    let told = |entry: &&SetAside| {
        let environments = report.environments.iter();
        let mut names = environments.map(|environment| environment.view.name.as_str());
        entry
            .key
            .rsplit_once("/environments/")
            .is_some_and(|(_, key)| names.any(|name| name == key))
    };
    // What routers and DNS updaters set aside is in etcd, and so told already; files, containers,
    // definitions, and services whose name a static record takes are not.
    let others = report.daemons.iter().flat_map(|daemon| {
        let is_router = daemon.daemon == Daemon::HaproxyUpdater;
        let is_of_etcd = move |entry: &SetAside| {
            is_router || (daemon.daemon == Daemon::DnsUpdater && entry.key.starts_with('/'))
        };
        daemon.set_aside.iter().filter(move |entry| !is_of_etcd(entry))
    });
    let mut seen = BTreeSet::new();
    report
        .set_aside
        .iter()
        .chain(others)
        .filter(|entry| !told(entry) && seen.insert(*entry))
        .collect()
}

fn set_aside_table(all: &[&SetAside], look: Look) -> Option<String> {
    if all.is_empty() {
        return None;
    }
    let mut table = TextTable::new(["SET ASIDE", "REASON"]);
    for entry in all.iter().take(MOST_SET_ASIDE) {
        table.toned_row(Tone::Bad, [entry.key.clone(), entry.reason.clone()]);
    }
    Some(table.render_as(look) + &and_more(all.len().saturating_sub(MOST_SET_ASIDE)))
}

fn tone(environment: &EnvironmentReport) -> Tone {
    let view = &environment.view;
    let missing = || view.services.iter().filter(|service| service.missing.is_some());
    // What it misses it answers with the version that it had.
    let waits = missing().count() > 0 && missing().all(|service| service.awaited.is_some());
    match view.complete {
        true if environment.reasons.is_empty() => Tone::Good,
        true => Tone::Pending,
        false if view.routed && waits => Tone::Pending,
        false => Tone::Bad,
    }
}

fn service_tone(service: &ServiceView) -> Tone {
    match (&service.missing, &service.awaited) {
        (None, _) => Tone::Good,
        (Some(_), Some(_)) => Tone::Pending,
        (Some(_), None) => Tone::Bad,
    }
}

fn state(environment: &EnvironmentReport) -> String {
    let reasons = &environment.reasons;
    if environment.view.complete && reasons.is_empty() {
        return "complete".to_owned();
    }
    let mut text = reasons[..reasons.len().min(MOST_REASONS)].join("; ");
    if reasons.len() > MOST_REASONS {
        text += &format!("; and {} more", reasons.len() - MOST_REASONS);
    }
    if environment.view.complete {
        text.insert_str(0, "complete, but ");
    }
    text
}

fn ends(environment: &EnvironmentReport, now: SystemTime) -> String {
    if environment.protected {
        return "protected".to_owned();
    }
    let mut parts = Vec::new();
    if let Some(end) = environment.ends_at {
        parts.push(format!("in {}", span(end.left(now))));
    }
    if let Some(idle) = environment.idle {
        parts.push(match environment.idle_until {
            Some(end) => format!("in {} unless used", span(end.left(now))),
            None => format!("after {idle} without use"),
        });
    }
    if parts.is_empty() {
        dash()
    } else {
        parts.join(", ")
    }
}

/// A span as people say it: no seconds where there are hours.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let coarse = match seconds {
        86_400.. => seconds / 3600 * 3600,
        3600.. => seconds / 60 * 60,
        _ => seconds,
    };
    humantime::format_duration(Duration::from_secs(coarse)).to_string()
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(node: &str, notes: &[&str]) -> DaemonView {
        DaemonView {
            daemon: Daemon::HaproxyUpdater,
            node: node.parse().unwrap(),
            address: None,
            applied_revision: 1,
            newest_revision: 1,
            lag: 0,
            applied_at: None,
            version: None,
            ready: true,
            error: None,
            leading: None,
            guard: None,
            keeps: Vec::new(),
            host_names_without_address: BTreeSet::new(),
            certificate_warnings: 0,
            notes: notes.iter().map(ToString::to_string).collect(),
            set_aside: Vec::new(),
        }
    }

    #[test]
    fn spans() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (3_661, "1h 1m"), (90_061, "1day 1h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_is_kept_is_told_once_and_who_keeps_it() {
        let keeping = |name: Daemon, node: &str, keys: &[&str]| DaemonView {
            daemon: name,
            guard: Some("2 vanished".to_owned()),
            keeps: keys.iter().map(ToString::to_string).collect(),
            ..daemon(node, &[])
        };
        let all = [
            keeping(
                Daemon::HaproxyUpdater,
                "a",
                &["/mayfly/environments/x", "/mayfly/environments/y"],
            ),
            keeping(Daemon::DnsUpdater, "a", &["/mayfly/environments/x"]),
        ];
        let told = daemons(&all, Look::default());
        assert_eq!(told.matches("ready, 2 vanished").count(), 2, "{told}");
        assert!(
            told.ends_with(
                "kept by haproxy-updater of a, dns-updater of a: /mayfly/environments/x\n\
                 kept by haproxy-updater of a: /mayfly/environments/y\n\
                 if the loss was intended: `mayfly confirm haproxy-updater`\n"
            ),
            "{told}"
        );
        let launcher = [keeping(Daemon::ContainerLauncher, "a", &[])];
        let told = daemons(&launcher, Look::default());
        assert!(told.ends_with("`mayfly confirm container-launcher`\n"), "{told}");
    }

    #[test]
    fn a_note_of_several_daemons_is_told_once_and_without_control_characters() {
        let all = [
            daemon("a", &["old\u{1b}", "slow"]),
            daemon("b", &["slow"]),
            daemon("c", &[]),
        ];
        let told = notes(&all);
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(
            told.contains("note of a, b: slow\n") && told.contains("note of a: old"),
            "{told}"
        );
        assert!(!told.contains('\u{1b}'), "{told:?}");
        assert!(daemons(&all, Look::default()).ends_with(&told));
    }
    #[test]
    fn what_a_router_sets_aside_of_environments_is_told_there() {
        let aside = |key: &str| SetAside {
            key: key.to_owned(),
            reason: "bad".to_owned(),
        };
        let mut router = daemon("r1", &[]);
        router.set_aside = vec![aside("/mayfly/environments/a"), aside("/mayfly/environments/b")];
        assert_eq!(aside_of(&router), ", 2 set aside in environments");
        router.set_aside.push(aside("/mayfly/backends/a/1/x"));
        assert_eq!(aside_of(&router), ", 2 set aside in environments, 1 set aside");
        router.daemon = Daemon::EnvironmentRegistrar;
        assert_eq!(aside_of(&router), ", 3 set aside");
        router.set_aside.clear();
        assert_eq!(aside_of(&router), "");
    }
}
