//! A service of a compose file with checked fields. What a definition has no room for is named with
//! its place: a remark, or a reason to keep the service in its compose file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mayfly_core::records::definition::{Argument, Cpus, Instances, Memory, VariableName, Volume};

use super::amounts;
use super::around::ImportCommand;
use super::env_files::entries_of_files;
use super::faults::{ComposeFaults, Spot, SpotMessage};
use super::host_paths::closed;
use super::image::split;
use super::keys::{KeyFate, fate, meant};
use super::nodes::{assignments, text, texts};
use super::ports::{PublishedPort, expose, ports};
use super::project::{RawService, join};
use super::reading::ReadWith;
use super::tree::{ComposeNode, ComposeValue, KeyedNode, find};
use super::variables::Interpolation;
use super::words;

/// A text and its place.
pub(super) type Placed<T> = (T, Spot);

/// A path of the host that a service mounts.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    pub(super) field: String,
    pub(super) spot: Spot,
}

/// A setting, and the variables of the shell or of `.env` that it comes from.
#[derive(Debug)]
struct SettingSource {
    field: String,
    spot: Spot,
    variables: BTreeSet<String>,
}

/// A service of a compose file.
#[derive(Debug, Default)]
pub(super) struct ComposeService {
    pub(super) image: Option<Placed<String>>,
    pub(super) build: Option<Spot>,
    pub(super) ports: Vec<PublishedPort>,
    pub(super) env: BTreeMap<String, Placed<String>>,
    /// The variables of `env` that an `env_file` has set.
    pub(super) of_files: BTreeSet<String>,
    pub(super) command: Option<Placed<Vec<String>>>,
    /// The texts of its health check.
    pub(super) health: Vec<Placed<String>>,
    pub(super) memory: Option<Memory>,
    pub(super) cpus: Option<Cpus>,
    pub(super) instances: Option<Instances>,
    pub(super) volumes: Vec<Volume>,
    /// The paths of the host that it mounts, with their places.
    pub(super) mounts: Vec<Mount>,
    pub(super) labels: BTreeMap<String, Placed<String>>,
    pub(super) profiles: Vec<String>,
    /// Other names by which services call it.
    pub(super) aliases: Vec<String>,
    /// Its networks, as far as it names some.
    pub(super) networks: Vec<String>,
    /// Whether it has a network of its own that it can leave.
    pub(super) network_mode: Option<String>,
    /// Its own servers of names, in the order in which they are asked.
    pub(super) dns: Vec<String>,
    /// The places of its keys.
    pub(super) places: BTreeMap<String, Spot>,
    pub(super) has_replicas: bool,
    pub(super) is_off: bool,
    /// Whether it writes to a volume: it keeps state.
    pub(super) writes: bool,
    /// Keys that a definition goes without.
    pub(super) dropped: Vec<(String, Spot)>,
    pub(super) remarks: Vec<SpotMessage>,
    /// What is said whatever the service is: keys that compose does not know, and calls in files.
    pub(super) always: Vec<SpotMessage>,
    /// Settings that hold the version: a definition has the same for all versions.
    pub(super) frozen: Vec<SpotMessage>,
    /// The variables that its settings come from.
    sources: Vec<SettingSource>,
    /// Why no definition can be written.
    pub(super) keeps: Vec<SpotMessage>,
}

/// Reads the keys of a service.
pub(super) fn service(raw: &RawService, around: &mut ReadWith<'_>) -> ComposeService {
    let mut service = ComposeService::default();
    let field = format!("services.{}", raw.name);
    let dns = find(&raw.keys, "dns").map_or(&[][..], |pair| pair.node.items());
    service.dns = dns
        .iter()
        .filter_map(ComposeNode::text)
        .map(str::to_owned)
        .collect();
    for pair in &raw.keys {
        if super::tree::is_extension(&pair.key) {
            continue;
        }
        let place = format!("{field}.{}", pair.key);
        service.places.insert(pair.key.clone(), pair.spot);
        match fate(&pair.key) {
            KeyFate::Read => key(&mut service, pair, &place, around),
            KeyFate::Dropped => service.dropped.push((pair.key.clone(), pair.spot)),
            // Nothing, or an empty list, asks for nothing.
            KeyFate::Keeps(_)
                if pair.node.items().is_empty() && pair.node.pairs().is_none_or(<[_]>::is_empty) =>
            {
                service.remark(
                    pair.spot,
                    place,
                    "the value is empty, so the definition leaves the key out",
                );
            }
            KeyFate::Keeps(_) if pair.key == "privileged" && pair.node.text() == Some("false") => {
                service.remark(pair.spot, place, "launched containers are never privileged");
            }
            KeyFate::Keeps(why) => service.keep(pair.spot, place, why),
            KeyFate::Unknown => {
                let meant = meant(&pair.key).map_or_else(String::new, |it| format!(": did you mean `{it}`?"));
                let message = format!("the key is not known, so it is ignored{meant}");
                service.always.push(SpotMessage::new(pair.spot, place, message));
            }
        }
    }
    frozen(&mut service, &field, around.interpolation);
    service
}

/// Words in the names of variables that may hold the version.
const VERSIONS: [&str; 4] = ["VERSION", "TAG", "RELEASE", "BUILD"];

/// Notes the settings that change with the tag of the image now, and would not with a version that
/// the launcher starts.
fn frozen(service: &mut ComposeService, field: &str, interpolation: &Interpolation) {
    let Some((image, spot)) = &service.image else {
        return;
    };
    let Some(tag) = split(image).tag else { return };
    let message = format!(
        "the value is the version `{tag}`, but a definition has one value for all versions: let each image set the \
         variable (`ENV` in the Dockerfile), and remove the variable here"
    );
    let mut found = Vec::new();
    if let Some(variables) = interpolation.named.get(spot) {
        let same = service
            .sources
            .iter()
            .filter(|it| !it.variables.is_disjoint(variables));
        found.extend(same.map(|it| SpotMessage::new(it.spot, it.field.as_str(), message.as_str())));
    }
    for (name, (value, spot)) in &service.env {
        let is_version = VERSIONS
            .iter()
            .any(|word| name.to_ascii_uppercase().contains(word));
        let place = format!("{field}.environment.{name}");
        if is_version && value == tag && !found.iter().any(|it| it.field == place) {
            found.push(SpotMessage::new(*spot, place, message.as_str()));
        }
    }
    service.frozen = found;
}

impl ComposeService {
    pub(super) fn remark(&mut self, spot: Spot, field: impl Into<String>, message: impl Into<String>) {
        self.remarks.push(SpotMessage::new(spot, field, message));
    }

    pub(super) fn keep(&mut self, spot: Spot, field: impl Into<String>, message: impl Into<String>) {
        self.keeps.push(SpotMessage::new(spot, field, message));
    }
}

fn key(service: &mut ComposeService, pair: &KeyedNode, place: &str, around: &mut ReadWith<'_>) {
    let node = &pair.node;
    match pair.key.as_str() {
        "image" => {
            service.image = text(node, place, around.faults).map(|text| (text.to_owned(), node.spot));
        }
        "build" => service.build = Some(pair.spot),
        "ports" => ports(
            node,
            place,
            &mut service.ports,
            &mut service.remarks,
            around.faults,
        ),
        "expose" => expose(node, place, &mut service.ports, around.faults),
        "environment" => environment(node, place, service, around),
        "env_file" => env_files(node, place, service, around),
        "command" => {
            let named = &around.interpolation.named;
            let words = node.items().iter().filter_map(|word| named.get(&word.spot));
            let variables: BTreeSet<String> = words.flatten().cloned().collect();
            let (field, spot) = (place.to_owned(), node.spot);
            service.sources.push(SettingSource {
                field,
                spot,
                variables,
            });
            command(node, place, service, around.faults);
        }
        "healthcheck" => health(node, service),
        "volumes" => volumes(node, place, service, around),
        "labels" => labels(node, place, service, around.faults),
        "profiles" => service.profiles = texts(node, place, around.faults),
        "deploy" => deploy(node, place, service),
        "scale" => instances(node, place, service),
        "mem_limit" => memory(node, place, service),
        "cpus" => cpus(node, place, service),
        "networks" => networks(node, service),
        "network_mode" => network_mode(pair, place, service),
        "container_name" | "hostname" => service.aliases.extend(node.text().map(str::to_owned)),
        "links" => {
            for link in node.items().iter().filter_map(ComposeNode::text) {
                if let Some((name, alias)) = link.split_once(':') {
                    let message =
                        format!("only services in your compose file know `{name}` by the name `{alias}`");
                    service.remark(pair.spot, place, message);
                }
            }
        }
        _ => {}
    }
}

fn environment(node: &ComposeNode, place: &str, service: &mut ComposeService, around: &mut ReadWith<'_>) {
    for (pair, value) in assignments(node, place, around.faults) {
        let field = format!("{place}.{}", pair.key);
        let inherited = around.variables.get(&pair.key);
        let variables = match value {
            Some(_) => around.interpolation.named.get(&pair.node.spot).cloned(),
            None => Some(BTreeSet::from([pair.key.clone()])),
        };
        service.sources.extend(variables.map(|variables| SettingSource {
            field: field.clone(),
            spot: pair.spot,
            variables,
        }));
        if value.is_some() || inherited.is_some() {
            service.of_files.remove(&pair.key);
        }
        match (value, inherited) {
            (Some(value), _) => variable(service, &pair.key, value, pair.spot, &field),
            (None, Some(value)) => {
                around.interpolation.used.insert(pair.key.clone());
                variable(service, &pair.key, value, pair.spot, &field);
            }
            (None, None) => {
                let message =
                    "the variable has no value here or in the shell, so the definition leaves it out";
                service.remark(pair.spot, field, message);
            }
        }
    }
}

/// What `env_file` names comes before `environment`, whatever their order is.
fn env_files(node: &ComposeNode, place: &str, service: &mut ComposeService, around: &mut ReadWith<'_>) {
    for (name, (value, spot)) in entries_of_files(node, place, around) {
        let value = value.or_else(|| around.variables.get(&name).cloned());
        // `environment` was read before, or is read after and replaces it.
        if let (false, Some(value)) = (service.env.contains_key(&name), value) {
            variable(service, &name, &value, spot, &format!("{place}: {name}"));
            service.of_files.insert(name);
        }
    }
    service.remark(
        node.spot,
        place,
        "a definition has no such field: the variables of the file become `env`",
    );
}

fn variable(service: &mut ComposeService, name: &str, value: &str, spot: Spot, field: &str) {
    let name_fault = name.parse::<VariableName>().err().map(|fault| fault.to_string());
    // The value may be a secret.
    let value_fault = || {
        let fault = value.parse::<Argument>().err()?;
        Some(format!("the value has to be {}", fault.rule()))
    };
    if let Some(fault) = name_fault.or_else(value_fault) {
        let message = format!("{fault}; so the service stays in your compose file");
        service.keep(spot, field, message);
    }
    service.env.insert(name.to_owned(), (value.to_owned(), spot));
}

fn command(node: &ComposeNode, place: &str, service: &mut ComposeService, faults: &mut ComposeFaults) {
    let arguments = match &node.value {
        ComposeValue::Null => return,
        ComposeValue::Text(text) => match words::split(text) {
            Ok(arguments) => arguments,
            Err(reason) => {
                faults.add(node.spot, place, reason);
                return;
            }
        },
        _ => texts(node, place, faults),
    };
    if arguments.is_empty() {
        return;
    }
    if let Some(fault) = arguments.iter().find_map(|it| it.parse::<Argument>().err()) {
        service.keep(
            node.spot,
            place,
            format!("{fault}; so the service stays in your compose file"),
        );
    }
    service.command = Some((arguments, node.spot));
}

fn health(node: &ComposeNode, service: &mut ComposeService) {
    let is_off = node.get("disable").and_then(ComposeNode::text) == Some("true");
    let Some(test) = node.get("test").filter(|_| !is_off) else {
        return;
    };
    let texts = test
        .items()
        .iter()
        .filter_map(|item| Some((item.text()?.to_owned(), item.spot)));
    service.health = texts.collect();
}

fn volumes(node: &ComposeNode, place: &str, service: &mut ComposeService, around: &mut ReadWith<'_>) {
    for (at, item) in node.items().iter().enumerate() {
        let field = format!("{place}[{at}]");
        let long = |key: &str| item.get(key).and_then(ComposeNode::text);
        let (source, target, is_read_only) = match item.text() {
            Some(text) => short_volume(text),
            None => {
                let is_read_only = long("read_only") == Some("true");
                (
                    long("source").map(str::to_owned),
                    long("target").unwrap_or_default().to_owned(),
                    is_read_only,
                )
            }
        };
        let kind = long("type").unwrap_or("");
        let is_path = source
            .as_deref()
            .is_some_and(|it| it.starts_with(['/', '.', '~']))
            || kind == "bind";
        let source = match source {
            Some(source) if is_path && kind != "tmpfs" => source,
            _ => {
                service.writes |= kind != "tmpfs" && !is_read_only;
                let message = "this is a volume of the engine, and the launcher mounts none, because the data would end with the \
                     container; so the service stays in your compose file";
                service.keep(item.spot, field, message);
                continue;
            }
        };
        if source.starts_with('~') {
            let message = "the path depends on the user who starts compose: write the whole path; until then the service \
                 stays in your compose file";
            service.keep(item.spot, field, message);
            continue;
        }
        let full = join(&around.root.join(around.base(item.spot)), &source);
        if let Some(reason) = closed(&full, around.closed) {
            let message = format!("{reason}; so the service stays in your compose file");
            service.keep(item.spot, field, message);
            continue;
        }
        service.mounts.push(Mount {
            source: full.clone(),
            field: field.clone(),
            spot: item.spot,
        });
        if !is_read_only {
            let message = format!(
                "a launched container may not write to the host, so the service stays in your compose file: if it only \
                 reads `{target}`, add `:ro`, or build the files into the image"
            );
            service.keep(item.spot, field, message);
            continue;
        }
        let target = target.trim_end_matches('/');
        match format!("{}:{target}", full.display()).parse::<Volume>() {
            Ok(volume) => {
                let message = match around.command {
                    ImportCommand::Import => format!(
                        "start the launcher with a --volume-root that contains `{}`",
                        volume.source()
                    ),
                    ImportCommand::Init => format!("MAYFLY_VOLUME_ROOT in .env allows `{}`", volume.source()),
                };
                service.volumes.retain(|it| it.target() != volume.target());
                service.volumes.push(volume);
                service.remark(item.spot, field, message);
            }
            Err(fault) => {
                service.keep(
                    item.spot,
                    field,
                    format!("{fault}; so the service stays in your compose file"),
                );
            }
        }
    }
}

/// The source, the target and whether it is read-only.
fn short_volume(text: &str) -> (Option<String>, String, bool) {
    let parts: Vec<&str> = text.split(':').collect();
    let is_read_only = |modes: &str| modes.split(',').any(|mode| mode == "ro");
    match parts.as_slice() {
        [target] => (None, (*target).to_owned(), false),
        [source, target] => (Some((*source).to_owned()), (*target).to_owned(), false),
        [source, target, modes] => (
            Some((*source).to_owned()),
            (*target).to_owned(),
            is_read_only(modes),
        ),
        _ => (None, text.to_owned(), false),
    }
}

fn labels(node: &ComposeNode, place: &str, service: &mut ComposeService, faults: &mut ComposeFaults) {
    for (pair, value) in assignments(node, place, faults) {
        let value = value.unwrap_or_default().to_owned();
        service.labels.insert(pair.key.clone(), (value, pair.spot));
    }
    if service.labels.keys().any(|name| name.starts_with("traefik.")) {
        let message = "Traefik's labels are not read: the routes of the environment file take their place";
        service.remark(node.spot, place, message);
    }
}

fn deploy(node: &ComposeNode, place: &str, service: &mut ComposeService) {
    for pair in node.pairs().unwrap_or_default() {
        let field = format!("{place}.{}", pair.key);
        match pair.key.as_str() {
            "replicas" => {
                service.has_replicas = true;
                instances(&pair.node, &field, service);
            }
            "resources" => {
                let limits = pair.node.get("limits");
                let limit = |key: &str| limits.and_then(|limits| limits.get(key));
                if let Some(node) = limit("memory") {
                    memory(node, &format!("{field}.limits.memory"), service);
                }
                if let Some(node) = limit("cpus") {
                    cpus(node, &format!("{field}.limits.cpus"), service);
                }
                let reservations = pair.node.get("reservations");
                if let Some(devices) = reservations.and_then(|it| it.get("devices")) {
                    let message = "the launcher gives no device; so the service stays in your compose file";
                    service.keep(devices.spot, format!("{field}.reservations.devices"), message);
                }
            }
            _ => {
                let message = "a definition has no such field: the launcher decides this";
                service.remark(pair.spot, field, message);
            }
        }
    }
}

fn instances(node: &ComposeNode, place: &str, service: &mut ComposeService) {
    let text = node.text().unwrap_or_default();
    if text == "0" {
        service.is_off = true;
        return;
    }
    match text.parse::<Instances>() {
        Ok(instances) => service.instances = Some(instances),
        Err(fault) => service.remark(
            node.spot,
            place,
            format!("{fault}: the definition has one instance"),
        ),
    }
}

fn memory(node: &ComposeNode, place: &str, service: &mut ComposeService) {
    match amounts::memory(node.text().unwrap_or_default()) {
        Ok(memory) => service.memory = Some(memory),
        Err(fault) => {
            service.remark(
                node.spot,
                place,
                format!("{fault}: the definition has the launcher's --memory"),
            );
        }
    }
}

fn cpus(node: &ComposeNode, place: &str, service: &mut ComposeService) {
    match amounts::cpus(node.text().unwrap_or_default()) {
        Ok(cpus) => service.cpus = Some(cpus),
        Err(fault) => {
            service.remark(
                node.spot,
                place,
                format!("{fault}: the definition has the launcher's --cpus"),
            );
        }
    }
}

fn networks(node: &ComposeNode, service: &mut ComposeService) {
    for pair in node.pairs().unwrap_or_default() {
        service.networks.push(pair.key.clone());
        let aliases = pair
            .node
            .get("aliases")
            .map(ComposeNode::items)
            .unwrap_or_default();
        service
            .aliases
            .extend(aliases.iter().filter_map(ComposeNode::text).map(str::to_owned));
    }
}

fn network_mode(pair: &KeyedNode, place: &str, service: &mut ComposeService) {
    let mode = pair.node.text().unwrap_or_default().to_owned();
    if mode != "bridge" {
        let message = format!(
            "`{mode}`: a launched container has a network of its own; so the service stays in your compose file"
        );
        service.keep(pair.spot, place, message);
    }
    service.network_mode = Some(mode);
}
