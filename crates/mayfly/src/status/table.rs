//! The report as tables.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use mayfly_core::index::ServiceView;
use mayfly_core::keys::Daemon;
use mayfly_core::launching::Launching;
use mayfly_core::lifetime::Moment;
use mayfly_core::records::SetAside;
use mayfly_daemon::output::{Table, printable};

use super::{EnvironmentReport, Report};
use crate::launchers;
use crate::state::DaemonView;

/// Reasons that stand in one cell.
const MOST_REASONS: usize = 3;
/// Entries set aside that are shown.
const MOST_SET_ASIDE: usize = 20;

/// All tables that have something to say.
pub(super) fn text(report: &Report, one: bool, now: SystemTime) -> String {
    let mut parts = Vec::new();
    parts.extend(report.etcd.map(|wrong| format!("{wrong}\n")));
    match report.environments.first() {
        Some(environment) if one => parts.push(services(environment, now)),
        None => parts.push("no environments\n".to_owned()),
        Some(_) => parts.push(environments(report, now)),
    }
    if report.daemons.is_empty() {
        parts.push("no daemon says anything of itself\n".to_owned());
    } else {
        parts.push(daemons(&report.daemons));
    }
    if !one {
        let launching = report.launching.as_ref();
        parts.extend(launching.and_then(|launching| backends(launching, now)));
        parts.extend(set_aside(report));
    }
    parts.join("\n")
}

fn environments(report: &Report, now: SystemTime) -> String {
    let mut table = Table::new(["ENVIRONMENT", "PREFIX", "EXTENDS", "ENDS", "SOURCE", "STATE"]);
    for environment in &report.environments {
        let source = environment.source.as_ref();
        table.row([
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
        ]);
    }
    let mut text = table.render();
    if !report.ended.is_empty() {
        let names: Vec<&str> = report
            .ended
            .iter()
            .take(MOST_SET_ASIDE)
            .map(|name| name.as_str())
            .collect();
        let more = report.ended.len() - names.len();
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        text += &format!("ended: {}{more}\n", names.join(", "));
    }
    text
}

fn services(environment: &EnvironmentReport, now: SystemTime) -> String {
    let view = &environment.view;
    let mut text = format!(
        "{}: {}\nprefix {}, x-mayfly {}, ends: {}\n",
        view.name,
        if view.complete { "complete" } else { "incomplete" },
        environment.prefix,
        environment.header,
        ends(environment, now)
    );
    if let Some(description) = &environment.description {
        text += &format!("{}\n", printable(description));
    }
    if let Some(source) = &environment.source {
        text += &format!("from {} of {}\n", printable(&source.file), source.registrar);
    }
    for reason in environment.reasons.iter().chain(&environment.launcher) {
        text += &format!("- {}\n", printable(reason));
    }
    text += &launchers::outputs(&environment.launching);
    let mut table = Table::new([
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
        table.row([
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
        ]);
    }
    if view.services.is_empty() {
        return text + "\nno services\n";
    }
    text += "\n";
    text += &table.render();
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

/// What a launcher looks after.
fn backends(launching: &Launching, now: SystemTime) -> Option<String> {
    if launching.backends.is_empty() {
        return None;
    }
    let mut table = Table::new(["BACKEND", "LIVE", "FAILURES", "NEXT TRY", "STATE"]);
    for (name, backend) in &launching.backends {
        let next_try = backend.next_try.as_ref().map(|text| match text.parse() {
            Ok::<Moment, _>(moment) => format!("in {}", span(moment.left(now))),
            Err(_) => text.clone(),
        });
        table.row([
            name.clone(),
            format!("{}/{}", backend.live, backend.wanted),
            match backend.failures {
                0 => dash(),
                failures => failures.to_string(),
            },
            next_try.unwrap_or_else(dash),
            backend.phase.to_string(),
        ]);
    }
    let more = match launching.more {
        0 => String::new(),
        more => format!("and {more} more\n"),
    };
    Some(table.render() + &more)
}

/// What a launcher is to the others.
fn lead(daemon: &DaemonView, all: &[DaemonView]) -> Option<String> {
    let role = match daemon.leading? {
        true => "leading".to_owned(),
        false => match all.iter().find(|other| other.leading == Some(true)) {
            Some(leader) => format!("standing by: {} leads", leader.node),
            None => "standing by: none leads".to_owned(),
        },
    };
    Some(match &daemon.guard {
        Some(guard) => format!("{role}, retires nothing: {guard}"),
        None => role,
    })
}

fn daemons(daemons: &[DaemonView]) -> String {
    let mut table = Table::new(["DAEMON", "NODE", "APPLIED", "LAG", "STATE"]);
    for daemon in daemons {
        let lag = match daemon.lag {
            0 => "in step".to_owned(),
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
        }
        let nameless = &daemon.host_names_without_address;
        if let Some(name) = nameless.first() {
            state += &format!(", no address of {name}");
        }
        if nameless.len() > 1 {
            state += &format!(" and {} more", nameless.len() - 1);
        }
        if !daemon.set_aside.is_empty() {
            state += &format!(", {} set aside", daemon.set_aside.len());
        }
        // What follows nothing in etcd has no revision.
        let follows = daemon.daemon != Daemon::ContainerRegistrar.as_str();
        let applied = follows.then(|| (daemon.applied_revision.to_string(), lag));
        let (applied, lag) = applied.unwrap_or_else(|| (dash(), dash()));
        table.row([
            daemon.daemon.to_owned(),
            daemon.node.to_string(),
            applied,
            lag,
            state,
        ]);
    }
    table.render()
}

/// What is set aside that no line of an environment tells: keys that cannot be read, files, and containers.
fn set_aside(report: &Report) -> Option<String> {
    let told = |entry: &&SetAside| {
        let environments = report.environments.iter();
        let mut names = environments.map(|environment| environment.view.name.as_str());
        entry
            .key
            .rsplit_once("/environments/")
            .is_some_and(|(_, key)| names.any(|name| name == key))
    };
    // What routers and DNS updaters set aside is in etcd, and so told already; files, containers and definitions are not.
    let others = report.daemons.iter().filter(|daemon| {
        let routing = [Daemon::HaproxyUpdater, Daemon::DnsUpdater];
        !routing.iter().any(|other| other.as_str() == daemon.daemon)
    });
    let mut seen = BTreeSet::new();
    let all: Vec<&SetAside> = report
        .set_aside
        .iter()
        .chain(others.flat_map(|daemon| &daemon.set_aside))
        .filter(|entry| !told(entry) && seen.insert(*entry))
        .collect();
    if all.is_empty() {
        return None;
    }
    let mut table = Table::new(["SET ASIDE", "REASON"]);
    for entry in all.iter().take(MOST_SET_ASIDE) {
        table.row([entry.key.clone(), entry.reason.clone()]);
    }
    let more = all.len().saturating_sub(MOST_SET_ASIDE);
    let more = if more > 0 {
        format!("and {more} more\n")
    } else {
        String::new()
    };
    Some(table.render() + &more)
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

    #[test]
    fn spans() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (3_661, "1h 1m"), (90_061, "1day 1h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
