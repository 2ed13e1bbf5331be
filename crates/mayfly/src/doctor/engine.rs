//! What a Docker engine shows: its clock, the containers of this Mayfly and of others, and, by a
//! [`Helper`] in their networks, what services see there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::ListContainersOptionsBuilder;
use mayfly_core::keys::{Daemon, KeySpace};
use mayfly_core::labels::{LAUNCHER, OF, SERVICE, VERSION, is_of_another};
use mayfly_core::records::lifetime::parse_utc;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::docker::{self, failed, found, line, within};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_state::state::State;

use super::Args;
use super::finding::{DoctorCheck, Examination};
use super::helper::Helper;
use super::inside::{self, Surroundings};
use super::probe::{OUTSIDE, ProbeJob};
use super::records::{CLOCKS, Examined, listed};

/// How long one question to the engine may take.
const QUESTION: Duration = Duration::from_secs(20);
/// How long its longest work may take: to store this program.
const WORK: Duration = Duration::from_secs(120);
/// Networks that are looked into at most.
const MOST_NETWORKS: usize = 20;
/// Services whose names are asked for at most: each takes a thread.
const MOST_SERVICES: usize = 100;
/// The domain of services, where no router says another.
const DOMAIN: &str = "service";

/// A running container that is labelled as an instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ServiceContainer {
    id: String,
    name: String,
    labels: BTreeMap<String, String>,
}

impl ServiceContainer {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }

    fn is_of(&self, prefix: &KeySpace) -> bool {
        let labels = self.labels.iter();
        let labels = labels.map(|(name, text)| (name.as_str(), text.as_str()));
        is_of_another(labels, prefix) == Ok(false)
    }

    /// What a finding names.
    fn place(&self) -> String {
        let version = match self.label(VERSION) {
            "" => String::new(),
            version => format!("@{version}"),
        };
        format!("{}{version} (container {})", self.label(SERVICE), self.name)
    }
}

/// Containers that see the same: one of them is looked into.
#[derive(Debug, Default)]
struct Alike {
    id: String,
    places: Vec<String>,
    networks: Vec<String>,
}

/// Looks at everything that an engine shows. Returns whether it came to the end; a shutdown ends
/// it.
pub async fn examine(
    common: &CommonArgs,
    args: &Args,
    state: &State,
    scope: &Examined,
    shutdown: &Shutdown,
    found: &mut Examination,
) -> bool {
    let client = match docker::connect(&args.docker, QUESTION, WORK).await {
        Ok(client) => client,
        Err(error) => {
            let why = format!("no engine answers at {}: {}", args.docker, docker::reason(&error));
            silent(state, &why, found);
            return true;
        }
    };
    let mut helper = None;
    let looked = tokio::select! {
        looked = look(&client, common, args, state, scope, &mut helper, found) => looked,
        () = shutdown.begun() => Ok(()),
    };
    if let Some(helper) = helper {
        helper.clear().await;
    }
    if let Err(error) = looked {
        cannot_look(&format!("{error:#}"), found);
    }
    !shutdown.has_begun()
}

/// There is no engine. That matters where a daemon uses one.
fn silent(state: &State, why: &str, found: &mut Examination) {
    let uses = [Daemon::ContainerLauncher, Daemon::ContainerRegistrar];
    if state.daemons().iter().any(|daemon| uses.contains(&daemon.daemon)) {
        found.cannot(DoctorCheck::Engine, why);
        cannot_look(why, found);
    } else {
        found.notes.push(format!(
            "no container was checked: {why}, and no daemon uses an engine"
        ));
    }
}

fn cannot_look(why: &str, found: &mut Examination) {
    for check in inside::CHECKS {
        found.cannot(check, why);
    }
}

/// Does so; who calls it clears the helper, also when this ends early.
async fn look(
    client: &Docker,
    common: &CommonArgs,
    args: &Args,
    state: &State,
    scope: &Examined,
    helper: &mut Option<Helper>,
    found: &mut Examination,
) -> anyhow::Result<()> {
    clock(client, found).await;
    let all = containers(client).await?;
    several(&all, &common.prefix, found);
    let ours: Vec<&ServiceContainer> = all
        .iter()
        .filter(|one| one.is_of(&common.prefix))
        .filter(|one| {
            scope.is_all
                || scope
                    .services
                    .keys()
                    .any(|name| name.as_str() == one.label(SERVICE))
        })
        .collect();
    elsewhere(scope, &ours, args, found);
    if ours.is_empty() || inside::CHECKS.into_iter().all(|check| found.ignores(check)) {
        return Ok(());
    }
    let mut groups = alike(client, &ours).await?;
    if groups.len() > MOST_NETWORKS {
        let rest: Vec<String> = groups
            .drain(MOST_NETWORKS..)
            .flat_map(|group| group.places)
            .collect();
        let why = format!(
            "only {MOST_NETWORKS} networks are checked; left out: {}",
            listed(&rest)
        );
        cannot_look(&why, found);
    }
    let surroundings = surroundings(state, args).await;
    if scope.services.len() > MOST_SERVICES {
        let why = format!(
            "only the first {MOST_SERVICES} services are looked up: to look up others, name an environment"
        );
        found.cannot(DoctorCheck::Names, why);
    }
    let job = job(common, args, state, scope, &surroundings).await;
    let helper = helper.insert(Helper::bring(client).await?);
    for group in &groups {
        match helper.ask(&group.id, &job).await {
            Ok(answers) => inside::judge(
                &listed(&group.places),
                &group.networks,
                &surroundings,
                &answers,
                found,
            ),
            Err(error) => {
                for check in inside::CHECKS {
                    found.cannot(check, format!("{}: {error:#}", listed(&group.places)));
                }
            }
        }
    }
    Ok(())
}

/// Compares the engine's clock with this host's.
async fn clock(client: &Docker, found: &mut Examination) {
    let before = SystemTime::now();
    let info = match within(QUESTION, client.info()).await {
        Ok(info) => info,
        Err(error) => {
            // deploy/engine-read does not let it through.
            let why = format!("the engine does not report its time: {}", docker::reason(&error));
            found.cannot(DoctorCheck::Clock, why);
            return;
        }
    };
    let Some(time) = info.system_time.as_deref().and_then(parse_utc) else {
        found.cannot(DoctorCheck::Clock, "the engine reports no time");
        return;
    };
    let (ahead, behind) = (
        time.duration_since(SystemTime::now()),
        before.duration_since(time),
    );
    let (by, way) = match (ahead, behind) {
        (Ok(ahead), _) => (ahead, "ahead of"),
        (_, Ok(behind)) => (behind, "behind"),
        _ => return,
    };
    if by > CLOCKS {
        found.push(
            DoctorCheck::Clock,
            format!("engine {}", info.name.unwrap_or_default()),
            format!(
                "the clock of the engine is {} s {way} this host's clock",
                by.as_secs()
            ),
            "let both hosts set their clocks by NTP",
        );
    }
}

async fn containers(client: &Docker) -> anyhow::Result<Vec<ServiceContainer>> {
    let options = ListContainersOptionsBuilder::default()
        .filters(&[("label", vec![SERVICE]), ("status", vec!["running"])].into())
        .build();
    let listed = within(QUESTION, client.list_containers(Some(options))).await;
    let listed = listed.map_err(failed("list the containers of the engine"))?;
    let mut all: Vec<ServiceContainer> = listed
        .into_iter()
        .map(|listed| ServiceContainer {
            id: listed.id.unwrap_or_default(),
            name: listed
                .names
                .iter()
                .flatten()
                .next()
                .map(|name| name.trim_start_matches('/').to_owned())
                .unwrap_or_default(),
            labels: listed.labels.unwrap_or_default().into_iter().collect(),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Several Mayflies on one engine: each registers what does not say whose it is.
fn several(all: &[ServiceContainer], prefix: &KeySpace, found: &mut Examination) {
    let own = prefix.to_string();
    let others: BTreeSet<&str> = all
        .iter()
        .flat_map(|one| [one.label(LAUNCHER), one.label(OF)])
        .filter(|whose| !whose.is_empty() && *whose != own)
        .collect();
    let unsaid: Vec<String> = all
        .iter()
        .filter(|one| one.label(LAUNCHER).is_empty() && one.label(OF).is_empty())
        .map(|one| one.name.clone())
        .collect();
    if others.is_empty() || unsaid.is_empty() {
        return;
    }
    let others: Vec<String> = others.into_iter().map(line).collect();
    found.push(
        DoctorCheck::Engine,
        format!("container {}", listed(&unsaid)),
        format!(
            "the container has no label with the prefix of its Mayfly, and the Mayfly of {} uses this engine, too: both register the container, or set it aside",
            listed(&others)
        ),
        format!("give the container the label {OF}={own}, or this label with the other prefix"),
    );
}

/// Services that are live and have no container here.
fn elsewhere(scope: &Examined, ours: &[&ServiceContainer], args: &Args, found: &mut Examination) {
    let here: BTreeSet<&str> = ours.iter().map(|one| one.label(SERVICE)).collect();
    let away: Vec<String> = scope
        .services
        .iter()
        .filter(|(name, live)| **live && !here.contains(name.as_str()))
        .map(|(name, _)| name.to_string())
        .collect();
    if !away.is_empty() {
        let why = format!(
            "no container of the engine {} runs {}: run doctor again for each other engine, with --docker",
            args.docker,
            listed(&away)
        );
        cannot_look(&why, found);
    }
}

/// Containers, grouped by what decides what they see.
async fn alike(client: &Docker, ours: &[&ServiceContainer]) -> anyhow::Result<Vec<Alike>> {
    let mut groups: BTreeMap<Vec<String>, Alike> = BTreeMap::new();
    for one in ours {
        let inspected = within(QUESTION, client.inspect_container(&one.id, None)).await;
        let inspected = found(inspected).map_err(failed(format!("look at container {}", one.name)))?;
        let Some(inspected) = inspected else { continue };
        let (key, networks) = kind(&inspected);
        let group = groups.entry(key).or_insert_with(|| Alike {
            id: one.id.clone(),
            networks,
            ..Alike::default()
        });
        group.places.push(one.place());
    }
    Ok(groups.into_values().collect())
}

/// What decides which names resolve in a container and what it reaches, and its networks.
fn kind(inspected: &ContainerInspectResponse) -> (Vec<String>, Vec<String>) {
    let settings = inspected.network_settings.clone().unwrap_or_default();
    let mut networks: Vec<String> = settings.networks.unwrap_or_default().into_keys().collect();
    networks.sort();
    let host = inspected.host_config.clone().unwrap_or_default();
    let mode = host.network_mode.filter(|mode| mode.starts_with("container:"));
    let parts = [
        mode.into_iter().collect(),
        networks.clone(),
        host.dns.unwrap_or_default(),
        host.dns_search.unwrap_or_default(),
        host.dns_options.unwrap_or_default(),
        host.extra_hosts.unwrap_or_default(),
    ];
    // One text for each, since two lists must not run into one another.
    (parts.iter().map(|part| part.join(",")).collect(), networks)
}

async fn surroundings(state: &State, args: &Args) -> Surroundings {
    let outside = args.outside.to_string();
    let is_given = outside != OUTSIDE;
    let routers = state.daemons().into_iter();
    let routers = routers.filter(|view| view.daemon == Daemon::HaproxyUpdater);
    Surroundings {
        routers: routers.filter_map(|view| view.address?.parse().ok()).collect(),
        is_expected: is_given || tokio::net::lookup_host((outside.as_str(), 80)).await.is_ok(),
        outside,
    }
}

async fn job(
    common: &CommonArgs,
    args: &Args,
    state: &State,
    scope: &Examined,
    surroundings: &Surroundings,
) -> ProbeJob {
    let domain = state
        .settings()
        .map_or(DOMAIN.to_owned(), |settings| settings.domain.to_string());
    let names = scope.services.keys().take(MOST_SERVICES);
    // Any environment will do: the request names no service.
    let header = args.environment.as_ref().or(scope.environments.keys().next());
    let header = header.and_then(|name| state.index.environment(name));
    let (mut etcd, mut etcd_ports) = (BTreeSet::new(), BTreeSet::new());
    for endpoint in &common.etcd {
        let place = endpoint.host_and_port();
        let port = place
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse::<u16>().ok());
        etcd_ports.extend(port);
        // At its own loopback a container meets itself.
        let is_loopback = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
        if let Ok(addresses) = tokio::net::lookup_host(place).await {
            let addresses: Vec<_> = addresses.collect();
            if !addresses.iter().any(|address| is_loopback(address.ip())) {
                etcd.insert(place.to_owned());
            }
            let others = addresses.iter().filter(|address| !is_loopback(address.ip()));
            etcd.extend(others.map(ToString::to_string));
        }
    }
    ProbeJob {
        names: names.map(|name| format!("{name}.{domain}")).collect(),
        header: header.map_or(String::new(), |environment| environment.header.to_string()),
        outside: surroundings.outside.clone(),
        etcd,
        etcd_ports,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, labels: &[(&str, &str)]) -> ServiceContainer {
        ServiceContainer {
            id: name.to_owned(),
            name: name.to_owned(),
            labels: labels
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn containers_that_two_mayflies_take_are_found() {
        let own = container("own", &[(SERVICE, "a"), (LAUNCHER, "/mayfly")]);
        let unsaid = container("unsaid", &[(SERVICE, "b")]);
        let other = container("other", &[(SERVICE, "c"), (OF, "/other")]);
        let said = container("said", &[(SERVICE, "d"), (OF, "/mayfly")]);
        for (all, faults) in [
            (vec![own.clone(), unsaid.clone(), said.clone()], 0),
            (vec![own.clone(), other.clone(), said.clone()], 0),
            (vec![own, unsaid, other], 1),
        ] {
            let mut found = Examination::default();
            several(&all, &KeySpace::default(), &mut found);
            assert_eq!(found.findings.len(), faults, "{all:?}");
            assert!(found.findings.iter().all(|one| one.place == "container unsaid"));
        }
    }
}
