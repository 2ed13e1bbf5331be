//! Reads what the engine says about a container: what is to be registered, or why it is not. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, HealthStatusEnum, NetworkSettings,
};
use mayfly_core::failing;
use mayfly_core::keys::KeySpace;
use mayfly_core::labels::{self, Labelled};
use mayfly_core::locality::only_here;
use mayfly_core::records::lifetime;

/// The names of signals that may stop a container, with their numbers on Linux.
const SIGNALS: [(&str, u32); 11] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("WINCH", 28),
    ("PWR", 30),
];
/// The longest stop timeout that counts, in seconds. Below 0, an engine waits for ever.
const MOST_STOP_TIMEOUT: u64 = 24 * 60 * 60;
/// The real-time signals, the first and the last as RTMIN and RTMAX.
const REAL_TIME: RangeInclusive<u32> = 34..=64;
const KILL: u32 = 9;
const TERM: u32 = 15;

/// Which of a container's addresses counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// The one on its only network.
    Directly,
    /// The one on this network.
    Network(String),
    /// The host's, at a published port.
    Published {
        /// The host's address was given and is a loopback address: ports that are published there
        /// count, too.
        at_loopback: bool,
    },
}

/// What the engine says of a container, and of those whose network it shares.
#[derive(Debug, Clone)]
pub struct Inspected {
    pub container: ContainerInspectResponse,
    /// The container whose network it shares (`network_mode: service:x`), the one whose network
    /// that one shares, and so on, as far as they exist.
    pub owners: Vec<ContainerInspectResponse>,
}

impl Inspected {
    /// The id of the container whose network the last of them shares: the next one to look at.
    pub fn next_owner(&self) -> Option<&str> {
        shares(self.owners.last().unwrap_or(&self.container))
    }

    /// The container that has the network at whose address this one is reached.
    ///
    /// An engine joins two when the second one starts. Whatever happens to the first one later, the
    /// second one stays in the network as it was then.
    fn on_the_network(&self) -> Result<&ContainerInspectResponse, String> {
        let mut sharer = &self.container;
        for owner in &self.owners {
            let name = name(owner);
            if !owner.state.as_ref().is_some_and(has_process) {
                return Err(format!(
                    "it shares the network of `{name}`, which is not running; start `{name}`, then restart this container"
                ));
            }
            if started(owner) > started(sharer) {
                return Err(format!(
                    "it shares the network of `{name}`, which has restarted since and has another network; restart this container"
                ));
            }
            sharer = owner;
        }
        match shares(sharer) {
            None => Ok(sharer),
            // A whole id is too long to read.
            Some(owner) => Err(format!(
                "it shares the network of container {:.12}, which is gone; recreate this container",
                owner
            )),
        }
    }
}

/// The id of the container whose network one shares.
fn shares(container: &ContainerInspectResponse) -> Option<&str> {
    mode(container)?.strip_prefix("container:")
}

fn mode(container: &ContainerInspectResponse) -> Option<&str> {
    container.host_config.as_ref()?.network_mode.as_deref()
}

/// Its name; its id where it has none.
fn name(container: &ContainerInspectResponse) -> &str {
    let name = container.name.as_deref().or(container.id.as_deref());
    name.unwrap_or_default().trim_start_matches('/')
}

/// When its process was started, by the engine's clock.
fn started(container: &ContainerInspectResponse) -> SystemTime {
    let text = container
        .state
        .as_ref()
        .and_then(|state| state.started_at.as_deref());
    text.and_then(lifetime::parse_utc)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What a look at a container found.
#[derive(Debug, Clone, PartialEq)]
pub enum ContainerReading {
    /// Nothing that concerns us, or it does not run.
    Nothing,
    /// One of ours, which cannot be registered.
    Faulty {
        name: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// One of ours that runs.
    Running(Box<Container>),
}

/// A container that runs and is to be registered.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub labelled: Labelled,
    /// Where it is reached; `None` for the host's own address.
    pub ip: Option<IpAddr>,
    pub port: u16,
    /// What the engine's own check says: whether it is healthy; `None` where there is no such
    /// check.
    pub healthy: Option<bool>,
    /// Why it is not healthy, on one line and short.
    pub unwell: Option<String>,
    /// When its process was started, by the engine's clock.
    pub started: SystemTime,
    /// The number of the signal that asks it to end.
    pub stop_signal: u32,
    /// How long the engine usually waits before it kills it, where the container says that.
    pub stop_timeout: Option<Duration>,
}

/// Reads what the engine says of a container.
///
/// `prefix` is the key prefix: a container of another Mayfly is registered by that one's registrar.
pub fn read(inspected: &Inspected, reached: &Reached, prefix: &KeySpace) -> ContainerReading {
    let container = &inspected.container;
    let (Some(id), Some(config), Some(state)) = (&container.id, &container.config, &container.state) else {
        return ContainerReading::Nothing;
    };
    let name = name(container).to_owned();
    let labels = config.labels.iter().flatten();
    let labels = labels.map(|(name, text)| (name.as_str(), text.as_str()));
    let image = config.image.as_deref().unwrap_or_default();
    let another = labels::is_of_another(labels.clone(), prefix);
    if another == Ok(true) {
        return ContainerReading::Nothing;
    }
    let labelled = match another.and_then(|_| labels::read(labels, image, &exposed(config))) {
        Ok(None) => return ContainerReading::Nothing,
        _ if !runs(state) => return ContainerReading::Nothing,
        Ok(Some(labelled)) => labelled,
        Err(reason) => return ContainerReading::Faulty { name, reason },
    };
    let place = inspected
        .on_the_network()
        .and_then(|owner| place(owner, reached, labelled.port.into()));
    let (ip, port) = match place {
        Ok(place) => place,
        Err(reason) => return ContainerReading::Faulty { name, reason },
    };
    let seconds = config
        .stop_timeout
        .map(|seconds| u64::try_from(seconds).map_or(MOST_STOP_TIMEOUT, |it| it.min(MOST_STOP_TIMEOUT)));
    ContainerReading::Running(Box::new(Container {
        id: id.clone(),
        name,
        labelled,
        ip,
        port,
        healthy: healthy(state),
        unwell: unwell(state),
        started: started(container),
        stop_signal: config.stop_signal.as_deref().and_then(signal).unwrap_or(TERM),
        stop_timeout: seconds.map(Duration::from_secs),
    }))
}

impl Container {
    /// Whether a signal that the engine sends, by number or name, means the end of it.
    pub fn ends_by(&self, text: &str) -> bool {
        signal(text).is_some_and(|number| number == KILL || number == self.stop_signal)
    }
}

/// Where a port is reached on the network of a container; no address is the host's own.
fn place(
    owner: &ContainerInspectResponse,
    reached: &Reached,
    port: u16,
) -> Result<(Option<IpAddr>, u16), String> {
    let on_the_host_s = mode(owner) == Some("host");
    let settings = owner.network_settings.as_ref();
    match reached {
        Reached::Published { .. } if on_the_host_s => Ok((None, port)),
        Reached::Published { at_loopback } => published(settings, port, *at_loopback),
        _ if on_the_host_s => Err("it is on the network of its host; start container-registrar \
                                   with --published"
            .to_owned()),
        Reached::Directly => only(settings).map(|ip| (Some(ip), port)),
        Reached::Network(network) => on(settings, network).map(|ip| (Some(ip), port)),
    }
}

/// The number of a signal; an engine knows names in any case, with and without `SIG`.
fn signal(text: &str) -> Option<u32> {
    let text = text.to_ascii_uppercase();
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let known = SIGNALS.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, number)| *number)
        .or_else(|| real_time(name))
        .or_else(|| text.parse().ok())
}

/// The number of `RTMIN`, `RTMIN+n`, `RTMAX` or `RTMAX-n`.
fn real_time(name: &str) -> Option<u32> {
    let distance = |text: &str, sign: char| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<u32>().ok(),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.start().checked_add(distance(rest, '+')?),
        (_, Some(rest)) => REAL_TIME.end().checked_sub(distance(rest, '-')?),
        (None, None) => None,
    };
    number.filter(|number| REAL_TIME.contains(number))
}

fn runs(state: &ContainerState) -> bool {
    has_process(state) && state.paused != Some(true)
}

/// Whether it has one, and with it a network. An engine calls what it is about to start again
/// running, too.
fn has_process(state: &ContainerState) -> bool {
    let is = |flag: Option<bool>| flag == Some(true);
    is(state.running) && !is(state.restarting) && !is(state.dead)
}

fn healthy(state: &ContainerState) -> Option<bool> {
    match state.health.as_ref()?.status? {
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
        status => Some(status == HealthStatusEnum::HEALTHY),
    }
}

/// Why the engine's check finds a container unhealthy, with what the check printed last.
fn unwell(state: &ContainerState) -> Option<String> {
    let health = state.health.as_ref()?;
    let status = health.status.filter(|_| healthy(state) == Some(false))?;
    let printed = health.log.iter().flatten().next_back();
    let printed = printed
        .and_then(|result| result.output.as_deref())
        .unwrap_or_default();
    let text = format!("its HEALTHCHECK is {status}: {}", printed.trim());
    Some(failing::reason(text.trim_end_matches(": ")))
}

/// The TCP ports that the container exposes.
fn exposed(config: &ContainerConfig) -> Vec<u16> {
    let ports = config.exposed_ports.iter().flatten();
    let mut tcp: Vec<u16> = ports
        .filter_map(|port| match port.split_once('/') {
            None => port.parse().ok(),
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
        })
        .collect();
    tcp.sort_unstable();
    tcp
}

/// The networks on which it has an address, in the order of their names.
fn networks(settings: Option<&NetworkSettings>) -> BTreeMap<&str, IpAddr> {
    let all = settings.and_then(|settings| settings.networks.as_ref());
    let addressed = all.into_iter().flatten().filter_map(|(name, endpoint)| {
        let texts = [&endpoint.ip_address, &endpoint.global_ipv6_address];
        let mut ips = texts.into_iter().flatten().filter_map(|text| text.parse().ok());
        Some((name.as_str(), ips.next()?))
    });
    addressed.collect()
}

fn only(settings: Option<&NetworkSettings>) -> Result<IpAddr, String> {
    let networks = networks(settings);
    let mut ips = networks.values();
    match (ips.next(), ips.next()) {
        (Some(ip), None) => Ok(*ip),
        (None, _) => Err("it has no address on any network".to_owned()),
        _ => Err(format!(
            "it is on several networks ({}); start container-registrar with --network and one of them",
            names(&networks)
        )),
    }
}

fn on(settings: Option<&NetworkSettings>, network: &str) -> Result<IpAddr, String> {
    let networks = networks(settings);
    networks
        .get(network)
        .copied()
        .ok_or_else(|| match names(&networks) {
            names if names.is_empty() => format!("it has no address on network `{network}` or any other network"),
            names => format!(
                "it has no address on network `{network}`, only on {names}; connect it to `{network}`, or, if it \
                 belongs to another Mayfly, set its label `{}` to the key prefix of that Mayfly",
                labels::OF
            ),
        })
}

fn names(networks: &BTreeMap<&str, IpAddr>) -> String {
    networks.keys().copied().collect::<Vec<_>>().join(", ")
}

/// Where the port is published: on every address of the host, on one that others reach, or on
/// loopback if that is allowed.
fn published(
    settings: Option<&NetworkSettings>,
    port: u16,
    at_loopback: bool,
) -> Result<(Option<IpAddr>, u16), String> {
    let ports = settings.and_then(|settings| settings.ports.as_ref());
    let bindings = ports.and_then(|ports| ports.get(&format!("{port}/tcp"))?.as_ref());
    let places: Vec<(IpAddr, u16)> = bindings
        .into_iter()
        .flatten()
        .filter_map(|binding| {
            let ip = binding
                .host_ip
                .as_deref()
                .filter(|ip| !ip.is_empty())
                .unwrap_or("0.0.0.0");
            Some((ip.parse().ok()?, binding.host_port.as_deref()?.parse().ok()?))
        })
        .collect();
    if let Some((_, at)) = places.iter().find(|(ip, _)| ip.is_unspecified()) {
        return Ok((None, *at));
    }
    let others = places.iter().find(|(ip, _)| only_here(*ip).is_none());
    match others.or(places.first().filter(|(ip, _)| at_loopback && ip.is_loopback())) {
        Some((ip, at)) => Ok((Some(*ip), *at)),
        None if places.is_empty() => Err(format!(
            "its port {port} is not published; publish it when the container is created"
        )),
        None => Err(format!(
            "its port {port} is published on loopback only; publish it on an address that routers \
             reach, or start container-registrar with --host 127.0.0.1 if all routers run on this host"
        )),
    }
}

#[cfg(test)]
mod tests;
