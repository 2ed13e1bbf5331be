//! What etcd shows: daemons, versions, parents, lost headers. Pure: the caller gives the state and
//! the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use mayfly_core::haproxy_faults;
use mayfly_core::index::EnvironmentView;
use mayfly_core::keys::Daemon;
use mayfly_core::names::{EnvironmentName, ServiceName};
use mayfly_core::records::lifetime::parse_utc;
use mayfly_core::shorten::first_of;
use mayfly_state::attention::trouble;
use mayfly_state::state::{DaemonView, State};

use super::finding::{DoctorCheck, Examination};
use crate::registry::{is_applied, is_local};

/// By how much two clocks may differ. Daemons report with a delay, and a request takes its time.
pub const CLOCKS: Duration = Duration::from_secs(5);
/// Environments that are named at most for one fault.
const MOST_NAMES: usize = 5;

/// What is examined: environments, and the services that they resolve to.
#[derive(Debug, Default)]
pub struct Examined {
    pub environments: BTreeMap<EnvironmentName, EnvironmentView>,
    /// Services that run inside Mayfly, with whether an instance is live.
    pub services: BTreeMap<ServiceName, bool>,
    /// Whether these are all environments.
    pub is_all: bool,
}

impl Examined {
    /// All environments; or one, with those that it extends.
    pub fn of(state: &State, only: Option<&EnvironmentName>) -> Self {
        let views = |name: &EnvironmentName| Some((name.clone(), state.index.view(name)?));
        let environments: BTreeMap<_, _> = match only {
            None => state
                .index
                .environments()
                .filter_map(|environment| views(&environment.name))
                .collect(),
            Some(name) => {
                let parents = state.index.view(name).map(|view| view.parents);
                let parents = parents.unwrap_or_default();
                parents.iter().chain([name]).filter_map(views).collect()
            }
        };
        let mut services: BTreeMap<ServiceName, bool> = BTreeMap::new();
        for service in environments.values().flat_map(|view| &view.services) {
            if !service.outside {
                *services.entry(service.service.clone()).or_default() |= service.live > 0;
            }
        }
        Self {
            environments,
            services,
            is_all: only.is_none(),
        }
    }
}

/// Looks at all that etcd shows.
pub fn examine(state: &State, scope: &Examined, now: SystemTime, found: &mut Examination) {
    let all = state.daemons();
    daemons(&all, found);
    registrars(state, scope, &all, found);
    versions(&all, found);
    notes(&all, found);
    clocks(&all, now, found);
    environments(state, scope, found);
    parents(state, scope, found);
    headers(state, found);
}

/// The name of a daemon as it is reported.
fn name(daemon: &DaemonView) -> String {
    format!("{} of {}", daemon.daemon, daemon.node)
}

fn daemons(all: &[DaemonView], found: &mut Examination) {
    let is_there = |daemon: Daemon| all.iter().any(|view| view.daemon == daemon);
    for (daemon, what, cure) in [
        (
            Daemon::HaproxyUpdater,
            "no haproxy-updater reports, so no change reaches a router",
            "start a haproxy-updater with the same --etcd and --prefix as this command",
        ),
        (
            Daemon::DnsUpdater,
            "no dns-updater reports, so new services get no name",
            "start a dns-updater beside dnsmasq, with the same --etcd and --prefix as this command",
        ),
    ] {
        if !is_there(daemon) {
            found.push(DoctorCheck::Daemons, daemon.as_str(), what, cure);
        }
    }
    let launchers: Vec<bool> = all.iter().filter_map(|daemon| daemon.leading).collect();
    if !launchers.is_empty() && !launchers.contains(&true) {
        found.push(
            DoctorCheck::Daemons,
            Daemon::ContainerLauncher.as_str(),
            "no container-launcher leads, so no version is started",
            "look at the log of a launcher: it names what keeps the launcher from leading",
        );
    }
    for daemon in all {
        // Certificates have a check of their own.
        let others = DaemonView {
            certificate_warnings: 0,
            ..daemon.clone()
        };
        let Some(trouble) = trouble(&others) else {
            continue;
        };
        let detail = daemon.error.as_ref().or(daemon.guard.as_ref());
        let what = match detail {
            Some(detail) => format!("the daemon {trouble}: {detail}"),
            None => format!("the daemon {trouble}"),
        };
        // A router also reports it as its error.
        let is_guard = daemon.error.is_none() || daemon.error == daemon.guard;
        let cure = match (&daemon.guard, daemon.confirmed_by()) {
            (Some(_), Some(confirmed)) if is_guard => {
                format!(
                    "if the loss was intended, run `mayfly confirm {confirmed}`; otherwise register the records again"
                )
            }
            _ => "look at the log of the daemon, and at docs/guides/troubleshooting.md".to_owned(),
        };
        found.push(DoctorCheck::Daemons, name(daemon), what, cure);
    }
}

/// Files that no registrar reads any more.
fn registrars(state: &State, scope: &Examined, all: &[DaemonView], found: &mut Examination) {
    let reporting: BTreeSet<&str> = all
        .iter()
        .filter(|view| view.daemon == Daemon::EnvironmentRegistrar)
        .map(|view| view.node.as_str())
        .collect();
    let mut orphans: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in scope.environments.keys() {
        // What `mayfly apply` and `mayfly local` register has no file that anybody reads.
        let one = state.index.environment(name);
        let one = one.filter(|one| !is_applied(one) && !is_local(one));
        let source = one.and_then(|one| one.source.as_ref());
        if let Some(source) = source.filter(|source| !reporting.contains(source.registrar.as_str())) {
            orphans
                .entry(source.registrar.to_string())
                .or_default()
                .push(name.to_string());
        }
    }
    for (node, names) in orphans {
        found.push(
            DoctorCheck::Daemons,
            format!("environment-registrar of {node}"),
            format!(
                "this registrar does not report, so no registrar reads the files of {}",
                listed(&names)
            ),
            "start the registrar, with the same --node as before",
        );
    }
}

fn versions(all: &[DaemonView], found: &mut Examination) {
    let mut versions: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
    for daemon in all {
        versions
            .entry(daemon.version.as_deref())
            .or_default()
            .push(name(daemon));
    }
    let most = versions.iter().max_by_key(|(_, names)| names.len());
    let Some(most) = most.map(|(version, _)| *version) else {
        return;
    };
    let words = |version: Option<&str>| match version {
        Some(version) => format!("version {version}"),
        None => "a version that does not report its number".to_owned(),
    };
    for (version, names) in versions.into_iter().filter(|(version, _)| *version != most) {
        found.push(
            DoctorCheck::Versions,
            listed(&names),
            format!(
                "the daemon has {}, but most daemons have {}",
                words(version),
                words(most)
            ),
            "upgrade all daemons to one version: docs/guides/upgrading.md",
        );
    }
}

/// What daemons note about HAProxy, dnsmasq, certificates and the archive.
fn notes(all: &[DaemonView], found: &mut Examination) {
    for daemon in all {
        for note in &daemon.notes {
            let (check, cure) = match note {
                _ if daemon.daemon == Daemon::EnvironmentRegistrar => (
                    DoctorCheck::Archive,
                    "give --archive (MAYFLY_ARCHIVE) a directory on a volume or disk",
                ),
                _ if daemon.daemon == Daemon::DnsUpdater => {
                    (DoctorCheck::Daemons, "restart dnsmasq, then dns-updater")
                }
                note if haproxy_faults::is_one(note) => (
                    DoctorCheck::Haproxy,
                    "upgrade HAProxy; Debian 13 has a version without known faults",
                ),
                _ => (
                    DoctorCheck::Certificates,
                    "put a valid certificate into the directory",
                ),
            };
            found.push(check, name(daemon), note, cure);
        }
    }
}

/// A moment of a daemon that is still to come shows that one of two clocks is wrong. (One that has
/// passed shows nothing: a daemon reports only changes.)
fn clocks(all: &[DaemonView], now: SystemTime, found: &mut Examination) {
    for daemon in all {
        let applied = daemon.applied_at.as_deref().and_then(parse_utc);
        let ahead = applied.and_then(|at| at.duration_since(now).ok());
        if let Some(ahead) = ahead.filter(|ahead| *ahead > CLOCKS) {
            found.push(
                DoctorCheck::Clock,
                name(daemon),
                format!(
                    "the clock of the daemon's host is at least {} s ahead of this host's clock",
                    ahead.as_secs()
                ),
                "let both hosts set their clocks by NTP",
            );
        }
    }
}

/// What an environment extends, if that is not there.
fn lost_parent<'a>(state: &'a State, name: &EnvironmentName) -> Option<&'a EnvironmentName> {
    let parent = state.index.environment(name)?.extends.as_ref()?;
    state.index.environment(parent).is_none().then_some(parent)
}

fn environments(state: &State, scope: &Examined, found: &mut Examination) {
    for (name, view) in &scope.environments {
        let lost = lost_parent(state, name).map(|parent| format!("extends {parent}, which does not exist"));
        // The fault of a parent is found there, and that there is none by another check.
        let is_own = |reason: &String| {
            Some(reason) != view.broken_parent.as_ref()
                && !reason.contains("(inherited from ")
                && lost.as_ref().is_none_or(|lost| !reason.starts_with(lost))
        };
        let mut reasons = view.reasons();
        reasons.retain(is_own);
        if !view.complete && !reasons.is_empty() {
            found.push(
                DoctorCheck::Environments,
                name.to_string(),
                format!("the environment is incomplete: {}", listed(&reasons)),
                format!("`mayfly status {name}` shows what the daemons do about this"),
            );
        }
    }
}

/// Whether those that others extend are there, and stay.
fn parents(state: &State, scope: &Examined, found: &mut Examination) {
    let mut heirs: BTreeMap<&EnvironmentName, usize> = BTreeMap::new();
    for (name, view) in &scope.environments {
        if let Some(parent) = lost_parent(state, name) {
            found.push(
                DoctorCheck::Parents,
                name.to_string(),
                format!("the environment extends {parent}, which does not exist"),
                format!("bring the file of {parent} back, from Git or the archive; or correct `extends`"),
            );
        }
        if let Some(first) = view.parents.last() {
            *heirs.entry(first).or_default() += 1;
        }
    }
    for (first, heirs) in heirs {
        let record = state.index.environment(first);
        if record.is_some_and(|record| record.extends.is_none() && !record.protected) {
            let extend = match heirs {
                1 => "1 environment extends".to_owned(),
                heirs => format!("{heirs} environments extend"),
            };
            found.push(
                DoctorCheck::Parents,
                first.to_string(),
                format!("{extend} {first}, which is not protected: deleting the file of {first} breaks what extends {first}"),
                format!("write `protected: true` into the file of {first}"),
            );
        }
    }
}

fn headers(state: &State, found: &mut Examination) {
    for lost in state.lost_headers() {
        let calls = if lost.calls == 1 { "call" } else { "calls" };
        found.push(
            DoctorCheck::Header,
            lost.caller.to_string(),
            format!(
                "the service dropped x-mayfly and baggage in {} {calls} in the last 10 min",
                lost.calls
            ),
            "let the service forward one of the two headers: docs/guides/what-a-service-must-do.md",
        );
    }
    if !found.ignores(DoctorCheck::Header) && state.traffic().backends.is_empty() {
        found.notes.push(
            "header: no router has reported a request in the last 10 min, so doctor cannot check which services forward x-mayfly"
                .to_owned(),
        );
    }
}

/// Names, up to a limit.
pub fn listed(names: &[String]) -> String {
    first_of(names, MOST_NAMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::{Record, SetAsides};
    use mayfly_daemon::watch::{Batch, Change, Stored};
    use serde_json::json;

    fn daemon(node: &str, version: Option<&str>, applied_at: Option<&str>) -> DaemonView {
        DaemonView {
            daemon: Daemon::HaproxyUpdater,
            node: node.parse().unwrap(),
            address: None,
            applied_revision: 1,
            newest_revision: 1,
            lag: 0,
            applied_at: applied_at.map(str::to_owned),
            version: version.map(str::to_owned),
            ready: true,
            error: None,
            leading: None,
            guard: None,
            keeps: Vec::new(),
            host_names_without_address: BTreeSet::new(),
            certificate_warnings: 0,
            notes: Vec::new(),
            set_aside: Vec::new(),
        }
    }

    #[test]
    fn only_a_registrar_of_files_is_missed() {
        let put = |name: &str, registrar: &str| {
            let source = json!({"registrar": registrar, "file": "a.yaml"});
            let record = json!({"name": name, "prefix": name, "header": name, "source": source});
            Change::Put(Stored {
                record: Record::Environment(serde_json::from_value(record).unwrap()),
                revision: 1.into(),
                lease: None,
            })
        };
        let mut state = State::new(&KeySpace::default(), 1);
        state.take(Batch {
            revision: 1,
            listed: true,
            changes: vec![
                put("a", "host-1"),
                put("b", "mayfly_apply.pc"),
                put("c", "mayfly_local.pc"),
            ],
            set_aside: SetAsides::default(),
        });
        let mut found = Examination::default();
        registrars(&state, &Examined::of(&state, None), &[], &mut found);
        let places: Vec<String> = found.findings.into_iter().map(|one| one.place).collect();
        assert_eq!(places, ["environment-registrar of host-1"]);
    }

    #[test]
    fn the_version_of_most_daemons_counts() {
        let places = |versions: &[(&str, Option<&str>)]| {
            let one = |(node, version): &(&str, Option<&str>)| daemon(node, *version, None);
            let mut found = Examination::default();
            super::versions(&versions.iter().map(one).collect::<Vec<_>>(), &mut found);
            let places = found.findings.into_iter().map(|one| one.place);
            places.collect::<Vec<_>>()
        };
        assert_eq!(places(&[]), [""; 0]);
        assert_eq!(places(&[("a", None), ("b", None)]), [""; 0]);
        assert_eq!(places(&[("a", Some("1")), ("b", Some("1"))]), [""; 0]);
        let odd = [
            ("a", Some("0.10.0")),
            ("b", Some("0.9.0")),
            ("c", Some("0.10.0")),
            ("d", None),
        ];
        assert_eq!(places(&odd), ["haproxy-updater of d", "haproxy-updater of b"]);
    }

    #[test]
    fn a_clock_ahead_is_found_beyond_the_delay_of_a_report() {
        let now = parse_utc("2026-11-29T12:00:00Z").unwrap();
        let faults = |at: &str| {
            let mut found = Examination::default();
            clocks(&[daemon("a", None, Some(at))], now, &mut found);
            found.findings.len()
        };
        assert_eq!(faults("2026-11-29T12:00:05.000Z"), 0);
        assert_eq!(faults("2026-11-29T12:00:06.000Z"), 1);
        assert_eq!(faults("2020-01-01T00:00:00.000Z"), 0);
        assert_eq!(faults("nonsense"), 0);
    }
}
