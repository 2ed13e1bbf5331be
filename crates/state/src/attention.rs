//! The last line of a report: what needs attention, in one line, or that nothing does.

use mayfly_core::index::EnvironmentView;
use mayfly_core::keys::Daemon;
use mayfly_core::launching::Phase;
use mayfly_core::lost::LostHeader;
use mayfly_core::shorten::first_of;
use mayfly_daemon::output::{Look, Tone, printable};

use crate::report::Report;
use crate::state::DaemonView;

const MOST_NAMES: usize = 3;

/// The line for what was found, `set_aside` of it entries that a table shows.
pub fn line(report: &Report, one: bool, set_aside: usize, look: Look) -> String {
    let mut found = Vec::new();
    found.extend(report.etcd.map(|_| "etcd takes nothing new".to_owned()));
    environments(report, &mut found);
    daemons(&report.daemons, &mut found);
    let unreachable = report.unreachable.len();
    found.extend(counted(
        unreachable,
        "loopback address that others need",
        "loopback addresses that others need",
    ));
    lost_headers(&report.lost_headers, &mut found);
    if !one {
        backends(report, &mut found);
        found.extend(counted(
            report.failing.len(),
            "instance fails its check",
            "instances fail their checks",
        ));
        found.extend(counted(set_aside, "entry is set aside", "entries are set aside"));
    }
    sentence(&found, look)
}

/// What was found, as a line.
pub fn sentence(found: &[String], look: Look) -> String {
    match found {
        [] => look.paint(Tone::Good, "nothing needs attention") + "\n",
        found => {
            look.paint(
                Tone::Bad,
                &printable(&format!("needs attention: {}", found.join("; "))),
            ) + "\n"
        }
    }
}

fn environments(report: &Report, found: &mut Vec<String>) {
    let named = |is_meant: fn(&EnvironmentView) -> bool| -> Vec<&str> {
        let views = report.environments.iter().map(|environment| &environment.view);
        views
            .filter(|view| is_meant(view))
            .map(|view| view.name.as_str())
            .collect()
    };
    let incomplete = named(|view| !view.complete);
    found.extend(listed(
        &incomplete,
        "environment is incomplete",
        "environments are incomplete",
    ));
    let partial = named(|view| view.complete && !view.reasons().is_empty());
    found.extend(listed(
        &partial,
        "environment is complete in part",
        "environments are complete in part",
    ));
}

fn daemons(all: &[DaemonView], found: &mut Vec<String>) {
    if all.is_empty() {
        found.push("no daemon reports".to_owned());
    } else if !all.iter().any(|daemon| daemon.daemon == Daemon::HaproxyUpdater) {
        found.push("no router reports".to_owned());
    }
    let launchers: Vec<bool> = all.iter().filter_map(|daemon| daemon.leading).collect();
    if !launchers.is_empty() && !launchers.contains(&true) {
        found.push("no container-launcher leads".to_owned());
    }
    for daemon in all {
        found.extend(trouble(daemon).map(|what| format!("{} of {} {what}", daemon.daemon, daemon.node)));
    }
}

/// What a daemon reports, the worst of it.
pub fn trouble(daemon: &DaemonView) -> Option<String> {
    let nameless = daemon.host_names_without_address.len();
    Some(match daemon {
        DaemonView { error: Some(_), .. } => "reports an error".to_owned(),
        DaemonView { ready: false, .. } => "is not ready".to_owned(),
        DaemonView {
            guard: Some(_),
            leading: Some(_),
            ..
        } => "retires nothing".to_owned(),
        DaemonView { guard: Some(_), .. } => "keeps what etcd has lost".to_owned(),
        _ if nameless > 0 => format!(
            "has no address of {}",
            counted(nameless, "host name", "host names")?
        ),
        DaemonView {
            certificate_warnings: count @ 1..,
            ..
        } => format!("has {} of certificates", counted(*count, "warning", "warnings")?),
        DaemonView { lag: 1.., .. } => {
            format!("is {} behind", counted(lag(daemon), "revision", "revisions")?)
        }
        _ => return None,
    })
}

fn lag(daemon: &DaemonView) -> usize {
    usize::try_from(daemon.lag).unwrap_or(usize::MAX)
}

fn backends(report: &Report, found: &mut Vec<String>) {
    let launching = report.launching.iter().flat_map(|launching| &launching.backends);
    let stuck =
        launching.filter(|(_, backend)| matches!(backend.phase, Phase::Failed { .. } | Phase::NoDefinition));
    let names: Vec<&str> = stuck.map(|(name, _)| name.as_str()).collect();
    found.extend(listed(&names, "backend does not start", "backends do not start"));
}

fn lost_headers(all: &[LostHeader], found: &mut Vec<String>) {
    found.extend(all.iter().take(MOST_NAMES).map(ToString::to_string));
    let hidden = all.len().saturating_sub(MOST_NAMES);
    found.extend(counted(
        hidden,
        "more service dropped the header",
        "more services dropped the header",
    ));
}

fn counted(count: usize, one: &str, more: &str) -> Option<String> {
    match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {more}")),
    }
}

/// As [`counted`], with the first names.
fn listed(names: &[&str], one: &str, more: &str) -> Option<String> {
    let text = counted(names.len(), one, more)?;
    Some(format!("{text} ({})", first_of(names, MOST_NAMES)))
}

#[cfg(test)]
mod tests {
    use mayfly_core::lost::Caller;

    use super::*;
    use std::collections::BTreeSet;

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

    fn said(all: &[DaemonView]) -> Vec<String> {
        let mut found = Vec::new();
        daemons(all, &mut found);
        found
    }

    #[test]
    fn a_sentence() {
        let look = Look::default();
        assert_eq!(sentence(&[], look), "nothing needs attention\n");
        let found = ["a".to_owned(), "b\u{1b}".to_owned()];
        assert_eq!(sentence(&found, look), "needs attention: a; b\\u{1b}\n");
        let colored = Look {
            color: true,
            width: None,
        };
        assert!(sentence(&[], colored).starts_with("\x1b[32mnothing"));
        assert!(sentence(&found, colored).starts_with("\x1b[1m\x1b[31mneeds"));
    }

    #[test]
    fn who_drops_the_header_is_named_up_to_a_limit() {
        let said = |callers: &[(&str, u64)]| {
            let one = |(backend, calls): &(&str, u64)| LostHeader {
                caller: Caller::at([10, 0, 0, 7].into(), [&backend.parse().unwrap()]).unwrap(),
                calls: *calls,
            };
            let mut found = Vec::new();
            lost_headers(&callers.iter().map(one).collect::<Vec<_>>(), &mut found);
            found
        };
        assert_eq!(said(&[]), [""; 0]);
        assert_eq!(
            said(&[("b@2", 1)]),
            ["b@2 dropped the header in 1 call in the last 10 min"]
        );
        let many = said(&[("a@1", 9), ("b@1", 8), ("c@1", 7), ("d@1", 6), ("e@1", 5)]);
        assert_eq!(many.len(), 4);
        assert_eq!(many[3], "2 more services dropped the header");
    }

    #[test]
    fn names_are_listed_up_to_a_limit() {
        let listed = |names: &[&str]| listed(names, "is", "are").unwrap_or_default();
        assert_eq!(listed(&[]), "");
        assert_eq!(listed(&["a"]), "1 is (a)");
        assert_eq!(listed(&["a", "b", "c"]), "3 are (a, b, c)");
        assert_eq!(listed(&["a", "b", "c", "d", "e"]), "5 are (a, b, c and 2 more)");
    }

    #[test]
    fn daemons_that_need_attention() {
        let router = |change: fn(&mut DaemonView)| {
            let mut view = daemon("r1", &["a note is none"]);
            change(&mut view);
            said(&[view])
        };
        let of = |what: &str| vec![format!("haproxy-updater of r1 {what}")];
        assert_eq!(router(|_| {}), [""; 0]);
        assert_eq!(
            router(|view| view.error = Some("x".to_owned())),
            of("reports an error")
        );
        assert_eq!(router(|view| view.ready = false), of("is not ready"));
        assert_eq!(
            router(|view| view.guard = Some("x".to_owned())),
            of("keeps what etcd has lost")
        );
        assert_eq!(router(|view| view.lag = 1), of("is 1 revision behind"));
        assert_eq!(
            router(|view| view.certificate_warnings = 2),
            of("has 2 warnings of certificates")
        );
        let nameless =
            |view: &mut DaemonView| view.host_names_without_address = ["a.example".parse().unwrap()].into();
        assert_eq!(router(nameless), of("has no address of 1 host name"));
        assert_eq!(said(&[]), ["no daemon reports"]);
        let launcher = |leading| DaemonView {
            daemon: Daemon::ContainerLauncher,
            leading: Some(leading),
            ..daemon("l1", &[])
        };
        assert_eq!(
            said(&[launcher(false)]),
            ["no router reports", "no container-launcher leads"]
        );
        assert_eq!(said(&[launcher(true), daemon("r1", &[])]), [""; 0]);
    }
}
